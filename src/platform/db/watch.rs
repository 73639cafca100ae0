//! The loops that keep the picture of the servers up to date, until the process stops.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{routes::Routes, sampler::Sampler};

/// Looks at the primary for ever.
pub(super) async fn primary(routes: Arc<Routes>, mut sampler: Sampler) {
    let mut pause = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let look = sampler.look().await;
        let has_answered = look.is_ok();
        routes.cluster.note_primary(asked, look);
        let pace = &routes.primary.pace;
        if has_answered {
            pace.rest(asked, &mut pause).await
        } else {
            pace.rest_after_failure().await
        }
    }
}

/// Looks at one replica for ever.
pub(super) async fn replica(routes: Arc<Routes>, index: usize, mut sampler: Sampler) {
    let replica = &routes.replicas[index];
    let mut pause = Duration::ZERO;
    loop {
        let (asked, stay) = (Instant::now(), replica.stay());
        let look = sampler.look().await;
        let has_answered = look.is_ok();
        routes.cluster.note_replica(index, stay, look);
        let pace = &replica.pace;
        if has_answered {
            pace.rest(asked, &mut pause).await
        } else {
            pace.rest_after_failure().await
        }
    }
}
