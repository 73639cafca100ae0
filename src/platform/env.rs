//! Reads settings from the environment through a look-up, so that every mistake is reported
//! in one go and tests need no process-wide variables.
//!
//! Each setting is declared once, at the place that reads it: name, default and meaning. The
//! same declaration feeds the parser, `.env.example` and the check for misspelt names.

use std::{fmt::Write as _, ops::RangeInclusive, str::FromStr, time::Duration};

use secrecy::SecretString;

/// Where a value comes from: the process environment, or a closure in tests.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One declared setting, as `.env.example` lists it.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: &'static str,
    /// `None` for a setting that has no default.
    pub default: Option<String>,
    pub required: bool,
    pub meaning: &'static str,
}

/// Collects values, mistakes and declarations while a configuration is read.
pub struct Env<'a> {
    lookup: Lookup<'a>,
    mistakes: Vec<String>,
    variables: Vec<Variable>,
}

impl<'a> Env<'a> {
    pub fn new(lookup: Lookup<'a>) -> Self {
        Self { lookup, mistakes: Vec::new(), variables: Vec::new() }
    }

    /// Everything declared so far, in the order of declaration.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Adds a mistake that concerns more than one variable.
    pub fn mistake(&mut self, what: impl Into<String>) {
        self.mistakes.push(what.into());
    }

    /// `value` if nothing was wrong, else every mistake as one text.
    ///
    /// # Errors
    /// The mistakes, one a line, each with the variable's name and what it expects.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, String> {
        match value {
            Some(value) if self.mistakes.is_empty() => Ok(value),
            _ => Err(self.mistakes.iter().fold(
                format!("{} mistake(s) in the environment:", self.mistakes.len()),
                |mut text, mistake| {
                    let _ = write!(text, "\n  - {mistake}");
                    text
                },
            )),
        }
    }

    /// A setting that must be given. `None` means that a mistake was noted.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.declare(name, None, true, meaning);
        match self.text(name)? {
            Some(text) => self.parsed(name, &text, parse),
            None => {
                self.mistake(format!(
                    "{name} is not set ({meaning}); give it as {name} or as {name}_FILE"
                ));
                None
            }
        }
    }

    /// A setting that may be left out. The outer `None` means that a mistake was noted.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        self.declare(name, None, false, meaning);
        match self.text(name)? {
            Some(text) => self.parsed(name, &text, parse).map(Some),
            None => Some(None),
        }
    }

    /// A setting with a default, which goes through the same parser as a given value.
    pub fn or_default<T>(
        &mut self,
        name: &'static str,
        default: &str,
        meaning: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.declare(name, Some(default.to_owned()), false, meaning);
        let text = self.text(name)?;
        self.parsed(name, text.as_deref().unwrap_or(default), parse)
    }

    fn declare(
        &mut self,
        name: &'static str,
        default: Option<String>,
        required: bool,
        meaning: &'static str,
    ) {
        self.variables.push(Variable { name, default, required, meaning });
    }

    /// `NAME`, or the content of the file that `NAME_FILE` points to (for mounted secrets).
    /// An empty value counts as not set, as an unset variable of a compose file arrives so.
    fn text(&mut self, name: &str) -> Option<Option<String>> {
        let direct = (self.lookup)(name).filter(|text| !text.is_empty());
        let file = (self.lookup)(&format!("{name}_FILE")).filter(|path| !path.is_empty());
        match (direct, file) {
            (Some(_), Some(_)) => {
                self.mistake(format!("{name} and {name}_FILE are both set; keep one"));
                None
            }
            (Some(text), None) => Some(Some(text)),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) => Some(Some(text.trim_end().to_owned())),
                Err(error) => {
                    self.mistake(format!("{name}_FILE: cannot read {path}: {error}"));
                    None
                }
            },
            (None, None) => Some(None),
        }
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(text.trim()).map_err(|expected| self.mistake(format!("{name}: {expected}"))).ok()
    }
}

/// Any text.
pub fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

/// A text that is never printed. Its parse errors must not quote it either.
pub fn secret(value: &str) -> Result<SecretString, String> {
    Ok(SecretString::from(value.to_owned()))
}

/// Anything with `FromStr`, in the words of its own error.
pub fn parse<T: FromStr>(value: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error| format!("`{value}` is not valid: {error}"))
}

/// A whole number above zero.
pub fn positive<T: FromStr + PartialOrd + Default>(value: &str) -> Result<T, String> {
    match value.parse::<T>() {
        Ok(number) if number > T::default() => Ok(number),
        _ => Err(format!("`{value}` is not a whole number above zero")),
    }
}

/// Milliseconds, within bounds.
pub fn millis(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> {
    move |value| within(value, &bounds, "milliseconds").map(Duration::from_millis)
}

/// Seconds, within bounds.
pub fn secs(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> {
    move |value| within(value, &bounds, "seconds").map(Duration::from_secs)
}

fn within(value: &str, bounds: &RangeInclusive<u64>, unit: &str) -> Result<u64, String> {
    value.parse().ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
        let (least, most) = (bounds.start(), bounds.end());
        format!("`{value}` is not a whole number of {unit} from {least} to {most}")
    })
}

pub fn flag(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("`{value}` is neither true nor false")),
    }
}

/// A comma-separated list; an empty text is the empty list.
pub fn list<T>(
    item: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Vec<T>, String> {
    move |value| {
        value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(&item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_every_mistake_at_once_without_quoting_secrets() {
        let lookup = |name: &str| match name {
            "PORT" => Some("http".to_owned()),
            "TOKEN" => Some("hunter2".to_owned()),
            "TOKEN_FILE" => Some("/nowhere".to_owned()),
            _ => None,
        };
        let mut env = Env::new(&lookup);
        let port = env.or_default("PORT", "3000", "port", positive::<u16>);
        let url = env.required("DATABASE_URL", "the primary", secret);
        let token = env.required("TOKEN", "a token", secret);
        let values = (|| Some((port?, url?, token?)))();
        let report = env.finish(values).map(|_| ()).unwrap_err();
        assert!(report.starts_with("3 mistake(s)"), "{report}");
        for name in ["PORT: `http`", "DATABASE_URL is not set", "TOKEN_FILE are both set"] {
            assert!(report.contains(name), "{name} is missing in {report}");
        }
        assert!(!report.contains("hunter2"), "{report}");
    }

    #[test]
    fn reads_a_secret_from_a_file_without_its_last_newline() {
        let path = std::env::temp_dir().join(format!("shoal-env-{}", std::process::id()));
        std::fs::write(&path, "line 1\nline 2\n").unwrap();
        let given = path.display().to_string();
        let lookup = move |name: &str| (name == "KEY_FILE").then(|| given.clone());
        let mut env = Env::new(&lookup);
        let value = env.required("KEY", "a key", text);
        std::fs::remove_file(path).unwrap();
        assert_eq!(env.finish(value).unwrap(), "line 1\nline 2");
    }
}
