//! Finds markup where a browser, or a reader that guesses, would come across it.

use super::Refusal;

/// As far as browsers look when they guess a type (WHATWG MIME Sniffing, 5).
const SNIFFED_BYTES: usize = 1445;

/// How pages and scripts begin, in lower case, after `<`. Long enough not to turn up by chance in
/// compressed data; `<a` and the like would, and make no page by themselves.
const BEGINNINGS: [&[u8]; 16] = [
    b"!doctype",
    b"?php",
    b"applet",
    b"body",
    b"embed",
    b"form",
    b"head",
    b"html",
    b"iframe",
    b"link",
    b"meta",
    b"object",
    b"script",
    b"style",
    b"svg",
    b"title",
];

/// # Errors
/// Markup within the bytes by which types are guessed.
pub(super) fn refuse_at_the_beginning(bytes: &[u8]) -> Result<(), Refusal> {
    refuse(&bytes[..bytes.len().min(SNIFFED_BYTES)])
}

/// # Errors
/// Markup anywhere in `text`, which a format carries besides its pixels.
pub(super) fn refuse(text: &[u8]) -> Result<(), Refusal> {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        rest = &rest[at + 1..];
        if BEGINNINGS.iter().any(|beginning| begins(rest, beginning)) {
            return Err(Refusal::Markup);
        }
    }
    Ok(())
}

/// Whether the name of a tag ends there as well: XMP, which cameras write, has longer ones.
fn begins(rest: &[u8], name: &[u8]) -> bool {
    rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        && rest.get(name.len()).is_none_or(|after| !after.is_ascii_alphanumeric() && *after != b':')
}
