//! `shoal reports rebuild`: makes the read model anew from the events.
//!
//! All of it is one transaction that sees one state of the events and keeps jobs from adding to
//! the sums meanwhile: readers see the old model until the commit and the new one after it. An
//! event that is in the new model already is marked as such, so that its job adds nothing later;
//! one that was committed since is added by its job.

use uuid::Uuid;

use super::queries;
use crate::platform::db::{self, Db};

/// Events that are added by one statement.
const BATCH: i64 = 5_000;

/// Differences that are shown.
const SHOWN: i64 = 20;

/// What to do about differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only tell of them.
    Compare,
    Replace,
}

/// What was found.
pub struct Rebuilt {
    /// That change sales.
    pub events: usize,
    /// Where the old model was wrong, a line for a person each; the first twenty.
    pub differences: Vec<String>,
}

/// Compares the read model with the events that are in it; unless that is all, makes it anew of
/// all events there are.
///
/// # Errors
/// The database is away, or others kept the read model locked for half a minute.
pub async fn rebuild(db: &Db, mode: Mode) -> Result<Rebuilt, db::Error> {
    let mut tx = db.begin().await?;
    queries::freeze(&mut tx).await?;
    let differences = queries::differences(&mut tx, SHOWN).await?;
    let differences = differences.iter().map(describe).collect();
    if mode == Mode::Replace {
        queries::clear(&mut tx).await?;
    }
    let (mut after, mut events) = (Uuid::nil(), 0);
    loop {
        let page = queries::events_page(&mut tx, after, BATCH).await?;
        let Some(last) = page.last() else { break };
        after = *last;
        events += page.len();
        if mode == Mode::Replace {
            queries::add(&mut tx, &page).await?;
        }
    }
    tx.commit().await?;
    Ok(Rebuilt { events, differences })
}

fn describe(difference: &queries::Difference) -> String {
    let queries::Difference { day, currency, product_id, .. } = difference;
    let what = product_id.map_or_else(|| "all".to_owned(), |id| format!("product {id}"));
    format!(
        "{day} {currency} {what}: {} units for {}, and ought to be {} for {}",
        difference.found_units,
        difference.found_amount,
        difference.expected_units,
        difference.expected_amount,
    )
}
