//! Why there is no answer from S3, or not the one that was hoped for.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};

use crate::platform::jobs::Failure;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not even asked: it has just failed several times in a row.
    #[error("S3 is left alone for a moment")]
    KeptAway,
    /// Not even asked: too many calls are under way.
    #[error("too many calls to S3 at once")]
    Busy,
    /// It failed, or was not heard of in time. Whether it has done what it was asked is not known.
    #[error("S3 is away: {0}")]
    Unavailable(String),
    /// There is no such object.
    #[error("S3 has no such object")]
    NotFound,
    /// The object is not of the size that was asked for, but of this one, in bytes.
    #[error("the object in S3 has {0} bytes")]
    WrongSize(u64),
    /// It does not know the operation: not every likeness of S3 knows all.
    #[error("the S3 server does not know this operation")]
    Unsupported,
    /// It is well and says no: most likely a setting or a right is missing.
    #[error("S3 refused: {0}")]
    Refused(String),
}

impl Error {
    /// Whether it says that the server is in trouble.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Error
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let status = error.raw_response().map(|response| response.status().as_u16());
        match (&error, status) {
            (SdkError::ServiceError(_), Some(404)) => Self::NotFound,
            (SdkError::ServiceError(_), Some(501)) => Self::Unsupported,
            // 408 and 429 ask for patience, 409 is a conflict with another call on the object.
            (SdkError::ServiceError(_), Some(400..=407 | 410..=428 | 430..=499))
            | (SdkError::ConstructionFailure(_), _) => {
                Self::Refused(DisplayErrorContext(&error).to_string())
            }
            _ => Self::Unavailable(DisplayErrorContext(&error).to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::KeptAway | Error::Busy => Self::postpone_while_kept_away(),
            error => Self::retry(error),
        }
    }
}
