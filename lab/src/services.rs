//! The servers that the API stands on, started side by side.

use std::thread::{self, ScopedJoinHandle};

use crate::error::{Error, Result};
use crate::node::{Node, pooler_name, postgres_name};
use crate::pgbouncer::PgBouncer;
use crate::ports::{Port, fixed};
use crate::postgres::{self, Postgres, create_roles};
use crate::process::Process;
use crate::progress::Progress;
use crate::redis::{ClusterPorts, Redis, RedisCluster};
use crate::s3::{self, S3Process};
use crate::site::Site;
use crate::topology::{Login, S3Account, TEMPLATE_DATABASE, Topology};

/// Enough that one can fail and reads still have another.
pub(crate) const REPLICAS: usize = 2;

/// One port for every server.
#[derive(Debug)]
pub(crate) struct ServicePorts {
    /// Postgres and PgBouncer; the primary's first.
    nodes: Vec<(Port, Port)>,
    redis: RedisPorts,
    s3: Port,
}

#[derive(Debug)]
enum RedisPorts {
    One(Port),
    Cluster(Vec<ClusterPorts>),
}

impl ServicePorts {
    /// The documented ports of `cargo lab up`.
    pub(crate) fn fixed() -> Result<Self> {
        let node = |(number, offset): (usize, u16)| {
            let postgres = Port::fixed(fixed::POSTGRES + offset, &postgres_name(number))?;
            let pooler = Port::fixed(fixed::PGBOUNCER + offset, &pooler_name(number))?;
            Ok((postgres, pooler))
        };
        Ok(Self {
            nodes: (0..=REPLICAS).zip(0..).map(node).collect::<Result<_>>()?,
            redis: RedisPorts::One(Port::fixed(fixed::REDIS, "redis")?),
            s3: Port::fixed(fixed::S3, "s3")?,
        })
    }

    /// The same with a cluster, whose nodes announce themselves at their ports plus `announced_offset`.
    pub(crate) fn fixed_with_redis_cluster(announced_offset: u16) -> Result<Self> {
        let node = |offset: u16| {
            let name = format!("redis-{}", offset + 1);
            let clients = Port::fixed(fixed::REDIS + offset, &name)?;
            let bus = Port::fixed(fixed::REDIS_BUS + offset, &name)?;
            Ok(ClusterPorts { announced: clients.number() + announced_offset, clients, bus })
        };
        let nodes = (0..3).map(node).collect::<Result<_>>()?;
        Ok(Self { redis: RedisPorts::Cluster(nodes), ..Self::fixed()? })
    }

    /// Free ports, for `cargo lab test`.
    pub(crate) fn free() -> Result<Self> {
        Ok(Self {
            nodes: (0..=REPLICAS)
                .map(|_| Ok((Port::free()?, Port::free()?)))
                .collect::<Result<_>>()?,
            redis: RedisPorts::One(Port::free()?),
            s3: Port::free()?,
        })
    }
}

/// The running servers, stopped in this order when dropped: a replica before its primary.
#[derive(Debug)]
pub(crate) struct Services {
    replicas: Vec<Node>,
    primary: Node,
    /// Several are the nodes of a cluster.
    redis: Vec<Redis>,
    s3: S3Process,
}

impl Services {
    /// Starts everything, and creates the roles and the database.
    pub(crate) fn start(
        site: &Site,
        ports: ServicePorts,
        database: &str,
        progress: &Progress,
    ) -> Result<Self> {
        let mut nodes = ports.nodes.into_iter();
        let primary_ports = nodes.next().ok_or_else(|| Error::new("no port for the primary"))?;
        // Everything runs side by side except what needs the primary.
        thread::scope(|scope| {
            let redis =
                scope.spawn(|| watched(progress, "Redis", || start_redis(site, ports.redis)));
            let s3 =
                scope.spawn(|| watched(progress, "S3", || S3Process::start(site, "s3", ports.s3)));
            let primary = start_primary(site, primary_ports.0, database, progress)?;
            let primary_port = primary.port();
            let pooler = scope.spawn(move || {
                PgBouncer::start(site, &pooler_name(0), primary_ports.1, primary_port)
            });
            let replicas: Vec<_> = nodes
                .enumerate()
                .map(|(index, ports)| {
                    scope.spawn(move || {
                        start_replica(site, index + 1, ports, primary_port, progress)
                    })
                })
                .collect();
            // All are waited for before the first error is told, so that none is left starting.
            let (pooler, redis, s3) = (joined(pooler), joined(redis), joined(s3));
            let replicas: Vec<_> = replicas.into_iter().map(joined).collect();
            Ok(Self {
                replicas: replicas.into_iter().collect::<Result<_>>()?,
                primary: Node { pooler: pooler?, postgres: primary },
                redis: redis?,
                s3: s3?,
            })
        })
    }

    /// What runs where.
    pub(crate) fn topology(&self, site: &Site) -> Topology {
        let secrets = &site.secrets;
        let login = |user: &str, password: &str| Login {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        Topology {
            dir: site.dir().to_owned(),
            binaries: site.binaries.clone(),
            primary: self.primary.describe(0),
            replicas: (1..)
                .zip(&self.replicas)
                .map(|(number, node)| node.describe(number))
                .collect(),
            superuser: login("postgres", &secrets.superuser),
            migrator: login("shoal_migrator", &secrets.migrator),
            app: login("shoal_app", &secrets.app),
            pgbouncer_admin: login("pgbouncer", &secrets.pgbouncer),
            redis_url: self.redis.iter().map(Redis::url).collect::<Vec<_>>().join(","),
            s3: S3Account {
                endpoint: format!("http://127.0.0.1:{}", self.s3.port()),
                bucket: s3::BUCKET.to_owned(),
                access_key: s3::ACCESS_KEY.to_owned(),
                secret_key: secrets.s3.clone(),
                region: s3::REGION.to_owned(),
            },
            template_database: TEMPLATE_DATABASE.to_owned(),
        }
    }

    /// The names of the servers that the topology's URL of Redis lists.
    pub(crate) fn redis_names(&self) -> Vec<String> {
        self.redis.iter().map(|node| node.name().to_owned()).collect()
    }

    /// The Postgres of this name.
    pub(crate) fn postgres(&mut self, name: &str) -> Option<&mut Postgres> {
        let nodes = std::iter::once(&mut self.primary).chain(&mut self.replicas);
        let (_, node) = (0..).zip(nodes).find(|(number, _)| postgres_name(*number) == name)?;
        Some(&mut node.postgres)
    }

    /// Name, address and process of each, in the order in which they lean on each other.
    pub(crate) fn processes(&mut self) -> Vec<(u16, &mut Process)> {
        let nodes = std::iter::once(&mut self.primary).chain(&mut self.replicas);
        let (mut databases, mut poolers) = (Vec::new(), Vec::new());
        for node in nodes {
            databases.push((node.postgres.port(), node.postgres.process()));
            poolers.push((node.pooler.port(), node.pooler.process()));
        }
        databases.append(&mut poolers);
        databases.extend(self.redis.iter_mut().map(|node| (node.port(), node.process())));
        databases.push((self.s3.port(), self.s3.process()));
        databases
    }
}

fn start_redis(site: &Site, ports: RedisPorts) -> Result<Vec<Redis>> {
    match ports {
        RedisPorts::One(port) => Ok(vec![Redis::start(site, "redis", port)?]),
        RedisPorts::Cluster(ports) => {
            RedisCluster::start_on(site, "redis", ports).map(RedisCluster::into_nodes)
        }
    }
}

fn start_primary(site: &Site, port: Port, database: &str, progress: &Progress) -> Result<Postgres> {
    let name = postgres_name(0);
    say_if_half_made(site, &name, progress);
    watched(progress, "Postgres primary", || {
        let primary = Postgres::start_primary(site, &name, port)?;
        create_roles(site, primary.port(), database)?;
        Ok(primary)
    })
}

fn start_replica(
    site: &Site,
    number: usize,
    ports: (Port, Port),
    primary_port: u16,
    progress: &Progress,
) -> Result<Node> {
    let name = postgres_name(number);
    say_if_half_made(site, &name, progress);
    watched(progress, format!("Postgres replica {number}"), || {
        let postgres = Postgres::start_replica(site, &name, ports.0, primary_port)?;
        let pooler = PgBouncer::start(site, &pooler_name(number), ports.1, postgres.port())?;
        Ok(Node { pooler, postgres })
    })
}

fn say_if_half_made(site: &Site, name: &str, progress: &Progress) {
    if postgres::is_half_made(site, name) {
        progress.say(&format!(
            "{} is half made (a lab was killed while making it): making it anew",
            site.data(name).display()
        ));
    }
}

fn watched<T>(
    progress: &Progress,
    text: impl Into<String>,
    start: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let step = progress.step(text.into());
    let started = start()?;
    step.done();
    Ok(started)
}

/// What the thread has given.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::new("a thread that started a server panicked")))
}
