//! What goes wrong around jobs keeps workers from nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shoal::platform::{context::Context, jobs::NewJob};

use crate::support::{
    Crew,
    errands::{Gated, registry_with_schedule},
    until,
};

const BEGUN: &str = "select count(*) from begun";
const DONE: &str = "select count(*) from done";

fn gated(name: &str) -> Gated {
    Gated { name: name.to_owned(), completes: false }
}

/// A tick that cannot be begun keeps no job from being done.
#[tokio::test]
async fn jobs_are_due_and_taken_back_whatever_becomes_of_schedules() {
    let crew = Crew::new().await;
    crew.execute("revoke insert on schedule_ticks from shoal_app").await;
    crew.execute(
        "insert into jobs (id, queue, kind, args, max_attempts, state, run_at, lease_expires_at)
         values (gen_random_uuid(), 'notes', 'errands.note', '{\"name\": \"due\"}', 12,
                 'scheduled', now(), null),
                (gen_random_uuid(), 'notes', 'errands.note', '{\"name\": \"left\"}', 12,
                 'running', now(), now() - interval '1 minute')",
    )
    .await;
    let worker = crew.worker_with(registry_with_schedule());
    crew.until(DONE, 2).await;
    worker.stop().await;
    assert_eq!(crew.database.number("select count(*) from schedule_ticks").await, 0);
}

/// What cannot be counted leaves the other numbers as they are.
#[tokio::test]
async fn what_is_measured_is_measured_by_itself() {
    let crew = Crew::new().await;
    // Neither jobs nor events can be counted, the last of the three can.
    crew.execute("revoke select on jobs, outbox from shoal_app").await;
    let worker = crew.worker();
    let series = "db_default_partition_rows{table=\"orders\"}";
    until(async || String::from_utf8(worker.metrics.render().unwrap()).unwrap().contains(series))
        .await;
    worker.stop().await;
}

/// A poll would find the slot half a minute later.
#[tokio::test]
async fn a_slot_whose_job_was_taken_over_is_used_at_once() {
    let crew = Crew::with(&[("SHOAL_JOB_POLL_MS", "30000"), ("SHOAL_JOB_LEASE_MS", "1000")]).await;
    // One more than there are slots.
    crew.enqueue_all((0..5).map(|_| NewJob::new(&gated("g")).unwrap()).collect()).await;
    let worker = crew.worker();
    crew.until(BEGUN, 4).await;
    crew.execute(
        "update jobs set fence = fence + 1, lease_expires_at = now() + interval '1 hour'
         where id = (select id from jobs where state = 'running' limit 1)",
    )
    .await;
    crew.until(BEGUN, 5).await;
    crew.open("g").await;
    worker.stop().await;
    let at_a_poll = "select count(*) from jobs where started_at >
        (select min(started_at) from jobs) + interval '30 seconds'";
    assert_eq!(crew.database.number(at_a_poll).await, 0);
}

/// What is asked outside of a transaction, whose time-out the server is not told. Nobody else borrows
/// the connection, and finds it busy.
#[tokio::test]
async fn a_statement_that_outlives_its_request_is_ended_at_the_server() {
    let crew = Crew::new().await;
    let forever = format!(
        "alter role shoal_app in database {} set statement_timeout = 0",
        crew.database.name
    );
    crew.execute(&forever).await;
    let limit = Duration::from_millis(300);
    let context = Arc::new(Context::new("r".to_owned(), None, Instant::now() + limit));
    let ask = async {
        let mut conn = crew.db.primary().await.unwrap();
        sqlx::query("select pg_sleep(3599)").execute(&mut conn).await
    };
    let running = "select count(*) from pg_stat_activity where datname = current_database()
        and state = 'active' and query like 'select pg_sleep(3599)%'";
    let given_up = async {
        until(async || crew.database.number(running).await == 1).await;
        tokio::time::sleep_until((context.deadline + limit).into()).await;
    };
    let asked = context.clone().scope(async {
        tokio::select! {
            _ = ask => panic!("it sleeps"),
            () = given_up => {}
        }
    });
    asked.await;
    until(async || crew.database.number(running).await == 0).await;
}
