//! Fills in the configuration files that the repository ships: `${NAME}`, as `envsubst` does, but strict.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// Replaces every `${NAME}` by its value. A placeholder without a value is an error, and so is a value
/// without a placeholder: either means that the template and its user have drifted apart.
///
/// Only capitals, digits and underscores make a placeholder, so nginx's own `$variables` are left alone.
pub fn render(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut rendered = String::with_capacity(template.len());
    let mut used = BTreeSet::new();
    let mut rest = template;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        rendered.push_str(before);
        if let Some(name) = placeholder(from) {
            let value = values.iter().find(|(known, _)| *known == name);
            let (name, value) = value.ok_or_else(|| {
                Error::new(format!("the template wants ${{{name}}}, which has no value"))
            })?;
            rendered.push_str(value);
            used.insert(*name);
            rest = &from[name.len() + 3..];
        } else {
            rendered.push_str("${");
            rest = &from[2..];
        }
    }
    rendered.push_str(rest);
    match values.iter().find(|(name, _)| !used.contains(name)) {
        Some((name, _)) => {
            Err(Error::new(format!("the template has no ${{{name}}}, for which there is a value")))
        }
        None => Ok(rendered),
    }
}

/// The name in a text that begins with `${`, if it is a placeholder's.
fn placeholder(text: &str) -> Option<&str> {
    let name = text.get(2..text.find('}')?)?;
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn every_occurrence_is_replaced_and_variables_are_left_alone() {
        let template = "listen ${PORT}; # ${PORT}\nreturn $host ${lower} ${";
        let rendered = render(template, &[("PORT", "8080")]).expect("it has a value");
        assert_eq!(rendered, "listen 8080; # 8080\nreturn $host ${lower} ${");
    }

    #[test]
    fn a_value_is_not_rendered_again() {
        assert_eq!(
            render("${A}${B}", &[("A", "${B}"), ("B", "b")]).expect("both have values"),
            "${B}b"
        );
    }

    #[test]
    fn a_placeholder_without_a_value_is_refused() {
        let error = render("${PORT} ${NAME}", &[("PORT", "1")]).expect_err("NAME has none");
        assert!(error.to_string().contains("${NAME}"), "{error}");
    }

    #[test]
    fn a_value_without_a_placeholder_is_refused() {
        let error =
            render("${PORT}", &[("PORT", "1"), ("NAME", "x")]).expect_err("NAME is not there");
        assert!(error.to_string().contains("${NAME}"), "{error}");
    }
}
