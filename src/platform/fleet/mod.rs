//! The processes that run: each has a lease in Redis that tells the others of it, and is registered
//! with Consul if there is one. Both are for looking: nothing is decided by them, and a process
//! serves as well without.
//!
//! A process that dies is off the list once its lease has run out; one that ends takes itself off,
//! after it has drained. Ids are made anew at each start, so that one that was frozen speaks for
//! itself alone.

mod consul;
mod leases;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::consul::Config as ConsulConfig;
use self::{
    consul::{Consul, Registration},
    leases::Leases,
};
use super::{
    breaker::Breakers,
    health::{Health, Status},
    metrics::Metrics,
    redis::{Redis, Unavailable},
    shutdown::Tasks,
};

/// Renewals in the time of a lease: one that fails leaves time for another.
const RENEWALS: u32 = 3;

/// How often a process looks whether it has something else to say, and tries again to say it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long taking oneself off the lists may take, on top of the drain. What could not be told in
/// this time becomes known by the lease, and by Consul's check.
pub(in crate::platform) const LEAVE_WAIT: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Config {
    /// A process that was not heard of for this long is off the list.
    pub lease: Duration,
    /// The name or address at which others reach this process, if that is not what it listens on.
    pub host: Option<String>,
    /// The agent to register with, if there is one.
    pub consul: Option<ConsulConfig>,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Api,
    Worker,
    ApiAndWorker,
}

/// A process, as it describes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Made at its start.
    pub id: Uuid,
    pub role: Role,
    pub version: String,
    /// `host:port` at which others reach it: of a worker, its health and metrics.
    pub address: String,
    /// By its own clock.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    pub status: Status,
    /// Something of `away` is.
    pub degraded: bool,
    /// Dependencies that it does not reach, or that it keeps calls away from after failures.
    pub away: Vec<String>,
}

/// A process that has a lease.
#[derive(Debug, Serialize, ToSchema)]
pub struct Listed {
    #[serde(flatten)]
    pub member: Member,
    /// By Redis' clock: unless it is heard of before, it is off the list then.
    #[serde(with = "time::serde::rfc3339")]
    pub lease_expires_at: OffsetDateTime,
    /// Whether its check passes, as Consul sees it. Absent where Consul did not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes_in_consul: Option<bool>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    leases: Leases,
    consul: Option<Consul>,
    health: Health,
    breakers: Breakers,
    config: Config,
    /// How many were listed at the last renewal.
    size: IntGauge,
}

/// Where a process is reached.
#[derive(Debug, Clone, Copy)]
pub struct Listening {
    /// What it serves: of a worker, its health and metrics.
    pub main: SocketAddr,
    /// Where its health is, if elsewhere.
    pub ops: Option<SocketAddr>,
}

/// That this process is listed. It stays so until it leaves.
pub struct Presence {
    leaving: CancellationToken,
    tasks: TaskTracker,
}

impl Fleet {
    /// # Errors
    /// The metric is registered twice, or no client for Consul can be built.
    pub fn new(
        config: &Config,
        redis: Redis,
        health: Health,
        breakers: Breakers,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let consul = config.consul.as_ref();
        let consul = consul.map(|config| Consul::new(config, breakers.named("consul")));
        let consul = consul.transpose()?;
        let size = metrics.int_gauge(
            "fleet_members",
            "Processes with a lease in Redis, when this one last renewed its own.",
        )?;
        let (leases, config) = (Leases::new(redis), config.clone());
        Ok(Self(Arc::new(Shared { leases, consul, health, breakers, config, size })))
    }

    /// Lists this process from now on.
    pub fn join(&self, role: Role, listening: Listening, tasks: &Tasks) -> Presence {
        let host = self.0.config.host.clone().unwrap_or_else(|| own_host(listening.main));
        let member = Member {
            id: Uuid::now_v7(),
            role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: at(&host, listening.main.port()),
            started_at: OffsetDateTime::now_utc(),
            status: Status::Starting,
            degraded: false,
            away: Vec::new(),
        };
        tracing::info!(id = %member.id, ?role, address = member.address, "joining the fleet");
        let health = listening.ops.map_or_else(
            || member.address.clone(),
            |ops| match ops.ip() {
                ip if ip.is_unspecified() => at(&host, ops.port()),
                _ => ops.to_string(),
            },
        );
        let port = listening.main.port();
        let registration = Registration { member: member.clone(), host, port, health };
        let (fleet, leaving, drain) = (self.clone(), CancellationToken::new(), tasks.clone());
        let left = leaving.clone();
        let present = async move {
            // Listed for as long as others may be led here.
            let deregistered = CancellationToken::new();
            let keep_registered = async {
                fleet.keep_registered(&registration, &left).await;
                deregistered.cancel();
            };
            tokio::join!(keep_registered, fleet.keep_listed(&member, &drain, &deregistered));
        };
        let tracker = TaskTracker::new();
        tasks.spawn(tracker.track_future(present));
        Presence { leaving, tasks: tracker }
    }

    /// Everybody who has a lease, the longest running first.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn list(&self) -> Result<Vec<Listed>, Unavailable> {
        let passing = async { self.0.consul.as_ref()?.passing().await.ok() };
        let (members, passing) = tokio::join!(self.0.leases.list(), passing);
        let listed = |(member, lease_expires_at): (Member, _)| Listed {
            passes_in_consul: passing.as_ref().map(|passing| passing.contains(&member.id)),
            member,
            lease_expires_at,
        };
        Ok(members?.into_iter().map(listed).collect())
    }

    async fn keep_registered(&self, registration: &Registration, leaving: &CancellationToken) {
        match &self.0.consul {
            Some(consul) => consul.keep_registered(registration, &self.0.health, leaving).await,
            None => leaving.cancelled().await,
        }
    }

    async fn keep_listed(&self, member: &Member, tasks: &Tasks, leaving: &CancellationToken) {
        let Shared { leases, config, size, .. } = &*self.0;
        let between = config.lease / RENEWALS;
        let look = LOOK_INTERVAL.min(between);
        let mut was_listed = true;
        let mut draining = std::pin::pin!(tasks.draining());
        loop {
            let (says, said_at) = (self.describe(member), Instant::now());
            let renewed = leases.renew(&says, config.lease).await;
            // Once for each outage.
            match (was_listed, renewed) {
                (true, Err(error)) => tracing::warn!(%error, "not listed in the fleet"),
                (false, Ok(_)) => tracing::info!("listed in the fleet again"),
                _ => {}
            }
            was_listed = renewed.is_ok();
            size.set(renewed.unwrap_or(size.get()));
            loop {
                tokio::select! {
                    () = leaving.cancelled() => {
                        // Without an answer the lease ends by itself.
                        let _ = leases.end(member.id).await;
                        return;
                    }
                    // Told at once, not at the next look.
                    () = &mut draining, if says.status != Status::Draining => break,
                    () = sleep(look) => {}
                }
                let is_due = said_at.elapsed() + look > between;
                if !was_listed || is_due || self.describe(member) != says {
                    break;
                }
            }
        }
    }

    /// How the process is now. Asks nobody.
    fn describe(&self, member: &Member) -> Member {
        let Shared { health, breakers, .. } = &*self.0;
        let mut away = breakers.open();
        away.extend(health.databases_away().map(str::to_owned));
        away.sort_unstable();
        away.dedup();
        Member { status: health.status(), degraded: !away.is_empty(), away, ..member.clone() }
    }
}

impl Presence {
    /// Takes this process off the lists, for which it must have drained.
    pub async fn leave(self) {
        self.leaving.cancel();
        self.tasks.close();
        if timeout(LEAVE_WAIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("left the fleet without a word");
        }
    }
}

/// What others may call this host, from what it listens on.
fn own_host(listening: SocketAddr) -> String {
    if listening.ip().is_unspecified() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        listening.ip().to_string()
    }
}

fn at(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_by_the_name_of_its_host() {
        assert_eq!(own_host(([192, 0, 2, 1], 3000).into()), "192.0.2.1");
        let everywhere = own_host(([0, 0, 0, 0], 3000).into());
        assert!(!everywhere.is_empty() && everywhere != "0.0.0.0");
    }

    #[test]
    fn addresses_are_what_a_url_takes() {
        assert_eq!(at("192.0.2.1", 80), "192.0.2.1:80");
        assert_eq!(at("api-1", 80), "api-1:80");
        assert_eq!(at("2001:db8::1", 80), "[2001:db8::1]:80");
    }
}
