//! The chunks of a WebP (RFC 9649).

use super::{Dimensions, Layout, Refusal, array, markup};

/// `RIFF`, the length of what follows, `WEBP`.
const HEAD: usize = 12;

/// Each chunk up to the end of the file, which the head announced.
pub(super) fn walk(bytes: &[u8]) -> Result<Layout, Refusal> {
    const INCOMPLETE: Refusal = Refusal::Damaged("it ends within a chunk");
    let length = u32::from_le_bytes(array(bytes, 4).ok_or(INCOMPLETE)?) as usize;
    match length.saturating_add(8).cmp(&bytes.len()) {
        std::cmp::Ordering::Less => return Err(Refusal::TrailingBytes),
        std::cmp::Ordering::Greater => return Err(INCOMPLETE),
        std::cmp::Ordering::Equal => {}
    }
    let mut layout = None;
    let mut at = HEAD;
    while at < bytes.len() {
        let kind: [u8; 4] = array(bytes, at).ok_or(INCOMPLETE)?;
        let length = u32::from_le_bytes(array(bytes, at + 4).ok_or(INCOMPLETE)?) as usize;
        let data = bytes.get(at + 8..).and_then(|rest| rest.get(..length)).ok_or(INCOMPLETE)?;
        // Chunks begin at even places; a missing last byte of padding is forgiven by all.
        at += 8 + length + length % 2;
        let found = match &kind {
            b"VP8 " => Some(lossy(data)),
            b"VP8L" => Some(lossless(data)),
            b"VP8X" => Some(extended(data)),
            // Pixels, or frames of them.
            b"ALPH" | b"ANMF" => None,
            _ => {
                markup::refuse(data)?;
                None
            }
        };
        // Of an extended file the first chunk says how large it is; the decoder compares.
        if let (None, Some(found)) = (&layout, found) {
            let (width, height) = found.ok_or(Refusal::Damaged("its header is too short"))?;
            layout = Some(Dimensions::new(width, height)?);
        }
    }
    let dimensions = layout.ok_or(Refusal::Damaged("it has no header"))?;
    // Four bytes a pixel for the answer, and planes or a frame of them besides.
    Layout::new(dimensions, 8)
}

/// RFC 6386, 9.1: three bytes of tag, a start code, then 14 bits each.
fn lossy(data: &[u8]) -> Option<(u32, u32)> {
    let side = |at| Some(u32::from(u16::from_le_bytes(array(data, at)?) & 0x3fff));
    Some((side(6)?, side(8)?))
}

/// RFC 9649, 3.4: a signature byte, then 14 bits each, less one.
fn lossless(data: &[u8]) -> Option<(u32, u32)> {
    let bits = u32::from_le_bytes(array(data, 1)?);
    Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
}

/// RFC 9649, 2.7: flags, then 24 bits each, less one.
fn extended(data: &[u8]) -> Option<(u32, u32)> {
    let side = |at| {
        let [low, middle, high] = array(data, at)?;
        Some(u32::from_le_bytes([low, middle, high, 0]) + 1)
    };
    Some((side(4)?, side(7)?))
}
