//! Decoding, within bounds.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{FileType, Layout, Refusal};

/// What a decoder needs besides its pixels: tables, and a row or two.
const OVERHEAD_BYTES: u64 = 4 * 1024 * 1024;

const UNDECODABLE: Refusal = Refusal::Damaged("its pixels cannot be decoded");

/// Decodes a picture and forgets it.
pub(super) fn check(bytes: &[u8], kind: FileType, layout: Layout) -> Result<(), Refusal> {
    match kind {
        FileType::Png => without_panic(|| rows(bytes)),
        _ => picture(bytes, kind, layout).map(drop),
    }
}

/// The pixels, upright: the orientation that a camera noted is applied. Nothing else of what
/// comes with them is kept.
pub(super) fn picture(
    bytes: &[u8],
    kind: FileType,
    layout: Layout,
) -> Result<DynamicImage, Refusal> {
    let format = match kind {
        FileType::Png => ImageFormat::Png,
        FileType::Jpeg => ImageFormat::Jpeg,
        FileType::Webp => ImageFormat::WebP,
        FileType::Pdf => return Err(Refusal::Damaged("it has no pixels")),
    };
    without_panic(|| {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        let mut limits = Limits::default();
        limits.max_image_width = Some(layout.dimensions.width);
        limits.max_image_height = Some(layout.dimensions.height);
        limits.max_alloc = Some(layout.decoder_bytes + OVERHEAD_BYTES);
        reader.limits(limits.clone());
        let mut decoder = reader.into_decoder().map_err(|_| UNDECODABLE)?;
        decoder.set_limits(limits).map_err(|_| UNDECODABLE)?;
        let orientation = decoder.orientation().map_err(|_| UNDECODABLE)?;
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|_| UNDECODABLE)?;
        picture.apply_orientation(orientation);
        Ok(picture)
    })
}

/// A PNG row by row, so that most pictures are checked in the memory of two rows. Checksums are
/// compared on the way; texts, which may be compressed bombs, are left alone.
fn rows(bytes: &[u8]) -> Result<(), Refusal> {
    let limits = png::Limits { bytes: OVERHEAD_BYTES as usize };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|_| UNDECODABLE)?;
    while reader.next_row().map_err(|_| UNDECODABLE)?.is_some() {}
    reader.finish().map_err(|_| UNDECODABLE)
}

/// Decoders are large, and what they read was made by strangers: should one of them panic, the
/// file is refused rather than the request lost.
fn without_panic<T>(decode: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        tracing::error!("a decoder panicked");
        Err(UNDECODABLE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_refusal() {
        let refused = without_panic(|| -> Result<(), Refusal> { panic!("as a decoder would") });
        assert_eq!(refused, Err(UNDECODABLE));
    }
}
