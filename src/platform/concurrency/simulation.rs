//! The limiter against a simulated database: some connections, a time per request, a queue before
//! them, and clients who come as often as they like. Time is simulated, chance is seeded.

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{Bounds, Ended, Limiter, Outcome, Priority};

const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000 * MILLI;
const BOUNDS: Bounds = Bounds { min: 32, max: 1_024 };

/// Connections, and how long a request takes on one: 1,000 requests per second.
const SERVERS: usize = 10;
const SERVICE: u64 = 10 * MILLI;
const CAPACITY: f64 = 1_000.0;

/// Who waited longer has gone.
const DEADLINE: u64 = SECOND;

struct Simulation {
    limiter: Limiter,
    random: SmallRng,
    now: u64,
    /// What happens next, by time; the number keeps those apart that happen at the same time.
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
    queue: VecDeque<u64>,
    idle: usize,
    /// Nothing ends before this.
    stalled_until: u64,
    report: Report,
}

enum Event {
    Arrival,
    /// Of the request that came at that time.
    Completion(u64),
}

#[derive(Default, Clone, Copy)]
struct Report {
    in_time: usize,
    too_late: usize,
    shed: usize,
    lowest_limit: usize,
    slowest: u64,
}

impl Simulation {
    fn new() -> Self {
        Self {
            limiter: Limiter::new(BOUNDS, 1),
            random: SmallRng::seed_from_u64(7),
            now: 0,
            events: BTreeMap::new(),
            number: 0,
            queue: VecDeque::new(),
            idle: SERVERS,
            stalled_until: 0,
            report: Report::default(),
        }
    }

    fn add(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.insert((at, self.number), event);
    }

    /// Lets clients come at `load` times the capacity for so long.
    fn run(&mut self, load: f64, time: u64) -> Report {
        self.report = Report { lowest_limit: usize::MAX, ..Report::default() };
        let end = self.now + time;
        self.events.retain(|_, event| matches!(event, Event::Completion(_)));
        self.add(self.now, Event::Arrival);
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                self.add(at, event);
                break;
            }
            self.now = at;
            match event {
                Event::Arrival => {
                    self.arrive();
                    let chance: f64 = self.random.random();
                    let pause = -(1.0 - chance).ln() / (CAPACITY * load) * SECOND as f64;
                    self.add(at + pause as u64, Event::Arrival);
                }
                Event::Completion(began) => self.complete(began),
            }
            self.report.lowest_limit = self.report.lowest_limit.min(self.limiter.limit());
        }
        self.now = end;
        self.report
    }

    fn arrive(&mut self) {
        if self.limiter.enter(0, Priority::Write) {
            self.queue.push_back(self.now);
            self.begin();
        } else {
            self.report.shed += 1;
        }
    }

    fn begin(&mut self) {
        while self.idle > 0 {
            let Some(began) = self.queue.pop_front() else { return };
            self.idle -= 1;
            let varied = SERVICE / 2 + self.random.random_range(0..SERVICE);
            self.add(self.now.max(self.stalled_until) + varied, Event::Completion(began));
        }
    }

    fn complete(&mut self, began: u64) {
        self.idle += 1;
        let (ended, took) = (self.now, self.now - began);
        let in_time = took <= DEADLINE;
        let outcome = if in_time { Outcome::Succeeded } else { Outcome::Failed };
        self.limiter.leave(0);
        let priority = Priority::Write;
        self.limiter.learn(0, &Ended { priority, began, ended, client: 0, outcome });
        self.report.slowest = self.report.slowest.max(took);
        *(if in_time { &mut self.report.in_time } else { &mut self.report.too_late }) += 1;
        self.begin();
    }

    /// From now on nothing ends for so long, as when a dependency hangs.
    fn stall(&mut self, time: u64) {
        self.stalled_until = self.now + time;
        let waiting: Vec<_> = self.events.keys().copied().collect();
        for (index, key) in waiting.into_iter().enumerate() {
            if let Some(event) = self.events.remove(&key) {
                self.add(self.stalled_until + index as u64, event);
            }
        }
    }
}

/// In time per second, as a part of the capacity.
fn goodput(report: &Report, seconds: u64) -> f64 {
    report.in_time as f64 / seconds as f64 / CAPACITY
}

#[test]
fn below_the_capacity_nothing_is_shed() {
    for load in [0.1, 0.5, 0.8] {
        let report = Simulation::new().run(load, 60 * SECOND);
        assert_eq!((report.shed, report.too_late), (0, 0), "at {load}");
        assert_eq!(report.lowest_limit, BOUNDS.max, "at {load}");
    }
}

#[test]
fn above_it_the_rest_is_shed_and_what_is_let_in_is_done_in_time() {
    for load in [1.5, 2.0, 5.0, 20.0] {
        let mut simulation = Simulation::new();
        // What the routes can do is known from a quiet time.
        simulation.run(0.5, 10 * SECOND);
        // While it finds its level, it is full at first.
        let first = simulation.run(load, 3 * SECOND);
        assert!(goodput(&first, 3) > 0.6, "{} at {load}", goodput(&first, 3));
        for _ in 0..5 {
            let report = simulation.run(load, 60 * SECOND);
            assert!(goodput(&report, 60) > 0.97, "{} at {load}", goodput(&report, 60));
            assert_eq!(report.too_late, 0, "at {load}");
            assert!(report.slowest < 300 * MILLI, "{} us at {load}", report.slowest);
        }
        simulation.run(0.5, 2 * SECOND);
        let after = simulation.run(0.8, 10 * SECOND);
        assert_eq!((after.shed, after.too_late), (0, 0), "after {load}");
    }
}

#[test]
fn after_a_stall_all_is_served_again() {
    let mut simulation = Simulation::new();
    simulation.run(0.5, 10 * SECOND);
    simulation.stall(3 * SECOND);
    let during = simulation.run(0.8, 5 * SECOND);
    assert!(during.lowest_limit >= BOUNDS.max / 8, "collapsed to {}", during.lowest_limit);
    simulation.run(0.8, 2 * SECOND);
    let after = simulation.run(0.8, 10 * SECOND);
    assert_eq!((after.shed, after.too_late), (0, 0));
    assert_eq!(simulation.limiter.limit(), BOUNDS.max);
}
