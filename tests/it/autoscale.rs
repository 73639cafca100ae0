//! Kubernetes' autoscaler, with the numbers that are shipped, starts and ends replicas as load comes
//! and goes: nobody is refused, and it makes up its mind once.

use std::{path::Path, time::Duration};

use lab::{
    api::Shoal,
    autoscale::{self, Manifest, Outcome, Plan, Setting},
    site::Site,
};

use crate::support::{Database, topology};

/// What a replica is to carry here, in requests per second: one machine carries all of them.
const PER_REPLICA: f64 = 12.0;
/// The autoscaler's clock: its window of five minutes takes ten seconds.
const CLOCK_FACTOR: u32 = 30;
/// In replicas.
const PEAK: f64 = 4.0;

async fn simulate(plan: Plan, settings: &'static [(&str, &str)]) -> Outcome {
    let database = Database::create().await;
    tokio::task::spawn_blocking(move || {
        let site = Site::beside(topology(), &database.name).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_shoal"));
        let shoal = autoscale::patient(Shoal::new(topology(), &database.name, binary))
            .unwrap()
            .with_signing_key(&site)
            .unwrap()
            .with_setting("SHOAL_REDIS_PREFIX", &database.name)
            .with_setting("SHOAL_S3_PREFIX", &database.name)
            .with_setting("SHOAL_DB_POOL_SIZE", "5");
        let with = |shoal: Shoal, (name, value): &(&str, &str)| shoal.with_setting(name, value);
        let shoal = settings.iter().fold(shoal, with);
        let database = topology().superuser_url(&database.name);
        let setting = Setting { site: &site, shoal: &shoal, database: &database };
        autoscale::run(setting, &plan, |row| println!("{row:?}")).unwrap()
    })
    .await
    .unwrap()
}

fn plan() -> Plan {
    let manifest = Manifest::shipped("production").unwrap();
    Plan::carrying(manifest, PER_REPLICA, CLOCK_FACTOR, PEAK).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_the_load_without_flapping_and_without_a_failed_request() {
    let plan = plan();
    let fewest = plan.manifest.spec.fewest;
    let outcome = simulate(plan, &[]).await;
    let tally = &outcome.tally;
    assert_eq!(tally.failed, 0, "{:?}", tally.examples);
    assert!(tally.answered > 1_000, "{} requests were too few", tally.answered);
    // What is to be carried by four, and the slow orders: one more, or two where a rate came out high.
    assert!((4..=6).contains(&outcome.peak()), "{} replicas at the peak", outcome.peak());
    assert_eq!(outcome.last(), fewest, "back to the fewest");
    assert_eq!(outcome.turns(), 1, "up once and down once");
    assert!(outcome.page().contains("<svg"), "with its drawings");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, to show that the test above would notice"]
async fn without_the_window_of_stabilisation_it_flaps() {
    let mut plan = plan();
    plan.manifest.spec.behavior.down.window = Duration::ZERO;
    let outcome = simulate(plan, &[]).await;
    assert!(outcome.turns() > 1, "{} turns", outcome.turns());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute, to show that the test above would notice"]
async fn without_the_drain_requests_fail() {
    let at_once = &[("SHOAL_DRAIN_DELAY_MS", "0"), ("SHOAL_DRAIN_CAP_MS", "1")];
    let outcome = simulate(plan(), at_once).await;
    assert!(outcome.tally.failed > 0, "of {} requests", outcome.tally.answered);
}
