//! Proxies before every server that the API leans on.

use std::net::{Ipv4Addr, SocketAddr};

use super::FaultProxy;
use crate::error::{Error, Result};
use crate::node::pooler_name;
use crate::ports::{Port, fixed};
use crate::topology::{PostgresNode, Topology};

/// The proxies of `cargo lab up --faults`, each by the name of the server behind it.
#[derive(Debug)]
pub(crate) struct Ways {
    proxies: Vec<(String, FaultProxy)>,
}

impl Ways {
    /// Starts a proxy before each server, at the server's port plus [`fixed::FAULTS`]. `redis` are the names
    /// of the servers that the topology's URL lists.
    pub(crate) fn before(topology: &Topology, redis: &[String]) -> Result<Self> {
        let mut proxies = Vec::new();
        let mut put_before = |name: String, port: u16| -> Result<()> {
            let own = Port::fixed(port + fixed::FAULTS, &format!("the fault proxy of {name}"))?;
            let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            proxies.push((name, FaultProxy::start(own, server)?));
            Ok(())
        };
        put_before(pooler_name(0), topology.primary.pooler_port)?;
        for (number, replica) in (1..).zip(&topology.replicas) {
            put_before(pooler_name(number), replica.pooler_port)?;
        }
        for (name, url) in redis.iter().zip(topology.redis_url.split(',')) {
            put_before(name.clone(), port_of(url)?)?;
        }
        put_before("s3".to_owned(), port_of(&topology.s3.endpoint)?)?;
        Ok(Self { proxies })
    }

    /// The topology as the API is to see it.
    pub(crate) fn lead_through(&self, topology: &Topology) -> Result<Topology> {
        let mut through = topology.clone();
        let by_proxy = |node: &mut PostgresNode| node.pooler_port += fixed::FAULTS;
        by_proxy(&mut through.primary);
        through.replicas.iter_mut().for_each(by_proxy);
        let urls: Vec<String> = through.redis_url.split(',').map(shift).collect::<Result<_>>()?;
        through.redis_url = urls.join(",");
        through.s3.endpoint = shift(&through.s3.endpoint)?;
        Ok(through)
    }

    /// The proxy before the server of this name; before a Postgres it is that of its PgBouncer.
    pub(crate) fn to(&self, server: &str) -> Option<(&str, &FaultProxy)> {
        let name = server.replacen("postgres-", "pgbouncer-", 1);
        self.all().find(|(known, _)| *known == name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &FaultProxy)> {
        self.proxies.iter().map(|(name, proxy)| (name.as_str(), proxy))
    }
}

fn shift(url: &str) -> Result<String> {
    let port = port_of(url)?;
    Ok(url.replace(&format!(":{port}"), &format!(":{}", port + fixed::FAULTS)))
}

fn port_of(url: &str) -> Result<u16> {
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.ok_or_else(|| Error::new(format!("{url} names no port")))
}
