//! The failure matrix of the operator's guide: that the tests it names are there.

use std::{fs, path::Path};

const GUIDE: &str = include_str!("../../docs/operations.md");

/// The rows of the table below the heading.
fn rows(guide: &str) -> Vec<&str> {
    let section = guide.split("\n## Failure matrix\n").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    // The first two are its head.
    section.lines().filter(|line| line.starts_with('|')).skip(2).collect()
}

/// What a row names: `module::name`, and the file that is linked to.
fn named(row: &str) -> Vec<(&str, &str)> {
    let links = row.split("[`").skip(1);
    let named = links.filter_map(|link| {
        let (name, rest) = link.split_once("`](../")?;
        Some((name, rest.split_once(')')?.0))
    });
    named.collect()
}

fn is_there((name, file): (&str, &str)) -> bool {
    let Some((module, function)) = name.rsplit_once("::") else { return false };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(path).unwrap_or_default();
    // With a parenthesis, since one name may begin with another.
    file.ends_with(&format!("{module}.rs"))
        && text.split(&format!("fn {function}(")).next().is_some_and(|before| {
            before.len() < text.len()
                && before
                    .lines()
                    .rev()
                    .take(3)
                    .any(|line| line.starts_with("#[") && line.contains("test"))
        })
}

#[test]
fn every_row_is_held_by_tests_that_exist() {
    let rows = rows(GUIDE);
    assert!(rows.len() >= 15, "{} rows", rows.len());
    for row in rows {
        let named = named(row);
        assert!(!named.is_empty(), "nothing holds {row}");
        for test in named {
            assert!(is_there(test), "{test:?} is not there");
        }
    }
}

#[test]
fn what_is_not_there_is_found_missing() {
    assert!(is_there(("matrix::what_is_not_there_is_found_missing", "tests/it/matrix.rs")));
    for (name, file) in [
        ("matrix::what_is_not_there", "tests/it/matrix.rs"),
        ("matrix::nothing", "tests/it/matrix.rs"),
        ("matrix::rows", "tests/it/matrix.rs"),
        ("other::what_is_not_there_is_found_missing", "tests/it/matrix.rs"),
        ("matrix::nothing", "tests/it/nothing.rs"),
    ] {
        assert!(!is_there((name, file)), "{name}");
    }
    let guide = "\n## Failure matrix\n\n| a | b |\n|---|---|\n| x | [`a::b`](../c.rs), [`d`](../e) |\n\n## Next\n| y |";
    assert_eq!(rows(guide), ["| x | [`a::b`](../c.rs), [`d`](../e) |"]);
    assert_eq!(named(rows(guide)[0]), [("a::b", "c.rs"), ("d", "e")]);
}
