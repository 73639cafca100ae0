//! The segments of a JPEG (ITU T.81, annex B).

use super::{Dimensions, Layout, Refusal, array, markup};

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

/// Each picture of the file. Cameras append further ones, such as a gain map or a preview (CIPA
/// DC-007), and sometimes zeros; anything else after the end is refused. The first is the one
/// that counts.
pub(super) fn walk(bytes: &[u8]) -> Result<Layout, Refusal> {
    let (first, mut end) = picture(bytes, 0)?;
    loop {
        let rest = &bytes[end..];
        let Some(next) = rest.iter().position(|byte| *byte != 0) else {
            return Ok(first);
        };
        if !rest[next..].starts_with(&[0xff, SOI, 0xff]) {
            return Err(Refusal::TrailingBytes);
        }
        end = picture(bytes, end + next)?.1;
    }
}

/// The picture that begins at `at`, and where it ends.
fn picture(bytes: &[u8], at: usize) -> Result<(Layout, usize), Refusal> {
    const INCOMPLETE: Refusal = Refusal::Damaged("it ends before its picture does");
    let mut layout = None;
    let mut has_scan = false;
    let mut at = at + 2;
    loop {
        let (marker, data) = marker(bytes, at).ok_or(INCOMPLETE)?;
        at = data;
        match marker {
            EOI if has_scan => {
                return Ok((layout.ok_or(Refusal::Damaged("it has no header"))?, at));
            }
            EOI => return Err(Refusal::Damaged("it has no pixels")),
            // Markers without a segment; they only stand between scans.
            0x01 | 0xd0..=0xd7 => continue,
            SOI => return Err(Refusal::Damaged("it begins twice")),
            _ => {}
        }
        let segment = segment(bytes, at).ok_or(INCOMPLETE)?;
        at += 2 + segment.len();
        match marker {
            // Frame headers, of which there are many kinds; three numbers in between are others.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let before = layout.replace(frame(marker, segment)?);
                if before.is_some() {
                    return Err(Refusal::Damaged("it has two headers"));
                }
            }
            SOS => {
                has_scan = true;
                at = end_of_scan(bytes, at);
            }
            // Application data and comments.
            0xe0..=0xef | 0xfe => markup::refuse(segment)?,
            _ => {}
        }
    }
}

/// The marker at `at`, which any number of 0xff may precede, and where it ends.
fn marker(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let rest = bytes.get(at..)?.strip_prefix(&[0xff])?;
    let fill = rest.iter().position(|byte| *byte != 0xff)?;
    Some((rest[fill], at + 1 + fill + 1))
}

/// The content of a segment, whose length counts itself.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(array(bytes, at)?));
    bytes.get(at + 2..at + length)
}

/// Where the next marker is that does not belong to the scan's data, or the end of the file.
fn end_of_scan(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == 0xff) {
        at += found;
        match bytes.get(at + 1) {
            // A byte of the data, or a mark to begin anew from.
            Some(0x00 | 0xd0..=0xd7) => at += 2,
            Some(0xff) => at += 1,
            _ => return at,
        }
    }
    bytes.len()
}

fn frame(marker: u8, segment: &[u8]) -> Result<Layout, Refusal> {
    let [_, h0, h1, w0, w1, components, ..] = *segment else {
        return Err(Refusal::Damaged("its header is too short"));
    };
    let (width, height) = (u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1]));
    let dimensions = Dimensions::new(width.into(), height.into())?;
    // A decoder writes three samples a pixel. One of a progressive picture keeps all its
    // coefficients besides, of two bytes each.
    let is_progressive = !matches!(marker, 0xc0 | 0xc1);
    let kept = if is_progressive { 2 * u64::from(components) } else { 0 };
    Layout::new(dimensions, 3 + kept)
}
