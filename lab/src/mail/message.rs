//! A message that was kept.

use std::fmt;
use std::path::Path;

use crate::error::{Context, Result};

/// As it was sent, headers first.
#[derive(Clone, Debug)]
pub struct Message(String);

impl Message {
    pub(super) fn read(path: &Path) -> Result<Self> {
        std::fs::read_to_string(path).map(Self).cannot(|| format!("read {}", path.display()))
    }

    /// A header, or an empty text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let head = self.0.lines().take_while(|line| !line.is_empty());
        let mut fields = head.filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.trim())
    }

    /// The text, decoded if it is quoted-printable (RFC 2045).
    #[must_use]
    pub fn text(&self) -> String {
        let body = self.0.split_once("\n\n").map_or("", |(_, body)| body);
        if self.header("Content-Transfer-Encoding").eq_ignore_ascii_case("quoted-printable") {
            decode(body)
        } else {
            body.to_owned()
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in ["Date", "From", "To", "Subject", "Message-ID"] {
            writeln!(formatter, "{name}: {}", self.header(name))?;
        }
        write!(formatter, "\n{}", self.text())
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        bytes.extend_from_slice(before.as_bytes());
        rest = after;
        // A soft line break, or the two digits of a byte.
        if let Some(next) = after.strip_prefix('\n') {
            rest = next;
        } else if let Some(byte) = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn a_message_can_be_read_by_people() {
        let message = Message(
            "To: ada@shoal.test\nContent-Transfer-Encoding: quoted-printable\n\n\
             Caf=C3=A9: a long =\nline\n"
                .to_owned(),
        );
        assert_eq!(message.header("to"), "ada@shoal.test");
        assert_eq!(message.header("cc"), "");
        assert_eq!(message.text(), "Café: a long line\n");
    }
}
