//! What schedules keep in order: purges, partitions, statistics, orders that nobody pays for.

use std::time::Duration;

use shoal::platform::{
    jobs::{self, Registry, Worker},
    locks::Locks,
    upkeep::Purged,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Client, Fleet, metric, until};

const SECOND: Duration = Duration::from_secs(1);

async fn execute(fleet: &Fleet, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::Executor::execute(&mut fleet.database.connect().await, sql).await.unwrap();
}

const OLD: [&str; 7] = [
    "insert into idempotency_keys (scope, body_hash, status, body, created_at)
     select sha256(n::text::bytea), '', 200, '',
            now() - case when n <= 2500 then interval '25 hours' else interval '23 hours' end
     from generate_series(1, 2600) n",
    "insert into jobs (id, queue, kind, args, max_attempts, state, finished_at)
     select gen_random_uuid(), 'q', 'k', '{}', 1, state, now() - days * interval '1 day'
     from unnest(array['completed', 'discarded', 'dead']) state, unnest(array[1, 8]) days",
    "insert into jobs (id, queue, kind, args, max_attempts, created_at)
     values (gen_random_uuid(), 'q', 'k', '{}', 1, now() - interval '1 year')",
    "insert into schedule_ticks (schedule, tick, begun_at)
     select schedule, now() - days * interval '1 day', now() - days * interval '1 day'
     from (values ('a', 1), ('a', 8), ('a', 9), ('gone', 30), ('gone', 31)) t (schedule, days)",
    "insert into sessions (id, user_id, user_agent, ip, expires_at, revoked_at)
     values ('00000000-0000-0000-0000-000000000001', gen_random_uuid(), '', '::1', now() - interval '1 minute', null),
            ('00000000-0000-0000-0000-000000000002', gen_random_uuid(), '', '::1', now() + interval '1 day', now() - interval '2 days'),
            ('00000000-0000-0000-0000-000000000003', gen_random_uuid(), '', '::1', now() + interval '1 day', now() - interval '1 hour'),
            ('00000000-0000-0000-0000-000000000004', gen_random_uuid(), '', '::1', now() + interval '1 day', null)",
    "insert into refresh_tokens (token_hash, session_id, expires_at)
     select sha256(('a' || n)::bytea), ('00000000-0000-0000-0000-00000000000' || n)::uuid, now() + interval '1 day'
     from generate_series(1, 4) n",
    "insert into refresh_tokens (token_hash, session_id, expires_at, used_at)
     values (sha256('old'), '00000000-0000-0000-0000-000000000004', now() - interval '2 days', now() - interval '9 days'),
            (sha256('young'), '00000000-0000-0000-0000-000000000004', now() - interval '1 hour', null)",
];

#[tokio::test]
async fn what_is_over_is_purged_and_nothing_else() {
    let fleet = Fleet::one().await;
    for sql in OLD {
        execute(&fleet, sql).await;
    }
    let purged = fleet.app().upkeep.purge().await.unwrap();
    let expected = Purged {
        idempotency_keys: 2_500,
        jobs: 2,
        schedule_ticks: 3,
        sessions: 2,
        refresh_tokens: 1,
    };
    assert_eq!(purged, Some(expected));
    for (left, count) in [
        ("select count(*) from idempotency_keys", 100),
        // Dead letters stay for a person, and what is unfinished for a worker.
        ("select count(*) from jobs where state = 'dead'", 2),
        ("select count(*) from jobs where state = 'available'", 1),
        ("select count(*) from jobs", 5),
        // The newest of each schedule, however old.
        ("select count(*) from schedule_ticks where schedule = 'gone'", 1),
        ("select count(*) from schedule_ticks where schedule = 'a'", 1),
        ("select count(*) from sessions", 2),
        ("select count(*) from refresh_tokens", 3),
    ] {
        assert_eq!(fleet.database.number(left).await, count, "{left}");
    }
    let again = fleet.app().upkeep.purge().await.unwrap();
    assert_eq!(again, Some(Purged::default()));
}

#[tokio::test]
async fn a_purge_passes_over_what_is_locked_and_over_another_purge() {
    let fleet = Fleet::one().await;
    execute(&fleet, OLD[0]).await;
    let mut holder = fleet.app().db.begin().await.unwrap();
    let locked = "select scope from idempotency_keys order by created_at limit 7 for update";
    sqlx::query(locked).execute(&mut *holder).await.unwrap();
    let purged = fleet.app().upkeep.purge().await.unwrap().unwrap();
    assert_eq!(purged.idempotency_keys, 2_493);
    drop(holder);
    let lock = Locks::new(fleet.app().redis.clone())
        .acquire("purge", Duration::from_secs(600))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fleet.app().upkeep.purge().await.unwrap(), None);
    lock.release().await.unwrap();
    // Once the holder has let go of them.
    let mut rest = 0;
    until(async || {
        rest += fleet.app().upkeep.purge().await.unwrap().unwrap().idempotency_keys;
        rest == 7
    })
    .await;
}

#[tokio::test]
async fn without_redis_there_is_a_purge_all_the_same() {
    let mut fleet = Fleet::of(1).own_redis().start().await;
    execute(&fleet, OLD[0]).await;
    fleet.redis.as_mut().unwrap().process().kill();
    assert_eq!(fleet.app().upkeep.purge().await.unwrap().unwrap().idempotency_keys, 2_500);
}

/// As the application's role, which has no DDL: the functions have.
#[tokio::test]
async fn months_to_come_get_their_partitions() {
    let fleet = Fleet::one().await;
    let months = "select count(*) from pg_inherits where inhparent::regclass::text
        in ('events', 'orders', 'order_items')";
    let before = fleet.database.number(months).await;
    // As it is three months after the migration, when nothing was done since.
    for table in ["events", "orders", "order_items"] {
        let last = "select max(inhrelid::regclass::text) from pg_inherits
            where inhparent = $1::regclass and inhrelid::regclass::text like '%\\_y%'";
        let last: String = sqlx::query_scalar(last)
            .bind(table)
            .fetch_one(&mut fleet.database.connect().await)
            .await
            .unwrap();
        execute(&fleet, &format!("drop table {last}")).await;
    }
    fleet.app().upkeep.renew_partitions().await.unwrap();
    assert_eq!(fleet.database.number(months).await, before);
    // With their indexes, and as much of an audit trail as the others.
    let alike = "select count(distinct (select count(*) from pg_index where indrelid = inhrelid))
        from pg_inherits where inhparent = 'orders'::regclass";
    assert_eq!(fleet.database.number(alike).await, 1);
    let changeable = "select count(*) from pg_inherits where inhparent = 'events'::regclass
        and (has_table_privilege('shoal_app', inhrelid, 'update')
             or has_table_privilege('shoal_app', inhrelid, 'delete')
             or not has_table_privilege('shoal_app', inhrelid, 'insert'))";
    assert_eq!(fleet.database.number(changeable).await, 0);
    // Nothing to do: nobody is locked out.
    let mut reader = fleet.database.connect().await;
    sqlx::Executor::execute(&mut reader, "begin; lock table orders in access share mode")
        .await
        .unwrap();
    fleet.app().upkeep.renew_partitions().await.unwrap();
}

/// A month whose partition is being made is not waited for by those who read and write.
#[tokio::test]
async fn a_new_partition_gives_up_rather_than_make_others_wait() {
    let fleet = Fleet::one().await;
    let last = "select max(inhrelid::regclass::text) from pg_inherits
        where inhparent = 'orders'::regclass and inhrelid::regclass::text like '%\\_y%'";
    let last: String =
        sqlx::query_scalar(last).fetch_one(&mut fleet.database.connect().await).await.unwrap();
    execute(&fleet, &format!("drop table {last}")).await;
    let mut reader = fleet.database.connect().await;
    let read = "begin; select count(*) from orders";
    sqlx::Executor::execute(&mut reader, read).await.unwrap();
    let refused = fleet.app().upkeep.renew_partitions().await;
    assert!(refused.unwrap_err().to_string().contains("lock timeout"));
    // Nor does it depend on whoever calls it.
    let patient = "set role shoal_app; set lock_timeout = 0; set statement_timeout = '20s';
        select create_month_partitions('orders', 3)";
    let refused = sqlx::Executor::execute(&mut fleet.database.connect().await, patient).await;
    assert!(refused.unwrap_err().to_string().contains("lock timeout"));
    sqlx::Executor::execute(&mut reader, "rollback").await.unwrap();
    fleet.app().upkeep.renew_partitions().await.unwrap();
}

#[tokio::test]
async fn months_that_are_not_to_be_kept_are_detached_and_stay_as_tables() {
    let fleet = Fleet::of(1).set("SHOAL_PARTITION_KEEP_MONTHS", "2").start().await;
    for (table, months_ago) in [("orders", 1), ("orders", 2), ("orders", 3), ("events", 14)] {
        execute(
            &fleet,
            &format!(
                "set role shoal_migrator;
                 do $$
                 declare
                     month timestamptz := date_trunc('month', now(), 'UTC') - interval '{months_ago} months';
                 begin
                     execute format('create table %I partition of {table} for values from (%L) to (%L)',
                         '{table}' || to_char(month at time zone 'UTC', '\"_y\"YYYY\"m\"MM'),
                         uuid_at(month), uuid_at(month + interval '1 month'));
                 end $$"
            ),
        )
        .await;
    }
    let attached = "select count(*) from pg_inherits where inhparent in
        ('orders'::regclass, 'events'::regclass)";
    let before = fleet.database.number(attached).await;
    fleet.app().upkeep.renew_partitions().await.unwrap();
    assert_eq!(fleet.database.number(attached).await, before - 2);
    let detached = "select count(*) from pg_class c where relkind = 'r' and not relispartition
        and relname ~ '^(orders|events)_y\\d{4}m\\d{2}$'
        and has_table_privilege('shoal_app', oid, 'select')
        and not has_table_privilege('shoal_app', oid, 'insert')";
    assert_eq!(fleet.database.number(detached).await, 2);
    fleet.app().upkeep.renew_partitions().await.unwrap();
    assert_eq!(fleet.database.number(attached).await, before - 2);
}

#[tokio::test]
async fn partitioned_tables_get_statistics() {
    let fleet = Fleet::one().await;
    execute(
        &fleet,
        "insert into orders (id, customer_id, status, total_amount, currency)
         select overlay(gen_random_uuid()::text placing left(uuid_at(now())::text, 13) from 1)::uuid,
                gen_random_uuid(), 'pending', 1, 'EUR' from generate_series(1, 100)",
    )
    .await;
    let known = "select count(*) from pg_stats where tablename = 'orders' and inherited";
    assert_eq!(fleet.database.number(known).await, 0);
    fleet.app().upkeep.refresh_statistics().await.unwrap();
    assert!(fleet.database.number(known).await > 0);
}

#[tokio::test]
async fn rows_in_a_default_partition_are_seen() {
    let fleet = Fleet::one().await;
    let series = "db_default_partition_rows{table=\"orders\"}";
    let config = jobs::Config { poll: SECOND, lease: SECOND, retention: SECOND };
    // Of a month that nobody has made.
    execute(
        &fleet,
        "insert into orders (id, customer_id, status, total_amount, currency)
         select uuid_at(now() + interval '2 years'), gen_random_uuid(), 'completed', 1, 'EUR'",
    )
    .await;
    let worker = Worker::new(
        fleet.app().clone(),
        (fleet.app().db.clone(), fleet.app().redis.clone()),
        Registry::new(),
        config,
        &fleet.app().metrics,
    );
    let stop = CancellationToken::new();
    let work = worker.unwrap().run(&fleet.app().tasks, stop.cancelled(), SECOND);
    let measured = async {
        until(async || metric(&fleet, series) == 1.0).await;
        stop.cancel();
    };
    tokio::join!(work, measured);
}

async fn order(customer: &Client, product: Uuid, quantity: i64) -> Uuid {
    let key = crate::support::unique("key");
    let placed = customer.place_order(&key, &[(product, quantity)]).await.expect(201);
    placed["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_paid_in_time_is_cancelled_and_its_stock_returned() {
    let fleet = Fleet::of(1).set("SHOAL_ORDER_PAYMENT_SECS", "1").with_workers().start().await;
    let product = fleet.admin().await.create_product(100, 500).await;
    let customer = fleet.client.register().await;
    let mut orders = Vec::new();
    for _ in 0..3 {
        orders.push(order(&customer, product, 5).await);
    }
    let app = fleet.app();
    shoal::domain::orders::mark_paid(app, orders[0]).await.unwrap();
    // The schedule ticks once a minute: this is another worker's job for it.
    let expire = "insert into jobs (id, queue, kind, args, max_attempts)
        values (gen_random_uuid(), 'orders', 'orders.expire', '{}', 12)";
    until(async || {
        execute(&fleet, expire).await;
        let cancelled = "select count(*) from orders where status = 'cancelled'";
        fleet.database.number(cancelled).await == 2
    })
    .await;
    assert_eq!(fleet.database.number("select count(*) from orders where status = 'paid'").await, 1);
    assert_eq!(fleet.database.number("select on_hand from inventory").await, 95);
    let trail = customer.get(&format!("/v1/orders/{}/events", orders[1])).await.expect(200);
    let last = &trail["data"][1];
    assert_eq!(last["type"], "order.cancelled");
    assert_eq!(last["data"]["reason"], "payment_overdue");
    assert_eq!(last["data"]["previous"], "pending");
    // Once, however often it is done.
    execute(&fleet, expire).await;
    let left = "select count(*) from jobs where kind = 'orders.expire' and state <> 'completed'";
    until(async || fleet.database.number(left).await == 0).await;
    assert_eq!(fleet.database.number("select on_hand from inventory").await, 95);
    let events = "select count(*) from events where type = 'order.cancelled'";
    assert_eq!(fleet.database.number(events).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_somebody_is_about_to_pay_is_left_alone() {
    let fleet = Fleet::of(1).set("SHOAL_ORDER_PAYMENT_SECS", "1").with_workers().start().await;
    let product = fleet.admin().await.create_product(100, 500).await;
    let customer = fleet.client.register().await;
    let paying = order(&customer, product, 5).await;
    let mut payment = fleet.app().db.begin().await.unwrap();
    let lock = sqlx::query("select from orders where id = $1 for no key update");
    lock.bind(paying).execute(&mut *payment).await.unwrap();
    let other = order(&customer, product, 5).await;
    let expire = "insert into jobs (id, queue, kind, args, max_attempts)
        values (gen_random_uuid(), 'orders', 'orders.expire', '{}', 12)";
    until(async || {
        execute(&fleet, expire).await;
        let cancelled = "select count(*) from orders where status = 'cancelled'";
        fleet.database.number(cancelled).await == 1
    })
    .await;
    drop(payment);
    let status = sqlx::query_scalar::<_, String>("select status from orders where id = $1");
    let status = status.bind(other).fetch_one(&mut fleet.database.connect().await).await.unwrap();
    assert_eq!(status, "cancelled");
}
