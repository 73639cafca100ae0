//! A text with bounds, so that no handler has to remember them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 1 to `MAX` characters, no control characters other than line breaks and tabs, and above all
/// no NUL, which Postgres refuses. White space around it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    pub fn into_inner(self) -> String {
        self.0
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = String;

    fn try_from(value: String) -> Result<Self, String> {
        let trimmed = value.trim();
        let characters = trimmed.chars().count();
        if characters == 0 || characters > MAX {
            return Err(format!("must have 1 to {MAX} characters, has {characters}"));
        }
        if trimmed.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err("must not contain control characters".to_owned());
        }
        Ok(Self(if trimmed.len() == value.len() { value } else { trimmed.to_owned() }))
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<const MAX: usize> utoipa::PartialSchema for Text<MAX> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .min_length(Some(1))
            .max_length(Some(MAX))
            .into()
    }
}

impl<const MAX: usize> utoipa::ToSchema for Text<MAX> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_cleans() {
        let parse = |text: &str| Text::<5>::try_from(text.to_owned());
        assert_eq!(parse("  abc ").unwrap().as_str(), "abc");
        assert_eq!(parse("äöüßé").unwrap().as_str(), "äöüßé");
        for bad in ["", "   ", "abcdef", "a\0b", "a\u{1b}b"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
