//! Looks at the primary, at each replica, and at the PgBouncer before each.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use secrecy::SecretString;
use sqlx::PgConnection;

use super::{
    Subject,
    clock::{self, Look},
    connections::{self, Connections},
    finding::{Finding, Rule, judge},
    look::{REACHABLE_POSTGRES, REACHABLE_REPLICA, within},
    pooler::{self, Pooler, Silence},
    postgres::{self, Applied, Server, Standby, told},
    queries,
    replica::{self, Lag, Replica},
    schema::{self, Months, Schema},
    timeouts::RoleTimeouts,
};

/// All of them, the primary first.
pub(super) struct Databases {
    primary: Node<Primary>,
    replicas: Vec<(Node<Follower>, Lag)>,
}

/// A Postgres and the PgBouncer before it.
struct Node<S> {
    seen: Result<S, String>,
    pooler: Result<Pooler, Silence>,
}

struct Primary {
    server: Server,
    clock: Look,
    applied: Option<Vec<Applied>>,
    months: Vec<Months>,
}

struct Follower {
    server: Server,
    clock: Look,
    standby: Standby,
}

impl Databases {
    pub(super) async fn look(subject: &Subject) -> Self {
        let (config, patience) = (&subject.database, subject.patience);
        let primary = async {
            let (seen, pooler) = tokio::join!(
                within(patience, primary(&config.primary_url)),
                console(&config.primary_url, patience)
            );
            Node { seen, pooler }
        };
        let replicas = config.replica_urls.iter().map(async |url| {
            let lag = replica::measure(&config.primary_url, url, config.max_replica_lag, patience);
            let (seen, pooler, lag) =
                tokio::join!(within(patience, follower(url)), console(url, patience), lag);
            (Node { seen, pooler }, lag)
        });
        let (primary, replicas) = tokio::join!(primary, join_all(replicas));
        Self { primary, replicas }
    }

    /// What the application's role is given, if the primary could be asked.
    pub(super) fn role(&self) -> Option<RoleTimeouts> {
        Some(self.primary.seen.as_ref().ok()?.server.timeouts)
    }

    /// How long the PgBouncer before the primary lets a query wait.
    pub(super) fn query_wait(&self) -> Option<Duration> {
        self.primary.pooler.as_ref().ok()?.query_wait()
    }

    pub(super) fn judge(self, subject: &Subject) -> Vec<Finding> {
        let mut found = Vec::new();
        let system = self.primary.seen.as_ref().ok().map(|seen| seen.server.system.clone());
        found.extend(self.primary.judge(subject));
        for (number, (node, lag)) in (1..).zip(self.replicas) {
            found.extend(node.judge(&format!("replica-{number}"), subject, system.clone(), lag));
        }
        found
    }
}

impl Node<Primary> {
    fn judge(self, subject: &Subject) -> Vec<Finding> {
        const NAME: &str = "primary";
        let mut found = vec![reached(&REACHABLE_POSTGRES, NAME, &self.seen)];
        let server = self.seen.as_ref().map(|seen| &seen.server);
        found.extend(self.pooler(NAME, subject, server.ok()));
        match &self.seen {
            Ok(seen) => {
                found.extend(judge(&postgres::RULES, NAME, Ok(&seen.server)));
                found.extend(judge(&clock::RULES, NAME, Ok(&seen.clock)));
                let schema = Schema {
                    applied: seen.applied.clone(),
                    deployment: subject.deployment.clone(),
                    has_direct_url: subject.has_direct_url,
                };
                found.extend(judge(&schema::RULES, "", Ok(&schema)));
                for months in &seen.months {
                    found.extend(judge(&schema::MONTHS, &months.table, Ok(months)));
                }
                if seen.months.is_empty() {
                    found.extend(judge(&schema::MONTHS, "", Err("no table has months")));
                }
            }
            Err(_) => {
                const WHY: &str = "the primary does not answer";
                found.extend(judge(&postgres::RULES, NAME, Err(WHY)));
                found.extend(judge(&clock::RULES, NAME, Err(WHY)));
                found.extend(judge(&schema::RULES, "", Err(WHY)));
                found.extend(judge(&schema::MONTHS, "", Err(WHY)));
            }
        }
        found
    }
}

impl Node<Follower> {
    fn judge(
        self,
        name: &str,
        subject: &Subject,
        system: Option<String>,
        lag: Lag,
    ) -> Vec<Finding> {
        let mut found = vec![reached(&REACHABLE_REPLICA, name, &self.seen)];
        let server = self.seen.as_ref().map(|seen| &seen.server);
        found.extend(self.pooler(name, subject, server.ok()));
        match self.seen {
            Ok(seen) => {
                found.extend(judge(&clock::RULES, name, Ok(&seen.clock)));
                let replica = Replica {
                    server: seen.server,
                    standby: seen.standby,
                    system,
                    lag,
                    most_lag: subject.database.max_replica_lag,
                };
                found.extend(judge(&replica::RULES, name, Ok(&replica)));
            }
            Err(_) => {
                const WHY: &str = "it does not answer";
                found.extend(judge(&clock::RULES, name, Err(WHY)));
                found.extend(judge(&replica::RULES, name, Err(WHY)));
            }
        }
        found
    }
}

impl<S> Node<S> {
    fn pooler(&self, name: &str, subject: &Subject, server: Option<&Server>) -> Vec<Finding> {
        let mut found = vec![pooler::CONSOLE.apply(name, &self.pooler)];
        let pooler = self.pooler.as_ref().ok();
        found.extend(judge(&pooler::RULES, name, pooler.ok_or("its console does not answer")));
        let left = |server: &Server| u64::try_from(server.max_connections - server.reserved).ok();
        let connections = Connections {
            deployment: subject.deployment.clone(),
            pool_size: subject.database.pool_size as u64,
            max_clients: pooler.and_then(|pooler| pooler.number("max_client_conn")),
            servers: pooler.and_then(Pooler::servers),
            reserve: pooler.and_then(Pooler::reserve).unwrap_or_default(),
            max_connections: server.and_then(left),
        };
        found.extend(judge(&connections::RULES, name, Ok(&connections)));
        found
    }
}

fn reached<S>(rule: &Rule<Result<(), String>>, of: &str, seen: &Result<S, String>) -> Finding {
    rule.apply(of, &seen.as_ref().map(drop).map_err(Clone::clone))
}

async fn console(url: &SecretString, patience: Duration) -> Result<Pooler, Silence> {
    let looked = within(patience, async { Ok(pooler::look(url).await) }).await;
    looked.unwrap_or_else(|why| Err(Silence::Unreachable(why)))
}

/// What any server says, and its clock.
async fn server(connection: &mut PgConnection) -> Result<(Server, Look), String> {
    let asked = clock::now();
    let server = queries::server(connection).await.map_err(|error| told(&error))?;
    let look = Look { asked, answered: clock::now(), theirs: server.now };
    Ok((server, look))
}

async fn primary(url: &SecretString) -> Result<Primary, String> {
    let mut connection = postgres::connect(url).await?;
    let (server, clock) = server(&mut connection).await?;
    let failed = |error: sqlx::Error| told(&error);
    let applied = queries::applied(&mut connection).await.map_err(failed)?;
    let months = if applied.is_some() {
        let tables = queries::partitions(&mut connection).await.map_err(failed)?;
        // The function may be missing from an older schema, of which another check tells.
        let strays = queries::default_rows(&mut connection).await;
        schema::months(tables, &strays.unwrap_or_else(|_| HashMap::new()))
    } else {
        Vec::new()
    };
    Ok(Primary { server, clock, applied, months })
}

async fn follower(url: &SecretString) -> Result<Follower, String> {
    let mut connection = postgres::connect(url).await?;
    let (server, clock) = server(&mut connection).await?;
    let standby = queries::standby(&mut connection).await.map_err(|error| told(&error))?;
    Ok(Follower { server, clock, standby })
}
