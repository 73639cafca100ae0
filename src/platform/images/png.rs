//! The chunks of a PNG (W3C PNG, third edition, 5).

use super::{Dimensions, Layout, Refusal, array, markup};

const SIGNATURE: usize = 8;
/// Length, type and checksum around a chunk's data.
const AROUND: usize = 12;

/// Each chunk up to `IEND`, which ends the file.
pub(super) fn walk(bytes: &[u8]) -> Result<Layout, Refusal> {
    let mut layout = None;
    let mut at = SIGNATURE;
    loop {
        let (kind, data) = chunk(bytes, at).ok_or(Refusal::Damaged("it ends within a chunk"))?;
        at += AROUND + data.len();
        match (&kind, layout) {
            (b"IHDR", None) => layout = Some(header(data)?),
            (_, None) | (b"IHDR", Some(_)) => {
                return Err(Refusal::Damaged("its header is not where it should be"));
            }
            (b"IEND", Some(_)) if at < bytes.len() => return Err(Refusal::TrailingBytes),
            (b"IEND", Some(layout)) => return Ok(layout),
            // Pixels; whatever else there is may be text.
            (b"IDAT" | b"fdAT" | b"PLTE", _) => {}
            _ => markup::refuse(data)?,
        }
    }
}

fn chunk(bytes: &[u8], at: usize) -> Option<([u8; 4], &[u8])> {
    let length = u32::from_be_bytes(array(bytes, at)?) as usize;
    let data = at + 8;
    // The checksum has to be there as well; the decoder compares it.
    array::<4>(bytes, data.checked_add(length)?)?;
    Some((array(bytes, at + 4)?, &bytes[data..data + length]))
}

fn header(data: &[u8]) -> Result<Layout, Refusal> {
    let [w0, w1, w2, w3, h0, h1, h2, h3, depth, color, _, _, _] = *data else {
        return Err(Refusal::Damaged("its header is of another length"));
    };
    let (width, height) = ([w0, w1, w2, w3], [h0, h1, h2, h3]);
    let dimensions = Dimensions::new(u32::from_be_bytes(width), u32::from_be_bytes(height))?;
    // Samples after a palette is looked up and a transparent colour has become a channel.
    let samples = match color {
        0 | 4 => 2,
        2 | 3 | 6 => 4,
        _ => return Err(Refusal::Damaged("its colours are of no known kind")),
    };
    Layout::new(dimensions, samples * if depth > 8 { 2 } else { 1 })
}
