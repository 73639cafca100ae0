//! Files that strangers send: what they are by their bytes, whether they are whole, and pictures
//! made smaller. Pure functions over bytes, which know neither HTTP nor S3. All of them but
//! [`FileType::sniff`] take time by the size of the file: call them off the async threads, a few
//! at a time.
//!
//! # What is accepted, and why that is safe to serve
//! - A file is what its first bytes say; nothing that a client claims about it counts.
//! - Its structure is walked from the first byte to the last (`png`, `jpeg`, `webp`, `pdf`): what
//!   comes before the beginning or after the end is refused, which is where a second file hides.
//! - No markup that a browser would take for a page stands in its first bytes, where browsers
//!   look, or in the texts that a format lets one add (`markup`).
//! - A picture's size is read from its header and bounded before anything is decoded, and all of
//!   it has to decode (`decode`).
//!
//! None of this can prove that pixels do not happen to spell a script. So a stored file is only
//! ever served with the type found here, as an attachment, with `nosniff` and from another origin;
//! and what pages show are variants ([`variant`]), which are made of nothing but pixels.

mod decode;
mod file_type;
mod jpeg;
mod markup;
mod pdf;
mod png;
mod refusal;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
mod variant;
mod webp;

pub use self::{
    file_type::{FileType, SNIFFED_BYTES},
    refusal::Refusal,
    variant::variant,
};

/// Wide and high, in pixels, as stored: an orientation is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    pub width: u32,
    pub height: u32,
}

impl Dimensions {
    /// # Errors
    /// No pixels, which no picture has, or more than [`MAX_PIXELS`].
    fn new(width: u32, height: u32) -> Result<Self, Refusal> {
        match u64::from(width) * u64::from(height) {
            0 => Err(Refusal::Damaged("it has no pixels")),
            pixels if pixels > MAX_PIXELS => Err(Refusal::TooManyPixels { width, height }),
            _ => Ok(Self { width, height }),
        }
    }

    fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// Pixels of a picture: more than most cameras have, and 120 MB once decoded.
pub const MAX_PIXELS: u64 = 40_000_000;

/// Bytes that a decoder may take for one picture, over and above the file itself. The largest
/// JPEG fits; of what takes more bytes per pixel, fewer pixels do.
pub const MAX_DECODER_BYTES: u64 = 256 * 1024 * 1024;

/// Looks at a whole file, and decodes it if it is a picture.
///
/// # Errors
/// Whatever makes it unfit to be kept, to be shown to whoever sent it.
pub fn check(bytes: &[u8], expected: FileType) -> Result<Option<Dimensions>, Refusal> {
    let layout = walk(bytes, expected)?;
    if let Some(layout) = layout {
        decode::check(bytes, expected, layout)?;
    }
    Ok(layout.map(|layout| layout.dimensions))
}

/// The size of a picture, without decoding it. `None` for what has no pixels.
///
/// # Errors
/// As of [`check`], save for what only decoding tells.
pub fn dimensions(bytes: &[u8], expected: FileType) -> Result<Option<Dimensions>, Refusal> {
    Ok(walk(bytes, expected)?.map(|layout| layout.dimensions))
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy)]
struct Layout {
    dimensions: Dimensions,
    /// What decoding all of it takes, in bytes.
    decoder_bytes: u64,
}

impl Layout {
    /// # Errors
    /// It would take more memory than a decoder may.
    fn new(dimensions: Dimensions, bytes_per_pixel: u64) -> Result<Self, Refusal> {
        let decoder_bytes = dimensions.pixels() * bytes_per_pixel;
        if decoder_bytes > MAX_DECODER_BYTES {
            let Dimensions { width, height } = dimensions;
            return Err(Refusal::TooManyPixels { width, height });
        }
        Ok(Self { dimensions, decoder_bytes })
    }
}

/// Walks the structure of a file to its very end.
fn walk(bytes: &[u8], expected: FileType) -> Result<Option<Layout>, Refusal> {
    let found = FileType::sniff(bytes).ok_or(Refusal::UnknownType)?;
    if found != expected {
        return Err(Refusal::OtherType { expected, found });
    }
    markup::refuse_at_the_beginning(bytes)?;
    match expected {
        FileType::Png => png::walk(bytes).map(Some),
        FileType::Jpeg => jpeg::walk(bytes).map(Some),
        FileType::Webp => webp::walk(bytes).map(Some),
        FileType::Pdf => pdf::walk(bytes).map(|()| None),
    }
}

/// `N` bytes at `at`, if they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
