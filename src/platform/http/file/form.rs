//! A form with one file in it (RFC 7578).

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::Stream;
use multer::{Field, Multipart};

use super::{incomplete, pace::Pace};
use crate::platform::http::error::ApiError;

/// Bytes around the file of a form: its delimiters and the heads of its parts.
pub(super) const MAX_AROUND: u64 = 16 * 1024;

pub(super) struct Form {
    form: Multipart<'static>,
    /// Until it has ended: the form gives no other as long as it is there.
    field: Option<Field<'static>>,
    content_type: String,
}

impl Form {
    /// Reads up to where the file begins.
    ///
    /// # Errors
    /// 400 for what is no form, 408, 422 for an empty one.
    pub(super) async fn begin(
        content_type: &str,
        body: Body,
        pace: &mut Pace,
    ) -> Result<Self, ApiError> {
        let boundary = multer::parse_boundary(content_type).map_err(|_| {
            ApiError::bad_request("malformed_form", "`Content-Type` names no `boundary`.")
        })?;
        let mut form = Multipart::new(OneByOne::new(body.into_data_stream()), boundary);
        let field = pace.wait(form.next_field()).await?.map_err(broken)?;
        let field = field.ok_or_else(not_one_file)?;
        let content_type = field.content_type().map(|found| found.essence_str().to_owned());
        Ok(Self { form, field: Some(field), content_type: content_type.unwrap_or_default() })
    }

    /// What the part's own head says.
    pub(super) fn content_type(&self) -> &str {
        &self.content_type
    }

    /// # Errors
    /// 400 when it breaks off, 408, 422 when something follows the file.
    pub(super) async fn next(&mut self, pace: &mut Pace) -> Result<Option<Bytes>, ApiError> {
        if let Some(field) = &mut self.field
            && let Some(frame) = pace.wait(field.chunk()).await?.map_err(broken)?
        {
            return Ok(Some(frame));
        }
        self.field = None;
        match pace.wait(self.form.next_field()).await?.map_err(broken)? {
            None => Ok(None),
            Some(_) => Err(not_one_file()),
        }
    }
}

fn broken(error: multer::Error) -> ApiError {
    match error {
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteStream
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteFieldData { .. } => incomplete(),
        error => ApiError::bad_request("malformed_form", format!("The form is broken: {error}.")),
    }
}

fn not_one_file() -> ApiError {
    ApiError::invalid("", "invalid", "must be a form of one part, the file")
}

/// Gives one frame each time that it is asked. The parser of forms takes whatever is there before
/// it looks at any of it, and would hold all of a file that comes quickly.
struct OneByOne {
    body: BodyDataStream,
    has_given: bool,
}

impl OneByOne {
    fn new(body: BodyDataStream) -> Self {
        Self { body, has_given: false }
    }
}

impl Stream for OneByOne {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.has_given) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.body).poll_next(context);
        self.has_given = matches!(polled, Poll::Ready(Some(_)));
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use futures::{StreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn a_form_that_is_all_there_is_taken_frame_by_frame() {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = taken.clone();
        let head = "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n";
        let frames = std::iter::once(Bytes::from_static(head.as_bytes()))
            .chain(std::iter::repeat_n(Bytes::from_static(&[b'a'; 1_000]), 1_000))
            .chain([Bytes::from_static(b"\r\n--x--\r\n")]);
        let frames = stream::iter(frames).inspect(move |_| {
            counted.fetch_add(1, Relaxed);
        });
        let body = Body::from_stream(frames.map(Ok::<_, axum::Error>));
        let mut pace = Pace::unbounded();
        let mut form = Form::begin("multipart/form-data; boundary=x", body, &mut pace).await;
        let form = form.as_mut().unwrap();
        let mut received = 0;
        while let Some(frame) = form.next(&mut pace).await.unwrap() {
            let held = taken.load(Relaxed) - received / 1_000;
            assert!(held <= 3, "the parser holds {held} frames");
            received += frame.len();
        }
        assert_eq!(received, 1_000_000);
    }
}
