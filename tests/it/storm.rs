//! The proof of what is promised of orders: whatever becomes of workers, of Redis and of the
//! payment provider while orders are placed, each order, its events, its jobs and its charge are
//! in line in the end. Faults come at random; the seed is printed, and `STORM_SEED` repeats it.

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lab::{
    api::Worker,
    provider::{Provider, Status, Turn},
    redis::Redis,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use sqlx::Executor;
use uuid::Uuid;

use crate::support::{Client, Cluster, ask_redis, own_redis, until};

/// Faults, one after the other, each in the middle of orders that are being placed.
const ROUNDS: usize = 8;

/// Orders that are placed between two faults, at least.
const BETWEEN: usize = 12;

/// Customers who place one order after the other.
const CUSTOMERS: usize = 3;

/// What befalls the shop.
#[derive(Debug)]
enum Blow {
    /// A worker is killed and started again.
    Kill(usize),
    /// A worker is frozen for longer than its lease, then goes on as if nothing had been.
    Freeze(usize),
    /// Redis ends, and comes back with nothing.
    StopRedis,
    /// Redis forgets everything, under way.
    FlushRedis,
}

impl Blow {
    /// Each kind in turn, so that none is left out; whom it hits is drawn.
    fn draw(round: usize, dice: &mut SmallRng, workers: usize) -> Self {
        match round % 4 {
            0 => Self::Kill(dice.random_range(0..workers)),
            1 => Self::StopRedis,
            2 => Self::Freeze(dice.random_range(0..workers)),
            _ => Self::FlushRedis,
        }
    }
}

/// How the provider takes the next requests.
fn turns(dice: &mut SmallRng) -> Vec<Turn> {
    let draw = |_| match dice.random_range(0..9) {
        0 => Turn::Fails(503),
        1 => Turn::FailsFor(503, 0),
        2 => Turn::DoesAndFails(500),
        3 => Turn::Silent,
        4 => Turn::Twice,
        5 => Turn::Mistaken,
        6 => Turn::Slow(Duration::from_millis(200)),
        _ => Turn::Honest,
    };
    (0..8).map(draw).collect()
}

/// The orders that were answered with 201.
#[derive(Clone, Default)]
struct Placed(Arc<Mutex<BTreeSet<Uuid>>>);

impl Placed {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Places orders until told to end, each until it is there.
    async fn place(self, customer: Client, product: Uuid, enough: Arc<AtomicBool>) {
        for key in 0.. {
            if enough.load(Ordering::Relaxed) {
                return;
            }
            let order = loop {
                let reply = customer.place_order(&key.to_string(), &[(product, 2)]).await;
                match reply.status {
                    201 => break reply.json(),
                    // Shed, in flight, or of unknown outcome: the same key tells.
                    409 | 503 => tokio::time::sleep(Duration::from_millis(20)).await,
                    status => panic!("{status}: {}", reply.json()),
                }
            };
            self.0.lock().unwrap().insert(order["id"].as_str().unwrap().parse().unwrap());
        }
    }
}

async fn strike(blow: &Blow, workers: &mut [Worker], redis: &mut Redis, placed: &Placed) {
    let soon = placed.len() + BETWEEN;
    match *blow {
        Blow::Kill(victim) => {
            workers[victim].process().kill();
            workers[victim].process().restart().unwrap();
        }
        Blow::Freeze(victim) => {
            workers[victim].process().pause();
            until(async || placed.len() >= soon).await;
            workers[victim].process().resume();
        }
        Blow::StopRedis => {
            redis.process().kill();
            until(async || placed.len() >= soon).await;
            redis.process().restart().unwrap();
            redis.wait_until_ready().unwrap();
        }
        Blow::FlushRedis => {
            ask_redis::<String>(redis, "FLUSHALL").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_order_is_charged_once_and_its_trail_is_whole_whatever_fails() {
    let seed = env::var("STORM_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("STORM_SEED={seed}");
    let mut dice = SmallRng::seed_from_u64(seed);
    let provider = Provider::start().unwrap();
    let mut redis = own_redis();
    let settings = [
        ("REDIS_URL", redis.url()),
        ("SHOAL_PAYMENTS_URL", provider.url()),
        ("SHOAL_PAYMENTS_TIMEOUT_MS", "500".to_owned()),
        ("SHOAL_JOB_LEASE_MS", "1000".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let cluster = Cluster::start(2, &settings).await;
    let mut workers: Vec<Worker> =
        ["one", "two", "three"].iter().map(|name| cluster.worker(name)).collect();
    let product = cluster.admin().await.create_product(1_000_000, 1_050).await;

    let (placed, enough) = (Placed::default(), Arc::new(AtomicBool::new(false)));
    let mut customers = Vec::new();
    for _ in 0..CUSTOMERS {
        let customer = cluster.client.register().await;
        customers.push(tokio::spawn(placed.clone().place(customer, product, enough.clone())));
    }
    for round in 0..ROUNDS {
        let soon = placed.len() + BETWEEN;
        provider.next(&turns(&mut dice));
        until(async || placed.len() >= soon).await;
        let blow = Blow::draw(round, &mut dice, workers.len());
        eprintln!("{} orders: {blow:?}", placed.len());
        strike(&blow, &mut workers, &mut redis, &placed).await;
    }
    enough.store(true, Ordering::Relaxed);
    for customer in customers {
        customer.await.unwrap();
    }

    // Nobody waits for the usual delays of charges; what is to be done is done all the same.
    let mut connection = cluster.database.connect().await;
    let left = "select count(*) + (select count(*) from outbox) from jobs
        where state in ('available', 'scheduled', 'running')";
    until(async || {
        let due = "update jobs set run_at = now()
            where state = 'scheduled' and kind = 'payments.charge'";
        connection.execute(due).await.unwrap();
        cluster.database.number(left).await == 0
    })
    .await;
    let placed = placed.0.lock().unwrap().clone();
    let count = i64::try_from(placed.len()).unwrap();
    for sum in [
        "select count(*) from orders",
        "select count(*) from orders where status = 'paid'",
        "select count(*) from payments where status = 'captured'",
        "select count(*) from events where type = 'order.created'",
        "select count(*) from events where type = 'order.paid'",
        "select count(distinct subject_id) from events where type like 'order.%'",
        "select count(*) / 2 from events where type like 'order.%'",
        "select count(*) from jobs where kind = 'payments.charge' and state = 'completed'",
        "select count(distinct args) from jobs where kind = 'payments.charge'",
    ] {
        assert_eq!(cluster.database.number(sum).await, count, "{sum}");
    }
    let dead = "select kind || ': ' || error from jobs where state = 'dead'";
    let dead: Vec<String> = sqlx::query_scalar(dead).fetch_all(&mut connection).await.unwrap();
    assert_eq!(dead, [""; 0]);
    for order in &placed {
        let charges = provider.charges(*order);
        assert_eq!(charges.len(), 1, "{order}: {charges:?}");
        assert_eq!((charges[0].amount, charges[0].status), (2_100, Status::Captured), "{order}");
    }
    let verdict = cluster.run(&["events", "verify"]);
    assert!(verdict.starts_with(&format!("{count} orders are what their")), "{verdict}");
}
