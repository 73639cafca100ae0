//! Commits that wait for a standby, by the settings that are shipped: what a primary that is gone
//! for good takes along with them and without.

use std::{collections::BTreeSet, path::Path};

use lab::{fault::FaultProxy, postgres::OwnPostgres};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::{
    failover::ways,
    support::{Client, Fleet, own_postgres, until},
};

const PATIENT: &str = "20000";

/// A shop on a primary with standbys, whose place one of them may take.
struct Shop {
    own: OwnPostgres,
    ways: Vec<FaultProxy>,
    fleet: Fleet,
    customer: Client,
    product: Uuid,
}

/// Whether commits wait for the standbys.
enum Profile {
    Synchronous,
    Plain,
}

impl Shop {
    async fn open(standbys: usize, profile: Profile, request_timeout: &str) -> Self {
        let mut own = own_postgres(standbys);
        if let Profile::Synchronous = profile {
            let names = own.topology().replicas.iter().map(|node| node.name.clone());
            let names: Vec<String> = names.collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            own.primary.postgres.make_synchronous(&names).unwrap();
        }
        let ways = ways(&own);
        // Nothing is read from standbys: what is looked for is what the primary of the day has.
        let fleet = Fleet::of(1).postgres(&own).await.primary_pooler(ways[0].port());
        let fleet = fleet.replica_poolers(&[]).set("SHOAL_REQUEST_TIMEOUT_MS", request_timeout);
        let fleet = fleet.set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "2000").start().await;
        let product = fleet.admin().await.create_product(100, 100).await;
        let customer = fleet.client.register().await;
        fleet.database.replicated().await;
        Self { own, ways, fleet, customer, product }
    }

    async fn place(&self, key: &str) -> crate::support::Reply {
        self.customer.place_order(key, &[(self.product, 1)]).await
    }

    /// The primary dies at once, and this standby takes its place.
    async fn fail_over_to(&mut self, standby: usize) {
        self.own.primary.postgres.process().kill();
        let successor = &mut self.own.replicas[standby];
        successor.postgres.promote().unwrap();
        self.ways[0].lead_to(([127, 0, 0, 1], successor.pooler.port()).into()).unwrap();
        self.ways[0].reset().unwrap();
        until(async || self.customer.get("/v1/orders").await.status == 200).await;
    }

    /// A standby that was cut off gets nothing of what the primary has written meanwhile, not even
    /// what was on its way.
    fn cut_off(&mut self, standby: usize) {
        self.own.replicas[standby].postgres.process().kill();
    }

    /// Makes that standby the primary, after the old one is gone.
    async fn fail_over_to_cut_off(&mut self, standby: usize) {
        self.own.primary.postgres.process().kill();
        self.own.replicas[standby].postgres.process().restart().unwrap();
        self.own.replicas[standby].postgres.wait_until_ready().unwrap();
        self.fail_over_to(standby).await;
    }

    /// The orders that there are.
    async fn orders(&self) -> BTreeSet<String> {
        let page = self.customer.get("/v1/orders?limit=100").await.expect(200);
        let id = |order: &Value| order["id"].as_str().unwrap().to_owned();
        page["data"].as_array().unwrap().iter().map(id).collect()
    }
}

fn id(order: &Value) -> String {
    order["id"].as_str().unwrap().to_owned()
}

/// `on` is enough: what is flushed there is replayed before it becomes a primary.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_the_primary() {
    let mut shop = Shop::open(1, Profile::Synchronous, PATIENT).await;
    shop.own.replicas[0].postgres.pause_replay().unwrap();
    let mut acknowledged = BTreeSet::new();
    for turn in 0..5 {
        acknowledged.insert(id(&shop.place(&format!("k{turn}")).await.expect(201)));
    }
    shop.fail_over_to(0).await;
    assert_eq!(shop.orders().await, acknowledged);
    let again = shop.place("k0").await;
    assert!(acknowledged.contains(&id(&again.expect(201))));
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(shop.fleet.admin().await.stock(shop.product).await, 95);
}

/// What the profile is for.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_profile_an_acknowledged_order_is_lost() {
    let mut shop = Shop::open(1, Profile::Plain, PATIENT).await;
    shop.cut_off(0);
    let lost = id(&shop.place("k").await.expect(201));
    shop.fail_over_to_cut_off(0).await;
    assert_eq!(shop.orders().await, BTreeSet::new());
    shop.customer.get(&format!("/v1/orders/{lost}")).await.expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_profile_the_same_cut_loses_nothing_that_was_acknowledged() {
    let mut shop = Shop::open(1, Profile::Synchronous, PATIENT).await;
    let before = id(&shop.place("before").await.expect(201));
    shop.cut_off(0);
    shop.place("k").await.expect_problem(503, "outcome_unknown");
    shop.fail_over_to_cut_off(0).await;
    assert_eq!(shop.orders().await, BTreeSet::from([before.clone()]));
    // Asked again, the successor does what it knows nothing of, once.
    let order = id(&shop.place("k").await.expect(201));
    assert_eq!(id(&shop.place("k").await.expect(201)), order);
    assert_eq!(shop.orders().await, BTreeSet::from([before, order]));
}

/// With the deadline that is shipped, which ends sooner than the wait for COMMIT.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_for_a_standby_beyond_its_deadline() {
    let mut shop = Shop::open(1, Profile::Synchronous, "5000").await;
    shop.cut_off(0);
    shop.place("k").await.expect_problem(503, "deadline_exceeded");
}

/// Writing goes on once the operator has given the promise up, and what waited is done.
#[tokio::test(flavor = "multi_thread")]
async fn falling_back_finishes_what_waited() {
    let mut shop = Shop::open(1, Profile::Synchronous, PATIENT).await;
    shop.cut_off(0);
    shop.place("k").await.expect_problem(503, "outcome_unknown");
    shop.place("k").await.expect_problem(409, "idempotency_key_in_flight");
    assert_eq!(shop.orders().await, BTreeSet::new(), "nobody sees it before a standby has it");
    let url = shop.own.topology().superuser_url("postgres");
    let mut superuser = PgConnection::connect(&url).await.unwrap();
    // Its client is gone, and its connection to PgBouncer as well.
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut superuser).await.unwrap();
    assert!(waiting > 0);
    for statement in fall_back().lines() {
        superuser.execute(sqlx::AssertSqlSafe(statement.to_owned())).await.unwrap();
    }
    until(async || shop.place("k").await.status == 201).await;
    let replayed = shop.place("k").await;
    assert_eq!(replayed.header("idempotency-replayed"), "true");
    assert_eq!(shop.orders().await, BTreeSet::from([id(&replayed.expect(201))]));
    shop.place("after").await.expect(201);
}

/// The statements that operators are told to use.
fn fall_back() -> String {
    let manual = read("docs/operations.md");
    let (_, section) = manual.split_once("\n## Synchronous replication\n").unwrap();
    let (_, statements) = section.split_once("```sql\n").unwrap();
    statements.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_standbys_may_be_away() {
    let mut shop = Shop::open(2, Profile::Synchronous, PATIENT).await;
    shop.cut_off(0);
    let first = id(&shop.place("k1").await.expect(201));
    let second = id(&shop.place("k2").await.expect(201));
    shop.fail_over_to(1).await;
    assert_eq!(shop.orders().await, BTreeSet::from([first, second]));
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A standby that nobody waits for by its name protects nothing; one that is waited for and does
/// not exist stops all writing.
#[test]
fn the_composed_profile_waits_for_the_servers_that_there_are() {
    let (profile, base) = (read("compose/synchronous.yml"), read("docker-compose.scale.yml"));
    let names = profile.lines().find_map(|line| line.trim().strip_prefix("SYNCHRONOUS_STANDBYS: "));
    let names: BTreeSet<&str> = names.unwrap().trim_matches('\'').split(", ").collect();
    let hosts = [profile.as_str(), base.as_str()].map(|text| {
        text.lines().filter_map(|line| line.trim().strip_prefix("hostname: postgres-"))
    });
    let hosts: BTreeSet<String> =
        hosts.into_iter().flatten().map(|name| format!("\"postgres-{name}\"")).collect();
    assert_eq!(names, hosts.iter().map(String::as_str).collect());
    assert!(read("compose/postgres.sh").contains("SYNCHRONOUS_STANDBYS"));
    let operator = read("k8s/postgres-synchronous.example.yaml");
    for setting in ["method: any", "number: 1", "dataDurability: required"] {
        assert!(operator.contains(setting), "{setting}");
    }
}
