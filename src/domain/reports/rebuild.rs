//! `shoal reports rebuild`: makes the read model anew from the events.
//!
//! All of it is one transaction that sees one state of the events and keeps jobs from adding to
//! the sums meanwhile: readers see the old model until the commit and the new one after it. An
//! event that is in the new model already is marked as such, so that its job adds nothing later;
//! one that was committed since is added by its job.
//!
//! The model is right if its sums are what the events in it come to, and if every event is in it or
//! on its way: in the outbox, or in a job that has not ended. That is compared in one snapshot,
//! which locks nobody out, since an event moves from one to the next by one transaction.

use uuid::Uuid;

use super::{jobs::AddToSales, queries};
use crate::platform::{
    db::{self, Db},
    jobs::Job,
};

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
    /// Where the old model was wrong, a line for a person each; the first twenty of each kind.
    pub differences: Vec<String>,
}

/// Compares the read model with the events; unless that is all, makes it anew of all there are.
///
/// # Errors
/// The database is away, or others kept the read model locked for half a minute.
pub async fn rebuild(db: &Db, mode: Mode) -> Result<Rebuilt, db::Error> {
    let mut tx = db.begin().await?;
    match mode {
        Mode::Compare => queries::take_snapshot(&mut tx).await?,
        Mode::Replace => queries::freeze(&mut tx).await?,
    }
    let sums = queries::differences(&mut tx, SHOWN).await?;
    let missing = queries::missing(&mut tx, AddToSales::KIND, SHOWN).await?;
    let differences =
        sums.iter().map(describe).chain(missing.iter().map(describe_missing)).collect();
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

fn describe_missing(missing: &queries::Missing) -> String {
    let queries::Missing { event_id, order_id, kind, day, currency } = missing;
    format!("{day} {currency} order {order_id}: {kind} is not in, and no job adds it ({event_id})")
}
