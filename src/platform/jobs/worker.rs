//! Claims jobs and runs them, a bounded number at a time.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, Failure, Lease, Queue, Registry,
    keeper::{Held, Keeper, Next, Outcome},
    measures::Measures,
    queries::{self, Claimed},
    tend, wake,
};
use crate::platform::{
    bell::Bell,
    context::Context,
    db::{self, Db},
    events::relay::Relay,
    metrics::Metrics,
    redis::Redis,
    shutdown::Tasks,
};

/// Jobs of one queue that are claimed at once, at most.
const CLAIM: usize = 100;

/// After the first slot has become free, time for others to: a claim for each would be many.
const GATHER: Duration = Duration::from_millis(2);

/// Between two attempts to reach a database that is away.
const RETRY: Duration = Duration::from_millis(500);

/// How long the end of a worker waits for a database that is away.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// A kind of job that this build does not know is left to a newer one.
const UNKNOWN_KIND_DELAY: Duration = Duration::from_secs(10);

/// Characters of an error that are kept with its job.
const ERROR_LENGTH: usize = 2_000;

/// Without a poll for this long a worker counts as dead. More than the longest time between two
/// that can be set.
const POLL_AGE_LIMIT: Duration = Duration::from_secs(60);

/// Runs jobs and passes events on until it is told to stop.
pub struct Worker<S> {
    shared: Arc<Shared<S>>,
    keeper: Keeper,
    relay: Relay<S>,
}

pub(super) struct Shared<S> {
    app: S,
    db: Db,
    redis: Redis,
    registry: Arc<Registry<S>>,
    config: Config,
    /// Host, process and a random part: what rows and logs call it.
    name: String,
    slots: Vec<(&'static Queue, Arc<Semaphore>)>,
    /// Told whenever a slot becomes free.
    freed: Notify,
    /// Rung when another process tells of work.
    told: Bell,
    held: Held,
    outcomes: mpsc::Sender<Outcome>,
    running: TaskTracker,
    /// Cancelled when what still runs is to be given back.
    giving_up: CancellationToken,
    measures: Measures,
    pulse: Pulse,
}

/// What is to be begun after a claim, as far as one can tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Perhaps jobs, but only once a slot is free.
    NoSlots,
    /// Perhaps jobs, and slots for them.
    AndSlots,
}

/// When a worker last polled, whatever it was answered: a new process would be answered the same.
/// Cheap to clone.
#[derive(Clone)]
pub struct Pulse {
    epoch: Instant,
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { epoch: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    fn beat(&self) {
        self.last.store(self.epoch.elapsed().as_millis() as u64, Ordering::Release);
    }

    /// Whether the last poll is recent enough.
    pub fn is_alive(&self) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Acquire));
        self.epoch.elapsed().saturating_sub(last) < POLL_AGE_LIMIT
    }
}

impl<S: Clone + Send + Sync + 'static> Worker<S> {
    /// # Errors
    /// A metric is registered twice.
    pub fn new(
        app: S,
        (db, redis): (Db, Redis),
        registry: Registry<S>,
        config: Config,
        metrics: &Metrics,
    ) -> prometheus::Result<Self> {
        let registry = Arc::new(registry);
        let db = db.for_loops();
        let held = Held::default();
        let slots: Vec<_> = registry
            .queues()
            .map(|queue| (queue, Arc::new(Semaphore::new(queue.concurrency))))
            .collect();
        // As many as can be under way: whoever has run a job never waits here.
        let most = slots.iter().map(|(queue, _)| queue.concurrency).sum::<usize>().max(1);
        let (outcomes, receiver) = mpsc::channel(most);
        let keeper =
            Keeper { db: db.clone(), held: held.clone(), outcomes: receiver, lease: config.lease };
        let told = Bell::default();
        let relay = Relay::new(db.clone(), redis.clone(), registry.clone(), config.poll);
        let shared = Shared {
            app,
            db,
            redis,
            registry,
            config,
            name: name(),
            slots,
            freed: Notify::new(),
            told,
            held,
            outcomes,
            running: TaskTracker::new(),
            giving_up: CancellationToken::new(),
            measures: Measures::new(metrics)?,
            pulse: Pulse::default(),
        };
        Ok(Self { shared: Arc::new(shared), keeper, relay })
    }

    /// Whether it polls.
    pub fn pulse(&self) -> Pulse {
        self.shared.pulse.clone()
    }

    /// Runs jobs until `shutdown` completes, then claims no more, waits for those that run for
    /// `drain_cap`, and gives back the others.
    pub async fn run(self, tasks: &Tasks, shutdown: impl Future<Output = ()>, drain_cap: Duration) {
        let Self { shared, keeper, relay } = self;
        let kept = TaskTracker::new();
        tasks.spawn(kept.track_future(keeper.run()));
        tracing::info!(worker = shared.name, "working");
        let stop = CancellationToken::new();
        let others = async {
            tokio::join!(
                relay.run(&shared.told),
                wake::hear(&shared.redis, &shared.told),
                tend::run(&shared),
            )
        };
        tokio::join!(
            async {
                shutdown.await;
                stop.cancel();
            },
            // Ends by itself: a claim that is on its way must not be left without its jobs begun.
            // It takes no longer than a primary may be silent.
            shared.dispatch(tasks, &stop),
            stop.run_until_cancelled(others),
        );
        tracing::info!(jobs = shared.running.len(), "no longer claiming jobs");
        shared.running.close();
        if timeout(drain_cap, shared.running.wait()).await.is_err() {
            tracing::warn!(jobs = shared.running.len(), "drain cap reached: giving them back");
            shared.giving_up.cancel();
            shared.running.wait().await;
        }
        // The last sender: the keeper records what is left, then ends.
        drop(shared);
        kept.close();
        if timeout(RECORD_WAIT, kept.wait()).await.is_err() {
            tracing::warn!("outcomes of jobs are not recorded: their leases will run out");
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Shared<S> {
    /// Claims jobs until `stop` is cancelled.
    async fn dispatch(self: &Arc<Self>, tasks: &Tasks, stop: &CancellationToken) {
        let (mut here, mut elsewhere) = (self.db.bell().listen(), self.told.listen());
        while !stop.is_cancelled() {
            self.pulse.beat();
            let left = match self.claim(tasks).await {
                Ok(left) => left,
                Err(error) => {
                    tracing::warn!(%error, "cannot ask for jobs");
                    stop.run_until_cancelled(sleep(RETRY)).await;
                    continue;
                }
            };
            if left == Left::AndSlots {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.freed.notified(), if left == Left::NoSlots => sleep(GATHER).await,
                () = here.rung() => {}
                () = elsewhere.rung() => {}
                () = sleep(self.config.poll) => {}
            }
        }
    }

    /// Begins as many jobs as there are slots: what may be left to begin.
    async fn claim(self: &Arc<Self>, tasks: &Tasks) -> Result<Left, db::Error> {
        let queues: Vec<&str> = self.slots.iter().map(|(queue, _)| queue.name).collect();
        let slots: Vec<i32> =
            self.slots.iter().map(|(_, free)| free.available_permits().min(CLAIM) as i32).collect();
        if slots.iter().all(|slots| *slots == 0) {
            return Ok(Left::NoSlots);
        }
        let mut conn = self.db.primary().await?;
        let lease = self.config.lease;
        let claimed = queries::claim(&mut conn, &queues, &slots, lease, &self.name).await?;
        drop(conn);
        self.measures.last_poll.set(OffsetDateTime::now_utc().unix_timestamp() as f64);
        let mut counts = vec![0; slots.len()];
        for job in claimed {
            let Some(at) = queues.iter().position(|queue| *queue == job.queue) else { continue };
            counts[at] += 1;
            // Only this loop takes permits, and it asked for no more jobs than there were.
            let Ok(permit) = self.slots[at].1.clone().try_acquire_owned() else { continue };
            let lost = self.held.add(job.id, job.fence);
            let run = self.clone().run(job, lost, permit);
            tasks.spawn(self.running.track_future(run));
        }
        // A queue that gave less than it was asked for is empty.
        let full = || (0..slots.len()).filter(|at| counts[*at] == slots[*at]);
        Ok(if full().any(|at| self.slots[at].1.available_permits() > 0) {
            Left::AndSlots
        } else if full().next().is_some() {
            Left::NoSlots
        } else {
            Left::Nothing
        })
    }

    async fn run(
        self: Arc<Self>,
        job: Claimed,
        lost: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) {
        let start = Instant::now();
        let (id, fence) = (job.id, job.fence);
        let (queue, kind) = (job.queue.clone(), job.kind.clone());
        let (attempt, is_last) = (job.attempt, job.attempt >= job.max_attempts);
        let delay_after = self.registry.kind(&job.kind).map(|kind| kind.delay_after);
        let ended = tokio::select! {
            ended = self.attempt(job) => ended,
            () = lost.cancelled() => {
                tracing::warn!(job = %id, kind, "taken over by another worker");
                self.held.forget(id, fence);
                drop(permit);
                self.freed.notify_one();
                return;
            }
            () = self.giving_up.cancelled() => Err(Failure::Postpone(Duration::ZERO)),
        };
        let (next, error) = match ended {
            Ok(()) => (Next::Completed, None),
            Err(Failure::Postpone(delay)) => (Next::Postponed(delay), None),
            Err(Failure::Hopeless(why)) => (Next::Dead, Some(why)),
            Err(Failure::Retry { why, .. }) if is_last => (Next::Dead, Some(why)),
            Err(Failure::Retry { why, after }) => {
                let usual = delay_after.map_or(RETRY, |delay_after| delay_after(attempt));
                (Next::Again(after.unwrap_or_default().max(usual)), Some(why))
            }
        };
        let outcome = next.name();
        match &next {
            Next::Dead => tracing::error!(job = %id, kind, error, "a job is a dead letter"),
            Next::Again(_) => tracing::info!(job = %id, kind, attempt, error, "a job failed"),
            Next::Completed | Next::Postponed(_) => {}
        }
        let labels = [&*queue, &*kind, outcome];
        let seconds = self.measures.job_seconds.with_label_values(&labels);
        seconds.observe(start.elapsed().as_secs_f64());
        let error = error.as_deref().map(presentable);
        let _ = self.outcomes.send(Outcome { id, fence, next, error }).await;
        drop(permit);
        self.freed.notify_one();
    }

    async fn attempt(&self, job: Claimed) -> Result<(), Failure> {
        let Some(kind) = self.registry.kind(&job.kind) else {
            tracing::info!(kind = job.kind, "a job of a kind that this build does not know");
            return Err(Failure::Postpone(UNKNOWN_KIND_DELAY));
        };
        let request_id = job.request_id.unwrap_or_else(|| job.id.to_string());
        let context = Context::new(request_id, job.traceparent, Instant::now() + kind.timeout);
        let lease = Lease {
            job: job.id,
            fence: job.fence,
            attempt: job.attempt,
            is_last_attempt: job.attempt >= job.max_attempts,
        };
        let work = Arc::new(context).scope((kind.run)(job.args, self.app.clone(), lease));
        match timeout(kind.timeout, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(Failure::retry("it panicked; the log has the place")),
            Err(_) => Err(Failure::retry(format!("not done after {:?}", kind.timeout))),
        }
    }

    pub(super) fn parts(&self) -> (&Db, &Registry<S>, &Config, &Measures) {
        (&self.db, &self.registry, &self.config, &self.measures)
    }
}

/// What Postgres takes as text, and a person reads to its end.
fn presentable(error: &str) -> String {
    error.chars().filter(|character| *character != '\0').take(ERROR_LENGTH).collect()
}

/// Unique, and tells a person where to look.
fn name() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    format!("{host}:{}:{:08x}", std::process::id(), rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_not_polled_for_a_minute_is_dead() {
        let long_ago = Instant::now().checked_sub(POLL_AGE_LIMIT).unwrap();
        let pulse = Pulse { epoch: long_ago, last: Arc::default() };
        assert!(!pulse.is_alive());
        pulse.beat();
        assert!(pulse.is_alive());
    }
}
