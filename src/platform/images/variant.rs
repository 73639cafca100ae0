//! Smaller copies of pictures, for pages to show.

use image::{DynamicImage, imageops::FilterType};

use super::{FileType, Refusal, decode, walk};

/// Of WebP, from 0 to 100: where photographs begin to look the same as the original.
const QUALITY: f32 = 80.0;

/// How much larger than wanted a picture is made at first, by averages, which takes no memory to
/// speak of; the rest of the way goes by a filter that keeps edges sharp.
const FIRST_STEP: u32 = 2;

/// A WebP of the picture, no wider or higher than `edge` pixels, in its proportions, upright, and
/// without anything that came along with the pixels. Never larger than the picture itself. Lossy.
///
/// # Errors
/// What is no whole picture: see [`super::check`].
pub fn variant(bytes: &[u8], edge: u32) -> Result<Vec<u8>, Refusal> {
    let kind = FileType::sniff(bytes).ok_or(Refusal::UnknownType)?;
    let layout = walk(bytes, kind)?.ok_or(Refusal::Damaged("it has no pixels"))?;
    let picture = shrunk(decode::picture(bytes, kind, layout)?, edge);
    let (width, height) = (picture.width(), picture.height());
    let encoded = if picture.color().has_alpha() {
        let pixels = picture.into_rgba8();
        webp::Encoder::from_rgba(&pixels, width, height).encode_simple(false, QUALITY)
    } else {
        let pixels = picture.into_rgb8();
        webp::Encoder::from_rgb(&pixels, width, height).encode_simple(false, QUALITY)
    };
    Ok(encoded.map_err(|_| Refusal::Damaged("its pixels cannot be encoded"))?.to_vec())
}

fn shrunk(picture: DynamicImage, edge: u32) -> DynamicImage {
    let longest = picture.width().max(picture.height());
    if longest <= edge {
        return picture;
    }
    let first = edge.saturating_mul(FIRST_STEP);
    let picture = if longest > first { picture.thumbnail(first, first) } else { picture };
    picture.resize(edge, edge, FilterType::CatmullRom)
}
