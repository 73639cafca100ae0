//! Consul, for those who look there for whom to ask: a service for replicas and one for workers,
//! each process with a check of its readiness that the agent makes.
//!
//! The agent is asked again and again whether it still knows the process, since one that is started
//! anew does not. Whatever it answers, and if it answers nothing, the process serves.

use std::{collections::HashSet, time::Duration};

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Member, Role};
use crate::platform::{
    breaker::Breaker,
    health::{Health, Status},
    jobs::jittered,
    remote_api::{self, Answer, RemoteApi, Unanswered},
};

/// How often the agent is asked whether it still knows the process.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// After an error; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Until the process is ready for the first time.
const START_INTERVAL: Duration = Duration::from_millis(100);

/// How often the agent asks whether the process is ready. Below the drain delay: whoever goes by
/// Consul has to hear of a drain before the listener closes.
const CHECK_INTERVAL: &str = "2s";
const CHECK_TIMEOUT: &str = "2s";

/// What was killed stays registered, as critical, for this long. Consul takes no less.
const DEREGISTERED_AFTER: &str = "1m";

#[derive(Clone)]
pub struct Config {
    /// Its URL, its token, and how long it may take.
    pub agent: remote_api::Config,
    /// What replicas are registered as; workers have `-worker` behind it.
    pub service: String,
    pub tags: Vec<String>,
}

pub(super) struct Consul {
    agent: RemoteApi,
    service: String,
    tags: Vec<String>,
}

/// One service of one process, as `GET /v1/health/service/:name` has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    service: Service,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "ID")]
    id: String,
}

/// What the agent is told of a process.
pub(super) struct Registration {
    /// Its id, role and version.
    pub(super) member: Member,
    pub(super) host: String,
    pub(super) port: u16,
    /// Where its health is: `host:port`.
    pub(super) health: String,
}

impl Consul {
    /// # Errors
    /// The client cannot be built.
    pub(super) fn new(config: &Config, breaker: Breaker) -> anyhow::Result<Self> {
        let Config { agent, service, tags } = config.clone();
        Ok(Self { agent: RemoteApi::new(&agent, breaker)?, service, tags })
    }

    /// Keeps the process registered once it is ready, until `leaving`; then no longer.
    pub(super) async fn keep_registered(
        &self,
        registration: &Registration,
        health: &Health,
        leaving: &CancellationToken,
    ) {
        // What never became ready is nobody's to be sent to.
        let started = async {
            while health.status() == Status::Starting {
                sleep(START_INTERVAL).await;
            }
        };
        if leaving.run_until_cancelled(started).await.is_none() {
            return;
        }
        leaving.run_until_cancelled(self.renew(registration, health)).await;
        self.deregister(registration).await;
    }

    /// Registers the process whenever the agent does not know it.
    async fn renew(&self, registration: &Registration, health: &Health) {
        let mut failures = 0;
        // It was registered when the agent was last asked.
        let mut is_known = false;
        loop {
            // One that drains is registered until its end, so that its check can say so, but not
            // anew.
            let assured = match health.status() {
                Status::Draining => Ok(is_known),
                Status::Starting | Status::Ready => self.assure(registration).await.map(|()| true),
            };
            let wait = match assured {
                Ok(now_known) => {
                    if now_known && (!is_known || failures > 0) {
                        tracing::info!(
                            service = self.id(registration.member.id),
                            "Consul knows of us"
                        );
                    }
                    (is_known, failures) = (now_known, 0);
                    LOOK_INTERVAL
                }
                Err(error) => {
                    // Once for each outage.
                    if failures == 0 {
                        tracing::warn!(%error, "Consul does not register us");
                    }
                    failures = (failures + 1).min(16);
                    LONGEST_RETRY.min(FIRST_RETRY * 2_u32.pow(failures - 1))
                }
            };
            sleep(jittered(wait)).await;
        }
    }

    async fn assure(&self, registration: &Registration) -> Result<(), Unanswered> {
        let id = self.id(registration.member.id);
        let known = self.agent.admit()?.get(&["v1", "agent", "service", &id], &[]).await?;
        match known.status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => {
                let path = ["v1", "agent", "service", "register"];
                accepted(&self.agent.admit()?.put(&path, &self.described(registration)).await?)
            }
            _ => accepted(&known),
        }
    }

    /// What cannot be told to the agent, its check finds out.
    async fn deregister(&self, registration: &Registration) {
        let id = self.id(registration.member.id);
        let path = ["v1", "agent", "service", "deregister", &id];
        let told = async { self.agent.admit()?.put(&path, &json!(null)).await };
        match told.await {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {}
            Ok(answer) => match accepted(&answer) {
                Ok(()) => tracing::info!(service = id, "no longer registered with Consul"),
                Err(error) => tracing::warn!(%error, "Consul does not deregister us"),
            },
            Err(error) => tracing::warn!(%error, "Consul does not deregister us"),
        }
    }

    /// The processes whose checks pass.
    ///
    /// # Errors
    /// The agent does not tell.
    pub(super) async fn passing(&self) -> Result<HashSet<Uuid>, Unanswered> {
        let workers = self.name(Role::Worker);
        let (replicas, workers) =
            tokio::try_join!(self.passing_of(&self.service), self.passing_of(&workers))?;
        Ok(replicas.into_iter().chain(workers).collect())
    }

    async fn passing_of(&self, service: &str) -> Result<Vec<Uuid>, Unanswered> {
        let path = ["v1", "health", "service", service];
        let answer = self.agent.admit()?.get(&path, &[("passing", "true")]).await?;
        accepted(&answer)?;
        let entries: Vec<Entry> =
            serde_json::from_slice(&answer.body).map_err(|error| Unanswered::Failed {
                why: format!("not a list of services: {error}"),
                retry_after: None,
            })?;
        // Whoever else is registered by the same name is none of ours.
        let ours = |Entry { service: Service { id } }: &Entry| {
            id.strip_prefix(&self.service)?.strip_prefix('-')?.parse().ok()
        };
        Ok(entries.iter().filter_map(ours).collect())
    }

    fn described(&self, registration: &Registration) -> serde_json::Value {
        let Registration { member, host, port, health } = registration;
        let mut tags = self.tags.clone();
        if member.role == Role::ApiAndWorker {
            tags.push("worker".to_owned());
        }
        json!({
            "ID": self.id(member.id),
            "Name": self.name(member.role),
            "Tags": tags,
            "Address": host,
            "Port": port,
            "Meta": { "version": member.version, "role": member.role },
            "Check": {
                "Name": "readiness",
                "HTTP": format!("http://{health}/health/ready"),
                "Interval": CHECK_INTERVAL,
                "Timeout": CHECK_TIMEOUT,
                "DeregisterCriticalServiceAfter": DEREGISTERED_AFTER,
            },
        })
    }

    fn name(&self, role: Role) -> String {
        match role {
            Role::Api | Role::ApiAndWorker => self.service.clone(),
            // Not by a tag alone: whoever balances over a service must not come to a worker.
            Role::Worker => format!("{}-worker", self.service),
        }
    }

    /// Unique in the whole of Consul, not only at one agent.
    fn id(&self, member: Uuid) -> String {
        format!("{}-{member}", self.service)
    }
}

fn accepted(answer: &Answer) -> Result<(), Unanswered> {
    if answer.status.is_success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer.body).chars().take(200).collect::<String>();
    let why = format!("the agent answered {}: {}", answer.status.as_u16(), said.trim());
    Err(Unanswered::Failed { why, retry_after: None })
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn the_check_asks_where_health_is_told() {
        let member = Member {
            id: Uuid::nil(),
            role: Role::Worker,
            version: "1.2.3".to_owned(),
            address: "[2001:db8::1]:3000".to_owned(),
            started_at: OffsetDateTime::UNIX_EPOCH,
            status: Status::Ready,
            degraded: false,
            away: Vec::new(),
        };
        let host = "2001:db8::1".to_owned();
        let health = "[2001:db8::1]:9000".to_owned();
        let registration = Registration { member, host, port: 3000, health };
        let url = "http://127.0.0.1:1".parse().unwrap();
        let agent = remote_api::Config { url, key: None, timeout: FIRST_RETRY, longest_answer: 1 };
        let config = Config { agent, service: "shop".to_owned(), tags: Vec::new() };
        let breaker = Breaker::new(prometheus::IntGauge::new("test", "test").unwrap());
        let told = Consul::new(&config, breaker).unwrap().described(&registration);
        assert_eq!(told["Name"], "shop-worker");
        assert_eq!(told["Address"], "2001:db8::1");
        assert_eq!(told["Port"], 3000);
        assert_eq!(told["Check"]["HTTP"], "http://[2001:db8::1]:9000/health/ready");
    }
}
