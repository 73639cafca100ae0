//! What a worker can do: the kinds of jobs, who is told of which events, and the schedules.

use std::{collections::BTreeMap, time::Duration};

use futures::future::{BoxFuture, FutureExt};

use super::{Failure, Job, Lease, NewJob, Queue, Schedule};
use crate::platform::events::Event;

/// Declared by the domain, once. `S` is what jobs are given.
pub struct Registry<S> {
    kinds: BTreeMap<&'static str, Kind<S>>,
    queues: BTreeMap<&'static str, &'static Queue>,
    subscriptions: Vec<Subscription>,
    schedules: Vec<Schedule>,
}

/// How to run the jobs of one kind.
pub(super) struct Kind<S> {
    pub(super) run: fn(serde_json::Value, S, Lease) -> BoxFuture<'static, Result<(), Failure>>,
    pub(super) delay_after: fn(i16) -> Duration,
    pub(super) timeout: Duration,
}

impl<S> Clone for Kind<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Kind<S> {}

/// Turns events that are passed on together into the jobs of one subscriber.
type Subscription = Box<dyn Fn(&[Event]) -> Result<Vec<NewJob>, sqlx::Error> + Send + Sync>;

impl<S: Clone + Send + Sync + 'static> Registry<S> {
    pub fn new() -> Self {
        Self {
            kinds: BTreeMap::new(),
            queues: BTreeMap::new(),
            subscriptions: Vec::new(),
            schedules: Vec::new(),
        }
    }

    /// Makes a kind of job known.
    pub fn job<J: Job<State = S>>(mut self) -> Self {
        let kind = Kind { run: run::<J>, delay_after: J::delay_after, timeout: J::TIMEOUT };
        self.kinds.insert(J::KIND, kind);
        self.queues.insert(J::QUEUE.name, J::QUEUE);
        self
    }

    /// Makes a kind of job known, one of which is written for every event that `subscribe` makes
    /// one of: once in the whole fleet, with the event's own commit as its cause.
    pub fn once<J: Job<State = S>>(mut self, subscribe: fn(&Event) -> Option<J>) -> Self {
        self.subscriptions.push(Box::new(move |events| {
            let jobs = events.iter().filter_map(|event| Some((event, subscribe(event)?)));
            jobs.map(|(event, job)| Ok(NewJob::new(&job)?.caused_by(event))).collect()
        }));
        self.job::<J>()
    }

    /// Like [`Registry::once`], with one job for all events that are passed on together: for a
    /// subscriber to whom many at a time are hardly more work than one. Each event is in one job.
    pub fn once_per_batch<J: Job<State = S>>(
        mut self,
        subscribe: fn(&[Event]) -> Option<J>,
    ) -> Self {
        self.subscriptions.push(Box::new(move |events| {
            subscribe(events).iter().map(|job| NewJob::new(job)).collect()
        }));
        self.job::<J>()
    }

    /// Runs a job at every tick, once in the whole fleet.
    pub fn schedule<J: Job<State = S>>(
        mut self,
        name: &'static str,
        every: Duration,
        job: fn() -> J,
    ) -> Self {
        self.schedules.push(Schedule { name, every, job: Box::new(move || NewJob::new(&job())) });
        self.job::<J>()
    }

    /// Everything that `other` knows as well.
    pub fn merge(mut self, other: Self) -> Self {
        self.kinds.extend(other.kinds);
        self.queues.extend(other.queues);
        self.subscriptions.extend(other.subscriptions);
        self.schedules.extend(other.schedules);
        self
    }

    pub(super) fn kind(&self, name: &str) -> Option<Kind<S>> {
        self.kinds.get(name).copied()
    }

    pub fn queues(&self) -> impl Iterator<Item = &'static Queue> {
        self.queues.values().copied()
    }

    pub fn schedules(&self) -> &[Schedule] {
        &self.schedules
    }

    /// The jobs of all who are told of these events.
    pub(in crate::platform) fn jobs_for(
        &self,
        events: &[Event],
    ) -> Result<Vec<NewJob>, sqlx::Error> {
        let mut jobs = Vec::with_capacity(events.len());
        for subscription in &self.subscriptions {
            jobs.append(&mut subscription(events)?);
        }
        Ok(jobs)
    }
}

impl<S: Clone + Send + Sync + 'static> Default for Registry<S> {
    fn default() -> Self {
        Self::new()
    }
}

fn run<J: Job>(
    args: serde_json::Value,
    app: J::State,
    lease: Lease,
) -> BoxFuture<'static, Result<(), Failure>>
where
    J::State: Send + Sync + 'static,
{
    async move {
        let job: J = serde_json::from_value(args).map_err(|error| {
            Failure::hopeless(format!("arguments that a {} does not understand: {error}", J::KIND))
        })?;
        job.run(&app, &lease).await
    }
    .boxed()
}
