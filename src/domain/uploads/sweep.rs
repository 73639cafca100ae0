//! Deletes what nobody needs any longer, from S3 first and then from the database, so that nothing
//! is forgotten half-way. All of it may be done twice, at once, and late: see `mod.rs` on keys.

use std::{collections::HashSet, time::Duration};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    keys,
    queries::{self, Over},
};
use crate::{
    platform::{
        jobs::Failure,
        storage::{Listed, MOST_KEYS},
    },
    state::AppState,
};

/// Uploads whose objects one call deletes: three keys each.
const BATCH: usize = MOST_KEYS / 4;

/// How old what is found by listing has to be: whoever is about to tell the database of it has long
/// done so, or died.
const ORPHAN_AGE: Duration = Duration::from_secs(60 * 60);

/// What went away.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Uploads that were released, or never finished.
    pub uploads: usize,
    /// Objects that were sent, and are not waited for any longer.
    pub incoming: usize,
    /// Uploads in parts whose process died. Not every S3 server can list them.
    pub parts: usize,
}

/// # Errors
/// S3 or the database is away. What was done before stays done.
pub async fn sweep(app: &AppState) -> Result<Swept, Failure> {
    let uploads = sweep_uploads(app).await?;
    let incoming = sweep_incoming(app).await?;
    let parts = app.storage.abort_parts(keys::INCOMING, ORPHAN_AGE).await?;
    Ok(Swept { uploads, incoming, parts })
}

async fn sweep_uploads(app: &AppState) -> Result<usize, Failure> {
    let mut swept = 0;
    loop {
        let mut conn = app.db.primary().await?;
        let over = queries::list_over(&mut conn, BATCH as i64).await?;
        drop(conn);
        let kept = |over: &Over| {
            let sha256 = over.sha256.as_deref();
            sha256.map(|sha256| keys::all_kept(over.purpose, sha256, over.id))
        };
        let keys: Vec<String> = over.iter().filter_map(kept).flatten().collect();
        app.storage.delete(&keys).await?;
        let ids: Vec<Uuid> = over.iter().map(|over| over.id).collect();
        queries::delete(&mut app.db.primary().await?, &ids).await?;
        swept += over.len();
        if over.len() < BATCH {
            return Ok(swept);
        }
    }
}

/// The row was there before the address to write to was given away: an object without one that
/// waits for it is waste.
async fn sweep_incoming(app: &AppState) -> Result<usize, Failure> {
    let (mut pages, mut swept) = (Pages::below(keys::INCOMING), 0);
    while let Some(page) = pages.next(app).await? {
        let ids = uploads_of(&page);
        let expected = queries::list_expected(&mut app.db.primary().await?, &ids).await?;
        let expected: HashSet<Uuid> = expected.into_iter().collect();
        let is_waste = |id: Uuid| !expected.contains(&id);
        let keys = page.into_iter().map(|listed| listed.key);
        let waste: Vec<String> =
            keys.filter(|key| keys::upload_of(key).is_some_and(is_waste)).collect();
        app.storage.delete(&waste).await?;
        swept += waste.len();
    }
    Ok(swept)
}

/// Deletes objects under the keys of verified files that no upload tells of.
///
/// # Errors
/// S3 or the database is away. What was done before stays done.
pub async fn sweep_orphans(app: &AppState) -> Result<usize, Failure> {
    let newest = OffsetDateTime::now_utc() - ORPHAN_AGE;
    let mut swept = 0;
    for prefix in keys::KEPT {
        let mut pages = Pages::below(prefix);
        while let Some(mut page) = pages.next(app).await? {
            page.retain(|listed| listed.modified_at < newest);
            let ids = uploads_of(&page);
            let known = queries::list_verified(&mut app.db.primary().await?, &ids).await?;
            let known: HashSet<String> = known
                .iter()
                .filter_map(|upload| Some((upload, upload.sha256.as_deref()?)))
                .flat_map(|(upload, sha256)| keys::all_kept(upload.purpose, sha256, upload.id))
                .collect();
            let is_orphan = |key: &String| keys::upload_of(key).is_some() && !known.contains(key);
            let keys = page.into_iter().map(|listed| listed.key);
            let orphans: Vec<String> = keys.filter(is_orphan).collect();
            app.storage.delete(&orphans).await?;
            swept += orphans.len();
        }
    }
    Ok(swept)
}

fn uploads_of(page: &[Listed]) -> Vec<Uuid> {
    page.iter().filter_map(|listed| keys::upload_of(&listed.key)).collect()
}

/// A list of objects, page by page.
struct Pages {
    prefix: &'static str,
    after: Option<String>,
    has_more: bool,
}

impl Pages {
    fn below(prefix: &'static str) -> Self {
        Self { prefix, after: None, has_more: true }
    }

    async fn next(&mut self, app: &AppState) -> Result<Option<Vec<Listed>>, Failure> {
        if !self.has_more {
            return Ok(None);
        }
        let page = app.storage.list(self.prefix, self.after.as_deref()).await?;
        self.after = page.objects.last().map(|listed| listed.key.clone());
        self.has_more = page.has_more && self.after.is_some();
        Ok(Some(page.objects))
    }
}
