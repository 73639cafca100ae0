//! What no server says: how large the fleet may become, and what stands around it.

use std::time::Duration;

/// All of it may be unknown; checks that need it are then skipped, and say so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deployment {
    pub api: Workload,
    pub worker: Workload,
    /// PgBouncers in front of each Postgres.
    pub poolers: Option<u32>,
    pub proxy: Option<Proxy>,
    /// What brings the schema up to date whenever it starts, by name.
    pub migrate_at_start: Vec<String>,
    /// Whether manifests were read: what they do not have is then known not to be there.
    pub is_described: bool,
}

/// The replicas of one role.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// How many there may be.
    pub most: Option<u32>,
    /// How many more while they are replaced.
    pub surge: Surge,
    /// From SIGTERM, or the `preStop` before it, to SIGKILL.
    pub grace: Option<Duration>,
    /// What goes by before SIGTERM, out of the grace.
    pub pre_stop: Duration,
    /// There is a `preStop` of which nobody can say how long it takes.
    pub pre_stop_is_unknown: bool,
    /// The paths that its probes ask, if its manifest was read.
    pub probes: Option<Probes>,
}

/// The paths of a container's probes, where it has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probes {
    pub liveness: Option<String>,
    pub readiness: Option<String>,
    pub startup: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surge {
    Pods(u32),
    Percent(u32),
}

/// What stands before the replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proxy {
    /// How long it waits for an answer.
    pub read: Option<Duration>,
    /// The same where it waits for longest: where files are sent.
    pub longest_read: Option<Duration>,
    /// How long it keeps an idle connection to a replica.
    pub keepalive: Option<Duration>,
}

impl Default for Surge {
    /// That of Kubernetes.
    fn default() -> Self {
        Self::Percent(25)
    }
}

impl Workload {
    /// How many there may be at the same time, while they are replaced.
    pub fn most_at_once(&self) -> Option<u32> {
        let most = self.most?;
        Some(most.saturating_add(match self.surge {
            Surge::Pods(pods) => pods,
            // Kubernetes rounds up.
            Surge::Percent(percent) => most.saturating_mul(percent).div_ceil(100),
        }))
    }
}

impl Deployment {
    /// The processes that may hold connections at the same time, if that is known of both roles.
    pub fn most_processes(&self) -> Option<u32> {
        Some(self.api.most_at_once()?.saturating_add(self.worker.most_at_once()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolling_deployment_adds_its_surge_rounded_up() {
        for (most, surge, expected) in [
            (20, Surge::Percent(25), 25),
            (10, Surge::Percent(25), 13),
            (3, Surge::Percent(0), 3),
            (1, Surge::Percent(25), 2),
            (3, Surge::Pods(1), 4),
        ] {
            let workload = Workload { most: Some(most), surge, ..Workload::default() };
            assert_eq!(workload.most_at_once(), Some(expected), "{most} {surge:?}");
        }
        assert_eq!(Workload::default().most_at_once(), None);
        assert_eq!(Deployment::default().most_processes(), None);
    }
}
