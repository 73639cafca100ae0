//! Bytes as a literal of SQL.

use std::fmt::{self, Display, Formatter, Write};

/// Written as hexadecimal digits, so that nothing in them can end the literal.
pub struct Bytea<'a>(pub &'a [u8]);

impl Display for Bytea<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        formatter.write_str("'\\x")?;
        for chunk in self.0.chunks(64) {
            let mut digits = [0; 128];
            for (pair, byte) in digits.chunks_exact_mut(2).zip(chunk) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
            let digits = str::from_utf8(&digits[..2 * chunk.len()]).map_err(|_| fmt::Error)?;
            formatter.write_str(digits)?;
        }
        formatter.write_char('\'')
    }
}

#[cfg(test)]
mod tests {
    use super::Bytea;

    #[test]
    fn nothing_ends_the_literal() {
        assert_eq!(Bytea(b"';\n\0").to_string(), r"'\x273b0a00'");
    }
}
