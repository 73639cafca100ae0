//! Jobs, one property at a time, with workers in the test's own process.

use std::sync::atomic::Ordering;

use shoal::platform::jobs::{self, NewJob};

use crate::support::{
    Crew,
    errands::{
        Crowd, Failing, Gated, Hopeless, LongQuery, Note, Panicking, Plain, Urgent, registry,
        registry_with_schedule,
    },
    until,
};

fn note(name: &str) -> Note {
    Note { name: name.to_owned(), key: None }
}

fn keyed(name: &str, key: &str) -> Note {
    Note { name: name.to_owned(), key: Some(key.to_owned()) }
}

fn gated(name: &str) -> Gated {
    Gated { name: name.to_owned(), completes: false }
}

const COMPLETED: &str = "select count(*) from jobs where state = 'completed'";
const UNFINISHED: &str =
    "select count(*) from jobs where state in ('available', 'scheduled', 'running')";
const DEAD: &str = "select count(*) from jobs where state = 'dead'";
const BEGUN: &str = "select count(*) from begun";
const DONE: &str = "select count(*) from done";
const REFUSED: &str = "select count(*) from refused";

#[tokio::test]
async fn a_job_exists_only_if_its_transaction_commits() {
    let crew = Crew::new().await;
    let mut tx = crew.db.begin().await.unwrap();
    jobs::enqueue(&mut tx, &note("never")).await.unwrap();
    drop(tx);
    crew.enqueue(&note("once")).await;
    let worker = crew.worker();
    crew.until(COMPLETED, 1).await;
    worker.stop().await;
    assert_eq!(crew.database.number("select count(*) from done where name = 'once'").await, 1);
    assert_eq!(crew.database.number("select count(*) from jobs").await, 1);
}

#[tokio::test]
async fn of_unfinished_jobs_with_the_same_key_there_is_one() {
    let crew = Crew::new().await;
    crew.enqueue(&keyed("first", "k")).await;
    crew.enqueue(&keyed("second", "k")).await;
    crew.enqueue(&keyed("other", "l")).await;
    // Neither within one statement, nor from two transactions at once.
    let twice = [keyed("a", "m"), keyed("b", "m")];
    crew.enqueue_all(twice.iter().map(|job| NewJob::new(job).unwrap()).collect()).await;
    let (mut one, mut two) = (crew.db.begin().await.unwrap(), crew.db.begin().await.unwrap());
    jobs::enqueue(&mut one, &keyed("one", "n")).await.unwrap();
    let other = async {
        jobs::enqueue(&mut two, &keyed("two", "n")).await.unwrap();
        two.commit().await.unwrap();
    };
    // The second waits for the first to end, then knows.
    let commit = async { one.commit().await.unwrap() };
    tokio::join!(other, commit);
    assert_eq!(crew.database.number("select count(*) from jobs").await, 4);

    let worker = crew.worker();
    crew.until(COMPLETED, 4).await;
    assert_eq!(crew.database.number("select count(*) from done where name = 'first'").await, 1);
    // Once it is finished, the next one is another matter.
    crew.enqueue(&keyed("third", "k")).await;
    crew.until(COMPLETED, 5).await;
    worker.stop().await;
    assert_eq!(crew.database.number("select count(*) from done where name = 'third'").await, 1);
}

#[tokio::test]
async fn the_urgent_go_first_then_the_oldest() {
    let crew = Crew::new().await;
    for name in ["1", "2", "3"] {
        crew.enqueue(&Plain { name: name.to_owned() }).await;
    }
    for name in ["a", "b"] {
        crew.enqueue(&Urgent { name: name.to_owned() }).await;
    }
    // One at a time, so that what was done first was begun first.
    let worker = crew.worker();
    crew.until(DONE, 5).await;
    worker.stop().await;
    let order = "select string_agg(name, '' order by at) from done";
    let order: String =
        sqlx::query_scalar(order).fetch_one(&mut crew.database.connect().await).await.unwrap();
    assert_eq!(order, "ab123");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_runs_no_more_than_its_concurrency() {
    let crew = Crew::new().await;
    let many = (0..60).map(|_| NewJob::new(&Crowd {}).unwrap()).collect();
    crew.enqueue_all(many).await;
    let worker = crew.worker();
    crew.until(COMPLETED, 60).await;
    let stage = worker.stage.clone();
    worker.stop().await;
    assert!((1..=3).contains(&stage.most.load(Ordering::SeqCst)));
}

/// The wait is in the row, so that it outlives the worker.
#[tokio::test]
async fn a_failed_job_is_due_again_when_its_row_says() {
    let crew = Crew::new().await;
    crew.enqueue(&Failing { after: None }).await;
    let worker = crew.worker();
    let hour = "select count(*) from jobs where state = 'scheduled' and attempt = 1
        and error = 'attempt 1 of it' and lease_expires_at is null
        and run_at - started_at between interval '59 minutes' and interval '61 minutes'";
    crew.until(hour, 1).await;
    // Not before its time, however often it is looked for.
    let polls = worker.metric("worker_last_poll_timestamp_seconds");
    until(async || worker.metric("worker_last_poll_timestamp_seconds") > polls + 0.9).await;
    assert_eq!(crew.database.number(BEGUN).await, 1);
    // Another worker, later.
    worker.stop().await;
    let worker = crew.worker();
    crew.execute("update jobs set run_at = now()").await;
    let two_hours = "select count(*) from jobs where state = 'scheduled' and attempt = 2
        and run_at - started_at between interval '119 minutes' and interval '121 minutes'";
    crew.until(two_hours, 1).await;
    crew.execute("update jobs set run_at = now()").await;
    crew.until(DEAD, 1).await;
    worker.stop().await;
    let said = "select count(*) from jobs where state = 'dead' and attempt = 3
        and error = 'attempt 3 of it' and finished_at is not null";
    assert_eq!(crew.database.number(said).await, 1);
    assert_eq!(crew.database.number(BEGUN).await, 3);
}

/// Whoever asks for less has attempts used up while what they wait for is still away.
#[tokio::test]
async fn a_job_waits_as_long_as_it_asks_for_but_no_less_than_usual() {
    let crew = Crew::new().await;
    let day = Some(24 * 3_600 * 1_000);
    crew.enqueue(&Failing { after: Some(1) }).await;
    crew.enqueue(&Failing { after: day }).await;
    let worker = crew.worker();
    let usual = "select count(*) from jobs where state = 'scheduled' and args ->> 'after' = '1'
        and run_at - started_at > interval '59 minutes'";
    crew.until(usual, 1).await;
    let longer = "select count(*) from jobs where state = 'scheduled' and args ->> 'after' <> '1'
        and run_at - started_at > interval '1439 minutes'";
    crew.until(longer, 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_can_never_be_done_is_a_dead_letter_with_its_reason() {
    let crew = Crew::new().await;
    crew.enqueue(&Hopeless {}).await;
    crew.enqueue(&Panicking {}).await;
    crew.enqueue(&Failing { after: None }).await;
    // Arguments of an older build.
    crew.execute(
        "insert into jobs (id, queue, kind, args, max_attempts)
         values (gen_random_uuid(), 'notes', 'errands.note', '{\"text\": 1}', 12)",
    )
    .await;
    let worker = crew.worker();
    until(async || {
        crew.execute("update jobs set run_at = now() where state = 'scheduled'").await;
        crew.database.number(DEAD).await == 4
    })
    .await;
    // And the worker goes on.
    crew.enqueue(&note("after")).await;
    crew.until(DONE, 1).await;
    worker.stop().await;
    for reason in [
        "select count(*) from jobs where state = 'dead' and error = 'it can never be done' and attempt = 1",
        "select count(*) from jobs where state = 'dead' and error like 'it panicked%'",
        "select count(*) from jobs where state = 'dead' and error = 'attempt 3 of it' and attempt = 3",
        "select count(*) from jobs where state = 'dead' and error like '%does not understand%'",
    ] {
        assert_eq!(crew.database.number(reason).await, 1, "{reason}");
    }
}

#[tokio::test]
async fn a_kind_that_a_build_does_not_know_is_left_to_another() {
    let crew = Crew::new().await;
    crew.execute(
        "insert into jobs (id, queue, kind, args, max_attempts)
         values (gen_random_uuid(), 'notes', 'errands.of_tomorrow', '{}', 12)",
    )
    .await;
    let worker = crew.worker();
    let postponed = "select count(*) from jobs where state = 'scheduled' and attempt = 0
        and error is null and run_at > now() + interval '5 seconds'";
    crew.until(postponed, 1).await;
    worker.stop().await;
}

/// The fence: as long as its worker does not know that the job was taken over, nothing but the row
/// keeps it from having its effect.
async fn take_over(completes: bool) {
    let crew = Crew::new().await;
    let worker = crew.worker();
    crew.enqueue(&Gated { name: "g".to_owned(), completes }).await;
    crew.until(BEGUN, 1).await;
    // As another worker does after a rescue. The lease of 30 s is not renewed meanwhile.
    crew.execute(
        "update jobs set fence = fence + 1, attempt = attempt + 1, worker = 'another',
                         lease_expires_at = now() + interval '1 hour'",
    )
    .await;
    crew.open("g").await;
    crew.until(REFUSED, 1).await;
    // Its outcome is recorded no more than that.
    worker.stop().await;
    assert_eq!(crew.database.number(DONE).await, 0);
    let others = "select count(*) from jobs where state = 'running' and worker = 'another'
        and lease_expires_at > now() + interval '50 minutes' and attempt = 2 and error is null";
    assert_eq!(crew.database.number(others).await, 1);
}

#[tokio::test]
async fn what_was_taken_over_has_no_effect() {
    take_over(false).await;
}

#[tokio::test]
async fn what_was_taken_over_completes_nothing() {
    take_over(true).await;
}

/// One job that holds its row must not keep the leases and outcomes of all others waiting.
#[tokio::test]
async fn a_job_that_holds_its_lease_is_not_in_the_way() {
    let crew = Crew::with(&[("SHOAL_JOB_LEASE_MS", "15000")]).await;
    let worker = crew.worker();
    crew.enqueue(&gated("held")).await;
    crew.until(BEGUN, 1).await;
    // What `Lease::hold` takes; nor is this one ended for being idle.
    let mut holder = crew.database.connect().await;
    let hold = "begin; select from jobs for no key update";
    sqlx::Executor::execute(&mut holder, hold).await.unwrap();
    crew.enqueue(&gated("beside")).await;
    crew.until(BEGUN, 2).await;
    let renewed = "select count(*) from jobs where args->>'name' = 'beside'
        and lease_expires_at > started_at + interval '15500 ms'";
    crew.until(renewed, 1).await;
    crew.open("beside").await;
    crew.until(COMPLETED, 1).await;
    sqlx::Executor::execute(&mut holder, "rollback").await.unwrap();
    // Nor did its worker think that it was lost.
    crew.open("held").await;
    crew.until(COMPLETED, 2).await;
    worker.stop().await;
    assert_eq!(crew.database.number(REFUSED).await, 0);
    let once = "select count(*) from jobs where attempt = 1 and fence = 1";
    assert_eq!(crew.database.number(once).await, 2);
}

#[tokio::test]
async fn a_lease_is_renewed_for_as_long_as_the_job_runs() {
    let crew = Crew::with(&[("SHOAL_JOB_LEASE_MS", "600")]).await;
    let workers = [crew.worker(), crew.worker()];
    crew.enqueue(&gated("long")).await;
    crew.until(BEGUN, 1).await;
    // Several leases long.
    crew.until("select count(*) from jobs where started_at < now() - interval '3 seconds'", 1)
        .await;
    crew.open("long").await;
    crew.until(COMPLETED, 1).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(crew.database.number(BEGUN).await, 1);
}

/// Its deadline becomes the time-out of its statements: nothing goes on in the database for a job
/// that has ended.
#[tokio::test]
async fn the_time_of_a_job_bounds_its_statements() {
    let crew = Crew::new().await;
    crew.execute(&format!(
        "alter role shoal_app in database {} set statement_timeout = 0",
        crew.database.name
    ))
    .await;
    let worker = crew.worker();
    crew.enqueue(&LongQuery {}).await;
    crew.until(DEAD, 1).await;
    let asleep = "select count(*) from pg_stat_activity where datname = current_database()
        and query like '%pg_sleep(3600)%' and state = 'active' and pid <> pg_backend_pid()";
    crew.until(asleep, 0).await;
    worker.stop().await;
    let limit = crew.database.number("select name::bigint from done").await;
    assert!((1..=2_000).contains(&limit), "{limit} ms");
}

#[tokio::test]
async fn many_workers_do_every_job_once() {
    let crew = Crew::new().await;
    let all = (0..500).map(|n| NewJob::new(&note(&n.to_string())).unwrap()).collect();
    crew.enqueue_all(all).await;
    let workers = [crew.worker(), crew.worker(), crew.worker()];
    crew.until(COMPLETED, 500).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(crew.database.number(DONE).await, 500);
    let once = "select count(*) from jobs where attempt = 1 and fence = 1";
    assert_eq!(crew.database.number(once).await, 500);
}

/// Claims pass over what another is claiming, rather than wait for it.
#[tokio::test]
async fn a_claim_waits_for_nobody() {
    let crew = Crew::new().await;
    crew.enqueue(&note("being claimed")).await;
    crew.enqueue(&note("free")).await;
    let mut other = crew.db.begin().await.unwrap();
    sqlx::query("select from jobs order by id limit 1 for update")
        .execute(&mut *other)
        .await
        .unwrap();
    let worker = crew.worker();
    crew.until("select count(*) from done where name = 'free'", 1).await;
    assert_eq!(crew.database.number(DONE).await, 1);
    drop(other);
    crew.until(DONE, 2).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_missed_tick_is_seen() {
    let crew = Crew::new().await;
    crew.execute(
        "insert into schedule_ticks (schedule, tick)
         values ('errands.tick', date_bin('1 second', now(), 'epoch') - interval '1 hour')",
    )
    .await;
    let worker = crew.worker_with(registry_with_schedule());
    let missed = "schedule_missed_ticks_total{schedule=\"errands.tick\"}";
    until(async || worker.metric(missed) > 0.0).await;
    // An hour has 3,600 of them, all but the one that was begun now.
    let count = worker.metric(missed);
    assert!((3_599.0..3_700.0).contains(&count), "{count}");
    worker.stop().await;
}

#[tokio::test]
async fn what_is_paused_is_not_begun() {
    let crew = Crew::new().await;
    crew.execute("insert into paused_queues (queue) values ('notes')").await;
    crew.enqueue(&note("paused")).await;
    crew.enqueue(&Crowd {}).await;
    let worker = crew.worker_with(registry());
    crew.until("select count(*) from done where name = 'crowd'", 1).await;
    assert_eq!(crew.database.number(UNFINISHED).await, 1);
    crew.execute("delete from paused_queues").await;
    crew.until(DONE, 2).await;
    worker.stop().await;
}
