//! Why a file is not kept, in words for whoever sent it.

use super::{FileType, MAX_PIXELS};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("The file is none of PNG, JPEG, WebP and PDF.")]
    UnknownType,
    #[error("The file is `{found}`, though it was announced as `{expected}`.")]
    OtherType { expected: FileType, found: FileType },
    #[error("The file holds markup that a browser could take for a page.")]
    Markup,
    #[error("The file goes on after its end.")]
    TrailingBytes,
    #[error("The file is damaged or not complete: {0}.")]
    Damaged(&'static str),
    #[error(
        "The picture has {width} × {height} pixels; it may have {} million, and fewer in formats \
         that take more memory.",
        MAX_PIXELS / 1_000_000
    )]
    TooManyPixels { width: u32, height: u32 },
}

impl Refusal {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownType => "file_type_unknown",
            Self::OtherType { .. } => "file_type_mismatch",
            Self::Markup => "file_holds_markup",
            Self::TrailingBytes => "file_has_trailing_bytes",
            Self::Damaged(_) => "file_damaged",
            Self::TooManyPixels { .. } => "too_many_pixels",
        }
    }
}
