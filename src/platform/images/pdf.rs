//! The ends of a PDF (ISO 32000-2, 7.5). Its inside is not looked at: it may hold scripts of its
//! own kind, which is for the program of whoever opens it to judge.

use super::Refusal;

const END: &[u8] = b"%%EOF";

/// That it ends with its end mark, save for white space: what follows is where a second file
/// hides, and what lacks the mark was cut off.
pub(super) fn walk(bytes: &[u8]) -> Result<(), Refusal> {
    let text = bytes.trim_ascii_end();
    if text.ends_with(END) {
        return Ok(());
    }
    let has_end = text.windows(END.len()).any(|window| window == END);
    Err(if has_end { Refusal::TrailingBytes } else { Refusal::Damaged("it has no end mark") })
}
