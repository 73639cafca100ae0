//! How much one replica on one core carries: the mix of the load test (`loadtest/shop.js`), sent over more and
//! more connections, until more of them only wait longer. `shoal plan` goes by what comes of it.

use serde::Serialize;

use super::data::{CUSTOMERS, HOT_PRODUCTS, ORDERS, PRODUCTS};
use super::figures::Sample;
use super::stage::{LIST, Stage};
use super::wrk::{Mix, Request, Wrk, write_mix};
use super::{WARM_UP_SECONDS, proc};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::Progress;

/// Each twice the one before: the knee is wherever it is between two of them.
const CONNECTIONS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Ten visits of the load test: in each a page of the catalogue and three products, in one an order that is read
/// back.
const MIX: Mix = Mix { lists: 10, products: 30, own_orders: 1, orders: 1 };
/// Less than this from one step to all later ones is no gain.
const GAIN: f64 = 1.1;

/// Requests over rising concurrency.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Knee {
    pub(super) mix: Mix,
    /// The part of the requests that place an order.
    pub(super) orders_share: f64,
    pub(super) steps: Vec<Step>,
    /// The connections of the step beyond which requests only take longer.
    pub(super) connections: usize,
}

/// So many connections.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    pub(super) connections: usize,
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Of the replica's core, per request.
    pub(super) cpu_us: f64,
    /// For which a request held a server connection to the primary, and to all replicas of it together.
    pub(super) primary_us: f64,
    pub(super) replicas_us: f64,
    pub(super) errors: u64,
}

impl Knee {
    /// The step beyond which requests only take longer.
    pub(super) fn step(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.connections == self.connections)
    }

    pub(super) fn errors(&self) -> u64 {
        self.steps.iter().map(|step| step.errors).sum()
    }
}

/// Measures every step, all of them in each round.
pub(super) fn run(
    stage: &mut Stage<'_>,
    wrk: &std::path::Path,
    (seconds, rounds): (u64, u32),
    progress: &Progress,
) -> Result<Knee> {
    let data = &stage.data;
    let hot = (0..HOT_PRODUCTS).map(|number| {
        let path = format!("/v1/products/{}", data.product(1 + number));
        Request::get(path).with_token(&data.tokens[number % CUSTOMERS])
    });
    let lists = data.tokens.iter().map(|token| Request::get(LIST).with_token(token));
    let own = (1..=ORDERS).map(|number| {
        let path = format!("/v1/orders/{}", data.order(number));
        Request::get(path).with_token(data.token_of_order(number))
    });
    let reads = [lists.collect(), hot.collect(), own.collect::<Vec<_>>()];
    let tokens = (&*data.tokens, &*data.products, PRODUCTS);
    let script = write_mix(&stage.scripts, "knee", &MIX, &reads, tokens)?;

    let mut rounds_of: Vec<Vec<Step>> = vec![Vec::new(); CONNECTIONS.len()];
    for round in 1..=rounds {
        let step = progress.step(format!("Round {round} of {rounds}: rising concurrency"));
        for (steps, connections) in rounds_of.iter_mut().zip(CONNECTIONS) {
            step.say(&format!("{connections} connections"));
            let wrk = Wrk {
                program: wrk,
                cores: &stage.cores.others_list(),
                script: &script,
                port: stage.api.port(),
                threads: stage.cores.load_threads().min(connections),
                connections,
            };
            steps.push(measure(stage, &wrk, seconds)?);
        }
        step.done();
    }
    let steps: Vec<Step> = rounds_of.into_iter().filter_map(middle).collect();
    let connections = knee(&steps).map(|step| step.connections);
    Ok(Knee {
        mix: MIX,
        orders_share: f64::from(MIX.orders) / f64::from(MIX.sum()),
        connections: connections.ok_or_else(|| Error::new("nothing was measured"))?,
        steps,
    })
}

fn measure(stage: &mut Stage<'_>, wrk: &Wrk<'_>, seconds: u64) -> Result<Step> {
    stage.checkpoint()?;
    wrk.run(WARM_UP_SECONDS)?;
    let pid = stage.api.process().pid();
    let (held, cpu) = (stage.connections_held()?, proc::cpu_time(pid)?);
    let sample = wrk.run(seconds)?;
    let (cpu_after, held_after) = (proc::cpu_time(pid)?, stage.connections_held()?);
    if interrupt::requested() {
        return Err(Error::interrupted());
    }
    let Some(per_second) = sample.per_second() else {
        return Err(Error::new(format!("{} connections got no answer", wrk.connections)));
    };
    let Sample { requests, errors, p50_us, p99_us, .. } = sample;
    let per_request = |microseconds: f64| microseconds / requests as f64;
    let cpu = cpu_after.saturating_sub(cpu);
    Ok(Step {
        connections: wrk.connections,
        per_second,
        p50_us: p50_us.unwrap_or_default(),
        p99_us: p99_us.unwrap_or_default(),
        cpu_us: per_request(cpu.as_secs_f64() * 1e6),
        primary_us: per_request(held_after.primary_us - held.primary_us),
        replicas_us: per_request(held_after.replicas_us - held.replicas_us),
        errors,
    })
}

/// The round in the middle by requests per second, with the errors of all.
fn middle(mut rounds: Vec<Step>) -> Option<Step> {
    let errors = rounds.iter().map(|step| step.errors).sum();
    rounds.sort_by(|a, b| f64::total_cmp(&a.per_second, &b.per_second));
    let middle = rounds.get(rounds.len() / 2)?;
    Some(Step { errors, ..middle.clone() })
}

/// The first step that no later one outdoes by a tenth, while all later ones have a longer p99; the last where
/// there is no such step.
fn knee(steps: &[Step]) -> Option<&Step> {
    let ends_the_gain = |(index, step): &(usize, &Step)| {
        steps[index + 1..]
            .iter()
            .all(|later| later.per_second < GAIN * step.per_second && later.p99_us > step.p99_us)
    };
    steps.iter().enumerate().find(ends_the_gain).map(|(_, step)| step)
}

#[cfg(test)]
mod tests {
    use super::{Step, knee, middle};

    fn step(connections: usize, per_second: f64, p99_us: f64) -> Step {
        Step {
            connections,
            per_second,
            p50_us: 0.0,
            p99_us,
            cpu_us: 0.0,
            primary_us: 0.0,
            replicas_us: 0.0,
            errors: 1,
        }
    }

    #[test]
    fn the_knee_is_where_requests_only_take_longer() {
        let rising = [step(1, 100.0, 1.0), step(2, 190.0, 1.1), step(4, 300.0, 2.0)];
        assert_eq!(knee(&rising).map(|step| step.connections), Some(4));
        let bent =
            [step(1, 100.0, 1.0), step(2, 190.0, 1.1), step(4, 200.0, 2.0), step(8, 195.0, 4.0)];
        assert_eq!(knee(&bent).map(|step| step.connections), Some(2));
        // One that was slow by chance is none.
        let dented =
            [step(1, 100.0, 1.0), step(2, 105.0, 1.1), step(4, 200.0, 1.2), step(8, 201.0, 2.0)];
        assert_eq!(knee(&dented).map(|step| step.connections), Some(4));
        assert!(knee(&[]).is_none());
    }

    #[test]
    fn the_middle_round_has_the_errors_of_all() {
        let found = middle(vec![step(1, 300.0, 1.0), step(1, 100.0, 1.0), step(1, 200.0, 1.0)]);
        let found = found.expect("there are rounds");
        assert!((found.per_second - 200.0).abs() < 1e-9);
        assert_eq!(found.errors, 3);
        assert!(middle(Vec::new()).is_none());
    }
}
