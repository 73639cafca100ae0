//! Bodies that are files: taken frame by frame, raw or as the one file of a form, and given up
//! when they come too slowly.

mod form;
mod pace;

use axum::{
    body::{Body, BodyDataStream},
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{StatusCode, header};
use serde::de::DeserializeOwned;

use self::{form::Form, pace::Pace};
use super::{error::ApiError, json};

/// A file that comes with the request, or a word, in JSON, about one that is there already.
pub enum FileOr<T> {
    File(FileBody),
    Named(T),
}

/// A file on its way.
pub struct FileBody {
    source: Source,
    pace: Pace,
    content_type: String,
    announced: Option<u64>,
}

enum Source {
    Raw(BodyDataStream),
    // Large, compared to the other.
    Form(Box<Form>),
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for FileOr<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        let announced = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        match essence.as_str() {
            "application/json" => {
                let bytes = json::read(&parts, body).await?;
                Ok(Self::Named(json::parse(&bytes)?))
            }
            "multipart/form-data" => {
                let mut pace = Pace::of(&parts);
                let form = Form::begin(content_type, body, &mut pace).await?;
                let content_type = form.content_type().to_owned();
                let source = Source::Form(Box::new(form));
                Ok(Self::File(FileBody { source, pace, content_type, announced }))
            }
            _ => {
                let source = Source::Raw(Body::into_data_stream(body));
                let pace = Pace::of(&parts);
                Ok(Self::File(FileBody { source, pace, content_type: essence, announced }))
            }
        }
    }
}

impl FileBody {
    /// What the client calls it; empty if it does not.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// As many bytes come at most, if that is known. Those of a form count as well.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Whether that is more than `max` bytes of file can explain.
    pub fn is_surely_above(&self, max: u64) -> bool {
        let around = match self.source {
            Source::Raw(_) => 0,
            Source::Form(_) => form::MAX_AROUND,
        };
        self.announced.is_some_and(|announced| announced > max + around)
    }

    /// The file, frame by frame.
    ///
    /// # Errors
    /// 400 when it breaks off, 408 when it comes too slowly, 422 for a form with more in it.
    pub fn into_frames(self) -> impl Stream<Item = Result<Bytes, ApiError>> + Send {
        stream::try_unfold(self, async |mut body| {
            let frame = match &mut body.source {
                Source::Raw(raw) => match body.pace.wait(raw.next()).await? {
                    None => None,
                    Some(Ok(frame)) => Some(frame),
                    Some(Err(_)) => return Err(incomplete()),
                },
                Source::Form(form) => form.next(&mut body.pace).await?,
            };
            if let Some(frame) = &frame {
                body.pace.received(frame.len());
            }
            Ok(frame.map(|frame| (frame, body)))
        })
    }
}

fn incomplete() -> ApiError {
    ApiError::bad_request("incomplete_body", "The body ended before it was complete.")
}

/// 413 for a file of more than `max` bytes.
pub fn too_large(max: u64) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "file_too_large",
        format!("A file may have {max} bytes."),
    )
}
