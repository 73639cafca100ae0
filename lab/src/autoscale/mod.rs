//! `cargo lab autoscale`: Kubernetes' autoscaler, as the shipped manifest has it, over replicas of this machine.
//!
//! Replicas are processes behind nginx. Load rises and falls; the replicas are scraped as Prometheus would, the
//! algorithm (`hpa`) says how many there are to be, and `fleet` starts or ends them. Two things are scaled, and
//! nothing else: what one replica is to carry is divided (`Plan::load_divisor`), since one machine carries all of
//! them, and so are all durations of the autoscaler and its metrics (`Plan::clock_factor`), since nobody waits
//! for half an hour. What the replicas themselves take to start and to drain is what it is.
//!
//! - `manifest` reads what is shipped; `profile` is the load over time, `shop` and `load` send it.
//! - `rate` is what Prometheus would make of the counters; `report` tells how it went.

pub mod hpa;
pub mod manifest;

mod fleet;
mod load;
mod profile;
mod rate;
mod report;
mod shop;

use std::thread;
use std::time::{Duration, Instant};

pub use load::Tally;
pub use manifest::Manifest;
pub use profile::Profile;

use fleet::Fleet;
use hpa::{Autoscaler, Moment, Observed, Samples, Target, Timing};
use load::Load;
use shop::Shop;

use crate::api::Shoal;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::site::Site;

/// Orders that take half a second, always on their way.
const SLOW_ORDERS: usize = 4;
/// Looking is cheap, and sleeping to the millisecond is nobody's need.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is simulated, and in which scale.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As it is shipped.
    pub manifest: Manifest,
    /// The requests per second that a replica is to carry are divided by this.
    pub load_divisor: f64,
    /// All durations of the autoscaler and of its metrics are divided by this.
    pub clock_factor: u32,
    /// In the time of the manifest.
    pub profile: Profile,
}

impl Plan {
    /// With replicas that carry `per_replica` requests a second instead of what the manifest says, a clock that
    /// is so much faster, and a load of up to `peak` replicas.
    pub fn carrying(
        manifest: Manifest,
        per_replica: f64,
        clock_factor: u32,
        peak: f64,
    ) -> Result<Self> {
        let rates = manifest.spec.targets.iter().filter_map(|target| match target {
            Target::Average { metric, value } if metric == manifest::RATE => Some(*value),
            _ => None,
        });
        let shipped = rates.reduce(f64::max).ok_or_else(|| {
            Error::new(format!("the autoscaler does not ask for {}", manifest::RATE))
        })?;
        let profile = Profile::day(manifest.spec.fewest, peak);
        Ok(Self { manifest, load_divisor: shipped / per_replica, clock_factor, profile })
    }
}

/// Where it runs.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Where the replicas and nginx are.
    pub site: &'a Site,
    /// How replicas are started: see [`patient`].
    pub shoal: &'a Shoal,
    /// A superuser's URL of their database.
    pub database: &'a str,
}

/// Replicas that drain as they are shipped to, and refuse nobody because this machine is slow: it carries all of
/// them, and some of the orders take half a second by design, which a replica would take for overload.
pub fn patient(shoal: Shoal) -> Result<Shoal> {
    const SETTINGS: [(&str, &str); 7] = [
        ("SHOAL_DRAIN_DELAY_MS", "5000"),
        ("SHOAL_REQUEST_TIMEOUT_MS", "20000"),
        ("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "15000"),
        ("SHOAL_DB_LOOK_TIMEOUT_MS", "10000"),
        ("SHOAL_REDIS_TIMEOUT_MS", "2000"),
        ("SHOAL_CONCURRENCY_MIN", "1024"),
        // With a slow clock it takes longer than a token usually lives.
        ("SHOAL_ACCESS_TOKEN_SECS", "7200"),
    ];
    let with = |shoal: Shoal, (name, value): (&str, &str)| shoal.with_setting(name, value);
    Ok(SETTINGS.into_iter().fold(shoal.without_limits()?, with))
}

/// How it was at one decision. Times are those of the manifest.
#[derive(Clone, Debug)]
pub struct Row {
    /// Since the beginning.
    pub at: Duration,
    /// Requests per second that were sent for.
    pub offered: f64,
    /// Requests per second by the metrics.
    pub measured: f64,
    /// Replicas that were decided on.
    pub wanted: u32,
    /// Replicas that were ready.
    pub ready: usize,
    /// Replicas that were draining.
    pub leaving: usize,
    /// What each metric asked for.
    pub proposals: Vec<Option<u32>>,
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Outcome {
    plan: Plan,
    per_replica: f64,
    /// One a decision.
    pub rows: Vec<Row>,
    /// What became of the requests.
    pub tally: Tally,
}

impl Outcome {
    /// How often the number of replicas turned from growing to shrinking or back. One rise and one fall of the
    /// load are one turn: whatever is more is flapping.
    #[must_use]
    pub fn turns(&self) -> usize {
        let wanted: Vec<u32> = self.rows.iter().map(|row| row.wanted).collect();
        turns(&wanted)
    }

    /// The most replicas there were.
    #[must_use]
    pub fn peak(&self) -> u32 {
        self.rows.iter().map(|row| row.wanted).max().unwrap_or_default()
    }

    /// How many there were in the end.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.rows.last().map_or(0, |row| row.wanted)
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        report::page(self)
    }
}

/// Starts the fewest replicas, lets the load come and go, and ends everything.
pub fn run(setting: Setting<'_>, plan: &Plan, mut say: impl FnMut(&Row)) -> Result<Outcome> {
    let factor = plan.clock_factor;
    let Manifest { mut spec, rate_window, scrape_interval } = plan.manifest.clone().faster(factor);
    let mut per_replica = 0.0;
    for target in &mut spec.targets {
        if let Target::Average { metric, value } = target
            && metric == manifest::RATE
        {
            *value /= plan.load_divisor;
            per_replica = *value;
        }
    }
    let timing = Timing::default().faster(factor);
    let targets = spec.targets.clone();
    let mut replicas = spec.fewest;
    let mut fleet = Fleet::start(setting.site, setting.shoal, replicas)?;
    let shop = Shop::open(setting.shoal, fleet.port(), SLOW_ORDERS)?;

    let began = Instant::now();
    let offered = {
        let profile = plan.profile.clone();
        move || profile.at(began.elapsed() * factor) * per_replica
    };
    let load = Load::start(fleet.port(), shop, setting.database.to_owned(), offered.clone())?;
    let mut autoscaler = Autoscaler::new(spec, timing);
    let (mut scrapes, mut looks, mut syncs) =
        (Every::new(scrape_interval), Every::new(timing.resources), Every::new(timing.sync));
    let mut rows = Vec::new();
    while began.elapsed() * factor < plan.profile.length() {
        if interrupt::requested() {
            return Err(Error::interrupted());
        }
        let now: Moment = began.elapsed();
        fleet.look(now)?;
        if scrapes.is_due(now) {
            fleet.scrape(now, rate_window);
        }
        if looks.is_due(now) {
            fleet.look_at_resources(began.elapsed(), timing.resources);
        }
        if syncs.is_due(now) {
            let samples: Vec<Samples> =
                targets.iter().map(|target| observed(&fleet, target, now, rate_window)).collect();
            let observed: Vec<_> = samples.iter().map(|samples| Observed { samples }).collect();
            let decision = autoscaler.decide(now, replicas, &fleet.pods(), &observed);
            autoscaler.scaled(now, replicas, decision.replicas);
            replicas = decision.replicas;
            fleet.resize(replicas, now)?;
            let rates = fleet.rates(now, rate_window);
            let row = Row {
                at: now * factor,
                offered: offered(),
                measured: rates.values().map(|sample| sample.value).sum(),
                wanted: replicas,
                ready: fleet.ready(),
                leaving: fleet.leaving(),
                proposals: decision.proposals,
            };
            say(&row);
            rows.push(row);
        }
        thread::sleep(LOOK_EVERY);
    }
    let tally = load.end()?;
    while fleet.leaving() > 0 {
        fleet.look(began.elapsed())?;
        thread::sleep(LOOK_EVERY);
    }
    Ok(Outcome { plan: plan.clone(), per_replica, rows, tally })
}

fn observed(fleet: &Fleet, target: &Target, now: Moment, window: Duration) -> Samples {
    match target {
        Target::Average { metric, .. } if metric == manifest::RATE => fleet.rates(now, window),
        Target::Utilization { resource, .. } if resource == "cpu" => fleet.cpu(),
        Target::Utilization { resource, .. } if resource == "memory" => fleet.memory(),
        // Nobody makes it: as where the adapter does not know a metric.
        _ => Samples::new(),
    }
}

/// Something that happens at intervals.
struct Every {
    interval: Duration,
    next: Moment,
}

impl Every {
    fn new(interval: Duration) -> Self {
        Self { interval, next: Moment::ZERO }
    }

    /// One that is late does not come twice: the next comes half an interval after it at the earliest.
    fn is_due(&mut self, now: Moment) -> bool {
        let Some(late) = now.checked_sub(self.next) else {
            return false;
        };
        let from = if late > self.interval / 2 { now } else { self.next };
        self.next = from + self.interval;
        true
    }
}

fn turns(wanted: &[u32]) -> usize {
    let changes = wanted.windows(2).filter(|pair| pair[0] != pair[1]);
    let ups: Vec<bool> = changes.map(|pair| pair[1] > pair[0]).collect();
    ups.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Every, turns};

    #[test]
    fn what_is_late_does_not_come_twice() {
        let mut every = Every::new(Duration::from_millis(500));
        let mut due = |millis: u64| every.is_due(Duration::from_millis(millis));
        // A little late is not later from then on; after a stall it starts anew.
        for (at, expected) in [
            (0, true),
            (20, false),
            (510, true),
            (990, false),
            (1000, true),
            (2900, true),
            (2920, false),
            (3390, false),
            (3400, true),
        ] {
            assert_eq!(due(at), expected, "at {at} ms");
        }
    }

    #[test]
    fn a_rise_and_a_fall_are_one_turn() {
        for (wanted, expected) in [
            (vec![3, 3, 3], 0),
            (vec![3, 5, 5, 7], 0),
            (vec![3, 7, 7, 6, 5, 3], 1),
            (vec![3, 7, 6, 7, 3], 3),
            (vec![], 0),
        ] {
            assert_eq!(turns(&wanted), expected, "{wanted:?}");
        }
    }
}
