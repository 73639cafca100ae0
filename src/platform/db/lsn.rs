//! Positions in Postgres' write-ahead log.

use std::{fmt, str::FromStr};

/// A log sequence number: how far a log was written, replayed or has to be. Only comparable
/// within one cluster of a primary and its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// As Redis keeps it: 16 hexadecimal digits, which compare as text, since the numbers of Lua
    /// are too small.
    pub fn sortable(self) -> String {
        format!("{:016x}", self.0)
    }

    /// Reads what [`Lsn::sortable`] wrote.
    pub fn from_sortable(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Lsn {
    /// As Postgres writes it: two halves in hexadecimal.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let half = |hex| u32::from_str_radix(hex, 16).ok().map(u64::from);
            Some(Self(half(high)? << 32 | half(low)?))
        };
        parse().ok_or("not a log sequence number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_postgres_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!(lsn < "17/0".parse().unwrap());
        assert_eq!(Lsn::from_sortable(&lsn.sortable()), Some(lsn));
        assert!(Lsn(9).sortable() < Lsn(16).sortable());
        for bad in ["", "16", "16/", "/1", "1/100000000", "x/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
