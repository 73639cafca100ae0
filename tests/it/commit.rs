//! What a transaction promises: few round trips, all of it or nothing, and an honest word when
//! nobody knows.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use shoal::platform::{
    context::Context,
    db::{Error, Lsn},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::{
    pool::{cancel_after, is_in_transaction},
    support::{Client, Fleet, pgbouncer, topology, unique, until},
};

/// Queries that PgBouncer has passed on so far: each is one round trip.
async fn queries(console: &mut PgConnection, database: &str) -> u64 {
    let rows = console.fetch_all("show stats").await.unwrap();
    let row = rows.iter().find(|row| row.get_unchecked::<&str, _>("database") == database).unwrap();
    row.get_unchecked::<&str, _>("total_query_count").parse().unwrap()
}

async fn console(port: u16) -> PgConnection {
    let admin = &topology().pgbouncer_admin;
    let url = format!("postgres://{}:{}@127.0.0.1:{port}/pgbouncer", admin.user, admin.password);
    PgConnection::connect(&url).await.unwrap()
}

#[tokio::test]
async fn an_order_takes_five_round_trips_and_reading_it_one() {
    let pooler = pgbouncer(topology().primary.port);
    let fleet = Fleet::of(1).primary_pooler(pooler.port()).set("SHOAL_DB_POOL_SIZE", "1");
    // Without a replica that would take the reads.
    let fleet = fleet.set("DATABASE_REPLICA_URLS", "").start().await;
    let admin = fleet.admin().await;
    let items =
        [(admin.create_product(1_000, 100).await, 1), (admin.create_product(1_000, 100).await, 2)];
    let customer = fleet.client.register().await;
    let mut console = console(pooler.port()).await;
    let (mut places, mut reads) = (Vec::new(), Vec::new());
    for key in 0..8 {
        let before = queries(&mut console, &fleet.database.name).await;
        let order = customer.place_order(&key.to_string(), &items).await.expect(201);
        let between = queries(&mut console, &fleet.database.name).await;
        customer.get(&format!("/v1/orders/{}", order["id"].as_str().unwrap())).await.expect(200);
        let after = queries(&mut console, &fleet.database.name).await;
        places.push(between - before);
        reads.push(after - between);
    }
    // The first ones prepare their statements, and now and then a session is asked for.
    assert_eq!(places.iter().min(), Some(&5), "{places:?}");
    assert_eq!(reads.iter().min(), Some(&1), "{reads:?}");
}

/// What a relay does with the next COMMIT that it sees.
const PASS: u8 = 0;
const LOSE_COMMIT: u8 = 1;
const LOSE_ANSWER: u8 = 2;

/// Stands before PgBouncer and cuts a connection at its COMMIT, once for each time it is told to.
struct Relay {
    port: u16,
    next: Arc<AtomicU8>,
}

impl Relay {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let next = Arc::new(AtomicU8::new(PASS));
        let told = next.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, told.clone()));
            }
        });
        Self { port, next }
    }

    fn tell(&self, what: u8) {
        self.next.store(what, Ordering::Relaxed);
    }
}

async fn relay(client: TcpStream, told: Arc<AtomicU8>) {
    let server = TcpStream::connect(("127.0.0.1", topology().primary.pooler_port)).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut buffers = ([0; 65_536], [0; 65_536]);
    loop {
        tokio::select! {
            read = from_client.read(&mut buffers.0) => {
                let Ok(length @ 1..) = read else { return };
                let message = &buffers.0[..length];
                let cut = if message.windows(6).any(|word| word == b"commit") {
                    told.swap(PASS, Ordering::Relaxed)
                } else {
                    PASS
                };
                if cut == LOSE_COMMIT {
                    return;
                }
                pass_on(&mut to_server, message).await;
                if cut == LOSE_ANSWER {
                    // The answer is there, so the commit is done; nobody gets to know.
                    swallow(&mut from_server).await;
                    return;
                }
            }
            read = from_server.read(&mut buffers.1) => {
                let Ok(length @ 1..) = read else { return };
                pass_on(&mut to_client, &buffers.1[..length]).await;
            }
        }
    }
}

async fn pass_on(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) {
    // An end that has hung up is noticed by the next read.
    let _ = to.write_all(message).await;
}

async fn swallow(from: &mut (impl AsyncRead + Unpin)) {
    let _ = from.read(&mut [0; 1_024]).await;
}

struct Shop {
    fleet: Fleet,
    relay: Relay,
    product: Uuid,
    customer: Client,
}

async fn shop() -> Shop {
    let relay = Relay::start().await;
    let fleet = Fleet::of(1).primary_pooler(relay.port).start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    Shop { fleet, relay, product, customer }
}

impl Shop {
    /// Repeats the order until its key is free again, and checks what there is then.
    async fn retry(&self, why: &str) {
        let place = async || self.customer.place_order("k", &[(self.product, 3)]).await;
        until(async || place().await.status != 409).await;
        let again = place().await;
        again.expect(201);
        assert_eq!(again.header("idempotency-replayed"), "true");
        let number = async |sql| self.fleet.database.number(sql).await;
        assert_eq!(number("select count(*) from orders").await, 1, "{why}");
        assert_eq!(number("select count(*) from events where type = 'order.created'").await, 1);
        assert_eq!(number("select on_hand from inventory").await, 7);
    }
}

#[tokio::test]
async fn a_lost_answer_to_commit_is_told_as_unknown_and_the_retry_gets_the_one_result() {
    let shop = shop().await;
    shop.relay.tell(LOSE_ANSWER);
    let lost = shop.customer.place_order("k", &[(shop.product, 3)]).await;
    lost.expect_problem(503, "outcome_unknown");
    assert!(!lost.header("retry-after").is_empty());
    assert_eq!(shop.fleet.database.number("select count(*) from orders").await, 1);
    shop.retry("it had happened").await;
}

#[tokio::test]
async fn a_lost_commit_is_told_as_unknown_and_the_retry_does_the_work() {
    let shop = shop().await;
    shop.relay.tell(LOSE_COMMIT);
    let lost = shop.customer.place_order("k", &[(shop.product, 3)]).await;
    lost.expect_problem(503, "outcome_unknown");
    assert_eq!(shop.fleet.database.number("select count(*) from orders").await, 0);
    shop.retry("it had not happened").await;
}

/// Has every COMMIT of a session run `body` first.
async fn at_commit(database: &mut PgConnection, body: &str) {
    let function = format!(
        "create function at_commit() returns trigger language plpgsql as
         $$ begin {body}; return null; end $$"
    );
    database.execute(AssertSqlSafe(function)).await.unwrap();
    let trigger = "create constraint trigger at_commit after insert on users
        deferrable initially deferred for each row execute function at_commit()";
    database.execute(trigger).await.unwrap();
}

const INSERT: &str = "insert into users (id, email, name, password_hash)
    values (gen_random_uuid(), $1, 'A', '')";

#[tokio::test]
async fn a_commit_that_fails_is_no_commit() {
    let fleet = Fleet::one().await;
    at_commit(&mut fleet.database.connect().await, "raise 'not today'").await;
    let mut tx = fleet.app().db.begin().await.unwrap();
    sqlx::query(INSERT).bind("a@shoal.test").execute(&mut *tx).await.unwrap();
    let failed = tx.commit().await.unwrap_err();
    assert!(matches!(failed, Error::Bug(_)), "{failed:?}");
    assert_eq!(fleet.database.number("select count(*) from users").await, 0);
}

/// Nobody waits for the answer any more, and the next borrower must not get it.
#[tokio::test]
async fn a_cancelled_commit_leaves_a_clean_connection() {
    let fleet = Fleet::of(1).set("SHOAL_DB_POOL_SIZE", "1").start().await;
    at_commit(&mut fleet.database.connect().await, "perform pg_sleep(0.005)").await;
    let db = &fleet.app().db;
    for polls in 1..12 {
        let mut tx = db.begin().await.unwrap();
        let email = format!("{polls}@shoal.test");
        sqlx::query(INSERT).bind(email).execute(&mut *tx).await.unwrap();
        let commit = async {
            tx.commit().await.unwrap();
        };
        cancel_after(polls, commit).await;
        let mut conn = db.primary().await.unwrap();
        let answer: i32 = sqlx::query_scalar("select 42").fetch_one(&mut conn).await.unwrap();
        assert_eq!(answer, 42, "cut after {polls} polls");
        assert!(!is_in_transaction(&mut conn).await, "cut after {polls} polls");
    }
}

#[tokio::test]
async fn a_server_that_ends_during_commit_leaves_the_outcome_unknown() {
    let fleet = Fleet::one().await;
    let mut admin = fleet.database.connect().await;
    at_commit(&mut admin, "perform pg_sleep(60)").await;
    let mut tx = fleet.app().db.begin().await.unwrap();
    let backend: i32 =
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    sqlx::query(INSERT).bind("a@shoal.test").execute(&mut *tx).await.unwrap();
    let committed = tokio::spawn(tx.commit());
    let sleeps = "select count(*) from pg_stat_activity
        where pid = $1 and state = 'active' and wait_event = 'PgSleep'";
    until(async || {
        let found = sqlx::query_scalar::<_, i64>(sleeps).bind(backend);
        found.fetch_one(&mut admin).await.unwrap() == 1
    })
    .await;
    sqlx::query("select pg_terminate_backend($1)").bind(backend).execute(&mut admin).await.unwrap();
    let outcome = committed.await.unwrap();
    assert!(matches!(outcome, Err(Error::OutcomeUnknown(_))), "{outcome:?}");
    assert_eq!(fleet.database.number("select count(*) from users").await, 0);
}

/// Events and answer are written last, by one statement: whichever of them is refused.
#[tokio::test]
async fn no_order_without_its_event_and_no_event_without_its_order() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    let mut database = fleet.database.connect().await;
    for (table, rule) in
        [("events", "type <> 'order.created'"), ("idempotency_keys", "status <> 201")]
    {
        let refuse = format!("alter table {table} add constraint refused check ({rule}) not valid");
        database.execute(AssertSqlSafe(refuse)).await.unwrap();
        let failed = customer.place_order("k", &[(product, 3)]).await;
        failed.expect_problem(500, "internal");
        let number = async |sql| fleet.database.number(sql).await;
        assert_eq!(number("select count(*) from orders").await, 0);
        assert_eq!(number("select count(*) from order_items").await, 0);
        assert_eq!(number("select count(*) from events where type = 'order.created'").await, 0);
        assert_eq!(number("select count(*) from idempotency_keys").await, 0);
        assert_eq!(number("select on_hand from inventory").await, 10);
        let allow = format!("alter table {table} drop constraint refused");
        database.execute(AssertSqlSafe(allow)).await.unwrap();
    }
    customer.place_order("k", &[(product, 3)]).await.expect(201);
    let events = "select count(*) from events where type = 'order.created'";
    assert_eq!(fleet.database.number(events).await, 1);
}

/// Whoever has replayed the log up to there sees what was committed: not always by luck.
#[tokio::test]
async fn the_position_of_a_commit_is_behind_what_it_made_visible() {
    let fleet = Fleet::one().await;
    let replica = topology().replicas[0].direct_url(&topology().superuser, &fleet.database.name);
    fleet.database.replicated().await;
    let mut replica = PgConnection::connect(&replica).await.unwrap();
    for _ in 0..30 {
        let context = Arc::new(Context::new(
            "test".to_owned(),
            None,
            std::time::Instant::now() + std::time::Duration::from_secs(20),
        ));
        let email = format!("{}@shoal.test", unique("u"));
        let work = async {
            let mut tx = fleet.app().db.begin().await.unwrap();
            sqlx::query(INSERT).bind(&email).execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap()
        };
        let lsn = context.clone().scope(work).await;
        assert_eq!(context.committed(), Some(lsn));
        loop {
            let replayed = "select pg_last_wal_replay_lsn()::text";
            let replayed: String =
                sqlx::query_scalar(replayed).fetch_one(&mut replica).await.unwrap();
            if replayed.parse::<Lsn>().unwrap() >= lsn {
                break;
            }
        }
        let seen = sqlx::query_scalar::<_, i64>("select count(*) from users where email = $1");
        assert_eq!(seen.bind(&email).fetch_one(&mut replica).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_key_in_use_is_told_of_at_once_rather_than_waited_for() {
    let fleet = Fleet::of(2).start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    let mut database = fleet.database.connect().await;
    let mut holder = database.begin().await.unwrap();
    holder.execute("select from inventory for update").await.unwrap();
    let first = customer.clone();
    let first = tokio::spawn(async move { first.place_order("k", &[(product, 3)]).await });
    let waits = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    until(async || fleet.database.number(waits).await == 1).await;
    let second = customer.place_order("k", &[(product, 3)]).await;
    second.expect_problem(409, "idempotency_key_in_flight");
    assert!(!first.is_finished());
    holder.rollback().await.unwrap();
    let first = first.await.unwrap().expect(201);
    assert_eq!(customer.place_order("k", &[(product, 3)]).await.expect(201), first);
}
