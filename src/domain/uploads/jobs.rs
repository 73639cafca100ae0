//! Jobs of uploads.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    queries,
    sweep::{sweep, sweep_orphans},
    variants::MakeVariants,
};
use crate::{
    platform::{
        events::Event,
        jobs::{Failure, Job, Lease, Queue, Registry},
    },
    state::AppState,
};

/// Each is busy with a picture, or waits for S3.
pub(super) static UPLOADS: Queue = Queue { name: "uploads", concurrency: 2 };

const SWEEP_EVERY: Duration = Duration::from_secs(5 * 60);
const SWEEP_ORPHANS_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

pub(in crate::domain) fn work() -> Registry<AppState> {
    Registry::new()
        .job::<MakeVariants>()
        .once(release_of_archived)
        .schedule("uploads.sweep", SWEEP_EVERY, || Sweep {})
        .schedule("uploads.sweep_orphans", SWEEP_ORPHANS_EVERY, || SweepOrphans {})
}

fn release_of_archived(event: &Event) -> Option<ReleaseImage> {
    let Event { subject_id, sequence, .. } = *event;
    let is_archived = event.kind == "product.archived";
    is_archived.then_some(ReleaseImage { product_id: subject_id, version: sequence })
}

/// Lets go of the picture of a product that was archived, but not of one that it was given since,
/// by somebody who has brought it back.
#[derive(Serialize, Deserialize)]
struct ReleaseImage {
    product_id: Uuid,
    version: i32,
}

impl Job for ReleaseImage {
    type State = AppState;
    const KIND: &'static str = "uploads.release_image";
    const QUEUE: &'static Queue = &UPLOADS;

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        let mut conn = app.db.primary().await?;
        Ok(queries::release_older(&mut conn, self.product_id, self.version).await?)
    }
}

#[derive(Serialize, Deserialize)]
struct Sweep {}

impl Job for Sweep {
    type State = AppState;
    const KIND: &'static str = "uploads.sweep";
    const QUEUE: &'static Queue = &UPLOADS;
    const TIMEOUT: Duration = Duration::from_secs(280);

    fn unique_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        let swept = sweep(app).await?;
        tracing::info!(?swept, "swept uploads");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct SweepOrphans {}

impl Job for SweepOrphans {
    type State = AppState;
    const KIND: &'static str = "uploads.sweep_orphans";
    const QUEUE: &'static Queue = &UPLOADS;
    /// A thousand objects a call, some ten calls a second.
    const TIMEOUT: Duration = Duration::from_secs(3_600);

    fn unique_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        let orphans = sweep_orphans(app).await?;
        tracing::info!(orphans, "swept objects that nobody knows");
        Ok(())
    }
}
