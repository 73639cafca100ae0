//! What a check has found, and how it is told.

use serde::Serialize;

/// One rule: pure, over what was seen of a server, of the configuration or of the deployment.
pub(super) struct Rule<S: 'static> {
    /// `<group>.<check>`: what programs know it by.
    pub(super) id: &'static str,
    /// Why it matters.
    pub(super) why: &'static str,
    pub(super) judge: fn(&S) -> Verdict,
}

/// What a rule says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed(String),
    /// What was seen, and how to mend it.
    Failed(String, String),
    /// Why it could not be judged, and what would help.
    Skipped(String, String),
    /// Neither right nor wrong: to be known.
    Noted(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
    Noted,
}

#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// `<group>.<check>`.
    pub check: &'static str,
    /// The server or part that it is about, if there are several.
    pub of: String,
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// Why it matters.
    pub why: &'static str,
    /// How to mend what failed, or what a skipped check needs; empty otherwise.
    pub mend: String,
}

impl<S> Rule<S> {
    /// Judges what was seen of `of`.
    pub(super) fn apply(&self, of: &str, seen: &S) -> Finding {
        let (outcome, seen, mend) = match (self.judge)(seen) {
            Verdict::Passed(seen) => (Outcome::Passed, seen, String::new()),
            Verdict::Failed(seen, mend) => (Outcome::Failed, seen, mend),
            Verdict::Skipped(seen, mend) => (Outcome::Skipped, seen, mend),
            Verdict::Noted(seen) => (Outcome::Noted, seen, String::new()),
        };
        Finding { check: self.id, of: of.to_owned(), outcome, seen, why: self.why, mend }
    }

    /// For want of something that another check tells of.
    pub(super) fn skip(&self, of: &str, because: &str) -> Finding {
        Finding {
            check: self.id,
            of: of.to_owned(),
            outcome: Outcome::Skipped,
            seen: because.to_owned(),
            why: self.why,
            mend: "mend that first".to_owned(),
        }
    }
}

/// Judges by all rules; skips all of them where there is nothing to judge, and says why.
pub(super) fn judge<S>(rules: &[Rule<S>], of: &str, seen: Result<&S, &str>) -> Vec<Finding> {
    let finding = |rule: &Rule<S>| match seen {
        Ok(seen) => rule.apply(of, seen),
        Err(because) => rule.skip(of, because),
    };
    rules.iter().map(finding).collect()
}

/// Passed or failed, in the same words about what was seen.
pub(super) fn hold(holds: bool, seen: impl Into<String>, mend: impl Into<String>) -> Verdict {
    if holds { Verdict::Passed(seen.into()) } else { Verdict::Failed(seen.into(), mend.into()) }
}

/// What does not hold, as sentences.
pub(super) fn broken<S>(rules: &[Rule<S>], seen: &S) -> impl Iterator<Item = String> {
    rules.iter().filter_map(move |rule| match (rule.judge)(seen) {
        Verdict::Failed(seen, mend) => Some(format!("{}: {seen}: {mend}", rule.id)),
        _ => None,
    })
}
