//! Rows of jobs that somebody else has: locked for a moment, or taken over for good.

use sqlx::Executor;

use crate::support::{Crew, errands::Gated};

const BEGUN: &str = "select count(*) from begun";

fn gated(name: &str) -> Gated {
    Gated { name: name.to_owned(), completes: false }
}

/// Jobs of workers that are gone, and jobs that are due: what cannot be had is left to the next
/// time, rather than waited for together with all others.
#[tokio::test]
async fn who_looks_after_jobs_waits_for_nobody() {
    let crew = Crew::new().await;
    crew.execute(
        "insert into jobs (id, queue, kind, args, attempt, max_attempts, state, run_at,
                           lease_expires_at)
         select gen_random_uuid(), 'notes', 'errands.note', jsonb_build_object('name', name), 1, 12,
                state, now() - interval '1 minute',
                case when state = 'running' then now() - age * interval '1 minute' end
         from (values ('held', 2), ('free', 1)) as n (name, age),
              unnest(array['running', 'scheduled']) as state",
    )
    .await;
    let mut other = crew.database.connect().await;
    let hold = "begin; select from jobs where args->>'name' = 'held' for no key update";
    other.execute(hold).await.unwrap();
    let worker = crew.worker();
    crew.until("select count(*) from done where name = 'free'", 2).await;
    other.execute("commit").await.unwrap();
    crew.until("select count(*) from done where name = 'held'", 2).await;
    worker.stop().await;
}

/// A worker that was away for too long learns of it when it renews its leases.
#[tokio::test]
async fn what_was_taken_over_is_neither_renewed_nor_gone_on_with() {
    let crew = Crew::with(&[("SHOAL_JOB_LEASE_MS", "3000")]).await;
    let worker = crew.worker();
    // As many as there are slots.
    for name in ["a", "b", "c", "d"] {
        crew.enqueue(&gated(name)).await;
    }
    crew.until(BEGUN, 4).await;
    crew.execute(
        "update jobs set fence = fence + 1, attempt = attempt + 1, worker = 'another',
                         lease_expires_at = now() + interval '1 hour'",
    )
    .await;
    crew.enqueue(&gated("next")).await;
    crew.until(BEGUN, 5).await;
    let others = "select count(*) from jobs where worker = 'another' and state = 'running'
        and fence = 2 and lease_expires_at > now() + interval '50 minutes'";
    assert_eq!(crew.database.number(others).await, 4);
    crew.open("next").await;
    crew.until("select count(*) from done", 1).await;
    worker.stop().await;
}
