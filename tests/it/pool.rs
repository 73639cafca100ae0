//! What the pool promises to the next borrower of a connection. Each fleet here has a pool of
//! one, so that the next borrower gets the same connection, if it was kept.

use std::{pin::pin, task::Poll, time::Duration};

use shoal::platform::db::{Conn, Db, Error};

use tokio::time::timeout;

use crate::support::{Fleet, topology};

async fn fleet() -> Fleet {
    Fleet::of(1).set("SHOAL_DB_POOL_SIZE", "1").start().await
}

/// Polls a future a few times and drops it, as a client does that hangs up.
pub async fn cancel_after(polls: usize, future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(()) = futures::poll!(future.as_mut()) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Within a transaction, time stands still.
pub async fn is_in_transaction(conn: &mut Conn) -> bool {
    let now = "select now()::text";
    let first: String = sqlx::query_scalar(now).fetch_one(&mut *conn).await.unwrap();
    let second: String = sqlx::query_scalar(now).fetch_one(&mut *conn).await.unwrap();
    first == second
}

#[tokio::test]
async fn a_cancelled_begin_leaves_no_transaction_behind() {
    let fleet = fleet().await;
    let db: &Db = &fleet.app().db;
    // Wherever it is cut: before the connection is there, while BEGIN is under way, after it.
    for polls in 1..12 {
        cancel_after(polls, async {
            let _tx = db.begin().await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let mut conn = db.primary().await.unwrap();
        assert!(!is_in_transaction(&mut conn).await, "cut after {polls} polls");
    }
}

#[tokio::test]
async fn a_dropped_transaction_lets_go_of_its_locks_at_once() {
    let fleet = fleet().await;
    let product = fleet.admin().await.create_product(5, 100).await;
    let mut tx = fleet.app().db.begin().await.unwrap();
    sqlx::query("update inventory set on_hand = 0").execute(&mut *tx).await.unwrap();
    drop(tx);
    // Nobody borrows the connection again: the lock must not wait for that.
    let mut other = fleet.database.connect().await;
    // Less than the 5 s after which Postgres itself ends an idle transaction.
    sqlx::query("set lock_timeout = '3s'").execute(&mut other).await.unwrap();
    sqlx::query("select from inventory where product_id = $1 for update")
        .bind(product)
        .execute(&mut other)
        .await
        .unwrap();
    assert_eq!(fleet.database.number("select on_hand from inventory").await, 5);
}

#[tokio::test]
async fn the_rest_of_a_cancelled_answer_is_not_the_next_ones() {
    let fleet = fleet().await;
    let db = &fleet.app().db;
    for polls in 1..12 {
        cancel_after(polls, async {
            let mut conn = db.primary().await.unwrap();
            let rows = "select generate_series(1, 5000)::bigint, pg_sleep(0.0001)::text";
            sqlx::query(rows).fetch_all(&mut conn).await.unwrap();
        })
        .await;
        let mut conn = db.primary().await.unwrap();
        let answer: i32 = sqlx::query_scalar("select 42").fetch_one(&mut conn).await.unwrap();
        assert_eq!(answer, 42, "cut after {polls} polls");
    }
}

#[tokio::test]
async fn a_transaction_with_a_failed_statement_is_not_committed_in_silence() {
    let fleet = fleet().await;
    let mut tx = fleet.app().db.begin().await.unwrap();
    let failed = sqlx::query("select 1 / 0").execute(&mut *tx).await;
    assert!(failed.is_err());
    // Postgres itself would answer this COMMIT with a ROLLBACK, and no error.
    assert!(matches!(tx.commit().await, Err(Error::Aborted)));
}

#[tokio::test]
async fn a_connection_that_was_cut_is_replaced() {
    // Without PgBouncer in between, the end of the backend is the end of the connection.
    let port = topology().primary.port;
    let fleet = Fleet::of(1).set("SHOAL_DB_POOL_SIZE", "1").primary_pooler(port).start().await;
    let db = &fleet.app().db;
    let mut admin = fleet.database.connect().await;
    let mut conn = db.primary().await.unwrap();
    let pid = "select pg_backend_pid()";
    let backend: i32 = sqlx::query_scalar(pid).fetch_one(&mut conn).await.unwrap();
    let terminate = sqlx::query("select pg_terminate_backend($1, 5000)").bind(backend);
    terminate.execute(&mut admin).await.unwrap();
    assert!(sqlx::query(pid).execute(&mut conn).await.is_err());
    drop(conn);
    // Right after, as in steady use: too soon for the pool to ping it.
    let mut conn = db.primary().await.unwrap();
    let next: i32 = sqlx::query_scalar(pid).fetch_one(&mut conn).await.unwrap();
    assert_ne!(next, backend);
}

/// Before COMMIT the caches are told, and Redis may take its time.
#[tokio::test]
async fn a_commit_that_is_cancelled_while_the_caches_are_told_leaves_no_transaction_behind() {
    let mut fleet = Fleet::of(1).own_redis().set("SHOAL_DB_POOL_SIZE", "1").start().await;
    let db = fleet.app().db.clone();
    let mut tx = db.begin().await.unwrap();
    tx.evict(fleet.app().product_cache.eviction(1));
    fleet.redis.as_mut().unwrap().process().pause();
    let commit = timeout(Duration::from_millis(50), tx.commit()).await;
    assert!(commit.is_err(), "Redis does not answer");
    let mut conn = db.primary().await.unwrap();
    assert!(!is_in_transaction(&mut conn).await);
    fleet.redis.as_mut().unwrap().process().resume();
}

/// A primary that was made read-only still answers, and would go on refusing every write.
#[tokio::test]
async fn a_connection_to_a_read_only_server_is_not_kept() {
    // Without PgBouncer in between, what is set for the session stays with the connection.
    let port = topology().primary.port;
    let fleet = Fleet::of(1).set("SHOAL_DB_POOL_SIZE", "1").primary_pooler(port).start().await;
    let db = &fleet.app().db;
    let pid = "select pg_backend_pid()";
    let mut conn = db.primary().await.unwrap();
    let first: i32 = sqlx::query_scalar(pid).fetch_one(&mut conn).await.unwrap();
    let read_only = "set session characteristics as transaction read only";
    sqlx::query(read_only).execute(&mut conn).await.unwrap();
    let refused = sqlx::query("update users set name = ''").execute(&mut conn).await;
    assert!(matches!(Error::from(refused.unwrap_err()), Error::Unavailable(_)));
    drop(conn);
    let mut conn = db.primary().await.unwrap();
    let second: i32 = sqlx::query_scalar(pid).fetch_one(&mut conn).await.unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_full_pool_says_so_instead_of_waiting_on() {
    let fleet = Fleet::of(1)
        .set("SHOAL_DB_POOL_SIZE", "1")
        .set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "1000")
        .set("DATABASE_REPLICA_URLS", "")
        .start()
        .await;
    let db = &fleet.app().db;
    let held = db.primary().await.unwrap();
    assert!(matches!(db.primary().await, Err(Error::Busy("primary"))));
    let customer = fleet.client.get("/v1/products/00000000-0000-7000-8000-000000000000").await;
    let problem = customer.expect_problem(503, "overloaded");
    assert_eq!(problem["status"], 503);
    assert_eq!(customer.header("retry-after"), "1");
    drop(held);
    db.primary().await.unwrap();
}

#[tokio::test]
async fn a_deadline_reaches_the_statement() {
    use std::time::Instant;

    use shoal::platform::context::Context;
    let fleet = fleet().await;
    let deadline = Instant::now() + Duration::from_millis(700);
    let context = Context::new("test".to_owned(), None, deadline);
    let limit = std::sync::Arc::new(context).scope(async {
        let mut tx = fleet.app().db.begin().await.unwrap();
        let show = "select setting::int from pg_settings where name = 'statement_timeout'";
        sqlx::query_scalar::<_, i32>(show).fetch_one(&mut *tx).await.unwrap()
    });
    let limit = limit.await;
    assert!((1..=700).contains(&limit), "{limit} ms");
}
