//! What was found, for people: in groups, a line for each check, and more where something is to be
//! done.

use std::fmt::Write;

use crate::platform::audit::{Finding, Outcome, Totals};

/// The groups in the order in which they are told, by the first part of a check's name.
const GROUPS: [(&str, &str); 16] = [
    ("drivers", "Stores"),
    ("postgres", "Postgres, the primary"),
    ("schema", "Schema"),
    ("partitions", "Partitions"),
    ("replica", "Replicas of Postgres"),
    ("pgbouncer", "PgBouncer"),
    ("connections", "Connections"),
    ("redis", "Redis"),
    ("s3", "S3"),
    ("partners", "Services of others"),
    ("timeouts", "Time-outs"),
    ("clock", "Clocks"),
    ("proxy", "Proxy"),
    ("keys", "Signing keys"),
    ("webhooks", "Webhooks"),
    ("probes", "Probes"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Colours,
    Plain,
}

/// All findings, and one line of totals.
pub(super) fn render(found: &[&Finding], totals: Totals, paint: Paint) -> String {
    let width = |cell: fn(&Finding) -> usize| {
        found.iter().map(|finding| cell(finding)).max().unwrap_or_default()
    };
    let checks = width(|finding| short(finding).len());
    let parts = width(|finding| finding.of.chars().count());
    let mut text = String::new();
    for (group, title) in GROUPS {
        let mut members = found.iter().filter(|finding| of_group(finding) == group).peekable();
        if members.peek().is_some() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{title}");
        }
        for finding in members {
            let outcome = painted(finding.outcome, paint);
            let (check, of, seen) = (short(finding), &finding.of, &finding.seen);
            let line = format!("  {outcome}  {check:checks$}  {of:parts$}  {seen}");
            let _ = writeln!(text, "{}", line.trim_end());
            if !finding.mend.is_empty() {
                let _ = writeln!(text, "           why:  {}", finding.why);
                let _ = writeln!(text, "           mend: {}", finding.mend);
            }
        }
    }
    let Totals { passed, failed, skipped, noted } = totals;
    let _ = writeln!(text, "{passed} passed, {failed} failed, {skipped} skipped, {noted} noted");
    text
}

fn of_group(finding: &Finding) -> &str {
    finding.check.split('.').next().unwrap_or_default()
}

fn short(finding: &Finding) -> &str {
    finding.check.split_once('.').map_or(finding.check, |(_, check)| check)
}

/// Of one width.
fn painted(outcome: Outcome, paint: Paint) -> String {
    let (word, colour) = match outcome {
        Outcome::Passed => ("passed ", "32"),
        Outcome::Failed => ("FAILED ", "31;1"),
        Outcome::Skipped => ("skipped", "33"),
        Outcome::Noted => ("noted  ", "36"),
    };
    match paint {
        Paint::Colours => format!("\x1b[{colour}m{word}\x1b[0m"),
        Paint::Plain => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: &'static str, of: &str, outcome: Outcome, mend: &str) -> Finding {
        let (of, mend) = (of.to_owned(), mend.to_owned());
        Finding { check, of, outcome, seen: "a thing".to_owned(), why: "it matters", mend }
    }

    #[test]
    fn groups_have_an_order_and_columns_line_up() {
        let found = [
            finding("redis.eviction", "", Outcome::Failed, "set it"),
            finding("postgres.role", "primary", Outcome::Passed, ""),
        ];
        let expected = "\
Postgres, the primary
  passed   role      primary  a thing
Redis
  FAILED   eviction           a thing
           why:  it matters
           mend: set it
1 passed, 1 failed, 0 skipped, 0 noted
";
        let (totals, shown) = (Totals::of(&found), [&found[0], &found[1]]);
        assert_eq!(render(&shown, totals, Paint::Plain), expected);
        assert!(render(&shown, totals, Paint::Colours).contains("\x1b[31;1mFAILED"));
    }
}
