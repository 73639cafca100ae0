//! Webhooks while their workers are killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    support::{Answer, Cluster, Received, Receiver, until},
    webhooks::Webhook,
    webhooks_delivery::hurry,
};

const EVENTS: i64 = 500;

/// What there is to do until every delivery was tried.
const NOT_ATTEMPTED: &str = "select (select count(*) from outbox)
    + (select count(*) from jobs where kind = 'webhooks.fan_out' and state <> 'completed')
    + (select count(*) from webhook_deliveries where attempts = 0)";

/// How each path answers the first time; afterwards they are well, but for the one that is gone.
fn answer(received: &Received) -> Answer {
    match (received.path.as_str(), received.before) {
        ("/gone", _) => Answer::Status(410),
        ("/broken", 0) => Answer::Status(500),
        ("/silent", 0) => Answer::Hang,
        ("/busy", 0) => Answer::With(429, "retry-after", "600".to_owned()),
        ("/moved", 0) => Answer::With(302, "location", "/trap".to_owned()),
        _ => Answer::Status(204),
    }
}

/// Writes down when each attempt was recorded, and when the next was to come.
const SCHEDULE: &str = "
    create table told (delivery uuid, attempted_at timestamptz, next_at timestamptz);
    create function tell() returns trigger language plpgsql security definer as $$
    begin
        insert into told values (new.id, new.last_attempt_at, new.next_attempt_at);
        return null;
    end $$;
    create trigger tell after update on webhook_deliveries for each row
        when (new.attempts > old.attempts and new.state = 'pending') execute function tell()";

/// Requests that arrived while their delivery was to wait, before the test hurried it.
async fn too_early(
    cluster: &Cluster,
    received: &[Received],
    hurried_at: OffsetDateTime,
) -> Vec<(Uuid, OffsetDateTime)> {
    let told: Vec<(Uuid, OffsetDateTime, OffsetDateTime)> =
        sqlx::query_as("select delivery, attempted_at, next_at from told")
            .fetch_all(&mut cluster.database.connect().await)
            .await
            .unwrap();
    assert!(!told.is_empty());
    let is_early = |one: &&Received| {
        told.iter().any(|(delivery, attempted_at, next_at)| {
            *delivery == one.id && one.at > *attempted_at && one.at < (*next_at).min(hurried_at)
        })
    };
    received.iter().filter(is_early).map(|one| (one.id, one.at)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_though_workers_are_killed() {
    let settings = [("SHOAL_WEBHOOK_TIMEOUT_MS", "500"), ("SHOAL_JOB_LEASE_MS", "2000")];
    let cluster = Cluster::start(1, &settings).await;
    sqlx::raw_sql(SCHEDULE).execute(&mut cluster.database.connect().await).await.unwrap();
    let admin = cluster.admin().await;
    let receiver = Receiver::start(answer).await;
    let paths = ["/well", "/broken", "/silent", "/busy", "/moved", "/gone"];
    let mut webhooks = BTreeMap::new();
    for path in paths {
        webhooks.insert(path, Webhook::create(&admin, &receiver.url(path), &["order.*"]).await);
    }
    let events = "with events as (
            insert into events (id, type, subject_id, sequence, data)
            select gen_random_uuid(), 'order.paid', gen_random_uuid(), 1, '{}'
            from generate_series(1, 500) returning id
        ), outbox as (insert into outbox (event_id) select id from events returning 1)
        select count(*) from outbox";
    assert_eq!(cluster.database.number(events).await, EVENTS);

    let started = AtomicUsize::new(0);
    let start = || {
        let number = started.fetch_add(1, Ordering::Relaxed);
        cluster.worker(&format!("worker-{number}"))
    };
    let mut workers = vec![start(), start(), start()];
    let mut logs = Vec::new();
    let arrived = || paths.iter().map(|path| receiver.received(path).len()).sum::<usize>();
    for _ in 0..8 {
        let before = arrived();
        let mut is_over = false;
        until(async || {
            is_over = cluster.database.number(NOT_ATTEMPTED).await == 0;
            is_over || arrived() >= before + 100
        })
        .await;
        if is_over {
            // To start a process may take as long as the rest of the deliveries.
            break;
        }
        let mut victim = workers.swap_remove(rand::random_range(0..workers.len()));
        let victim = victim.process();
        logs.push(victim.log().to_owned());
        victim.kill();
        workers.push(start());
    }

    assert!(logs.len() >= 3, "{} workers were killed", logs.len());

    // Everybody was asked once; nobody is asked again before it is time.
    until(async || cluster.database.number(NOT_ATTEMPTED).await == 0).await;
    let busy = webhooks["/busy"].id;
    let early = "select count(*) from webhook_deliveries
        where state = 'pending' and next_attempt_at - last_attempt_at < case attempts
            when 1 then interval '4 seconds' else interval '4 minutes' end";
    assert_eq!(cluster.database.number(early).await, 0);
    let asked_to_wait: i64 = sqlx::query_scalar(
        "select count(*) from webhook_deliveries where endpoint_id = $1 and state = 'pending'
             and next_attempt_at - last_attempt_at between '599 s' and '601 s'",
    )
    .bind(busy)
    .fetch_one(&mut cluster.database.connect().await)
    .await
    .unwrap();
    // But for those whose worker was killed with the first answer in its hands.
    assert!((400..=EVENTS).contains(&asked_to_wait), "{asked_to_wait}");

    let hurried_at = OffsetDateTime::now_utc();
    until(async || {
        hurry(&cluster.database).await;
        let open = "select count(*) from webhook_deliveries where state = 'pending'";
        cluster.database.number(open).await == 0
    })
    .await;
    for (path, webhook) in &webhooks {
        let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "select id, event_id, state from webhook_deliveries where endpoint_id = $1",
        )
        .bind(webhook.id)
        .fetch_all(&mut cluster.database.connect().await)
        .await
        .unwrap();
        let received = receiver.received(path);
        assert_eq!(too_early(&cluster, &received, hurried_at).await, [], "{path}");
        let ids: BTreeSet<Uuid> = received.iter().map(|received| received.id).collect();
        let known: BTreeSet<Uuid> = rows.iter().map(|(id, ..)| *id).collect();
        assert!(received.iter().all(|received| received.is_signed_with(&webhook.secret)));
        if *path == "/gone" {
            assert_eq!(webhook.get(&admin).await["disabled_reason"], "gone");
            assert!(ids.is_subset(&known));
            continue;
        }
        assert!(rows.iter().all(|(.., state)| state == "delivered"), "{path}");
        let events: BTreeSet<Uuid> = rows.iter().map(|(_, event, _)| *event).collect();
        assert_eq!((rows.len(), events.len()), (EVENTS as usize, EVENTS as usize), "{path}");
        assert_eq!(ids, known, "{path}: one id for each event, and each arrived");
    }
    assert_eq!(receiver.received("/trap").len(), 0);

    logs.extend(workers.iter_mut().map(|worker| worker.process().log().to_owned()));
    for log in logs {
        let log = std::fs::read_to_string(log).unwrap();
        assert!(!log.contains("whsec_"));
        for webhook in webhooks.values() {
            assert!(!log.contains(webhook.secret.trim_start_matches("whsec_")));
        }
    }
}
