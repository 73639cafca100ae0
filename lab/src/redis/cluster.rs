//! A Redis Cluster of three nodes without replicas: enough that keys are spread and commands redirected.

use std::fs;
use std::time::Duration;

use super::Redis;
use crate::error::{Error, Result};
use crate::net::converse;
use crate::ports::Port;
use crate::site::Site;

/// As many as there are nodes that own slots in the smallest cluster Redis forms by itself.
const NODES: usize = 3;
/// How many slots keys are spread over.
const SLOTS: usize = 16_384;
/// A fresh node waits for 2 s before it believes that all is well.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running cluster, stopped when this is dropped. A node that is restarted comes back empty, with its slots.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

/// The ports of one node.
#[derive(Debug)]
pub struct ClusterPorts {
    /// Where clients connect.
    pub clients: Port,
    /// Where the other nodes do.
    pub bus: Port,
    /// The port that clients are told to connect to: a proxy's, if it is not that of the node itself.
    pub announced: u16,
}

impl ClusterPorts {
    /// Free ports.
    pub fn free() -> Result<Self> {
        let clients = Port::free()?;
        Ok(Self { bus: Port::free()?, announced: clients.number(), clients })
    }
}

impl RedisCluster {
    /// Starts one on free ports, for a test; its nodes are called `NAME-1` to `NAME-3`.
    pub fn start(site: &Site, name: &str) -> Result<Self> {
        let ports = (0..NODES).map(|_| ClusterPorts::free()).collect::<Result<_>>()?;
        Self::start_on(site, name, ports)
    }

    /// Starts a node on each of these ports. Returns once every node serves its slots and knows the others.
    pub fn start_on(site: &Site, name: &str, ports: Vec<ClusterPorts>) -> Result<Self> {
        let count = ports.len();
        let mut buses = Vec::with_capacity(count);
        let mut nodes = Vec::with_capacity(count);
        for (number, ports) in (1..).zip(ports) {
            buses.push(ports.bus.number());
            nodes.push(start_node(site, &format!("{name}-{number}"), ports)?);
        }
        let mut cluster = Self { nodes };
        cluster.form(&buses)?;
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// Waits until every node serves its slots and knows whose the others are, as after a restart.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        let wanted = ["cluster_state:ok", &format!("cluster_slots_ok:{SLOTS}"), &known];
        self.nodes.iter_mut().try_for_each(|node| {
            let port = node.port();
            node.process().wait_until(READY_WITHIN, || {
                let info = converse(port, "CLUSTER INFO\r\nQUIT\r\n").unwrap_or_default();
                wanted.iter().all(|line| info.lines().any(|told| told == *line))
            })
        })
    }

    /// The URLs of its nodes, parted by commas.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(Redis::url).collect();
        urls.join(",")
    }

    /// Its nodes, to freeze, kill or restart one.
    pub fn nodes(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }

    /// Its nodes, each of which runs until it is dropped.
    pub(crate) fn into_nodes(self) -> Vec<Redis> {
        self.nodes
    }

    /// Gives each node its share of the slots, and introduces all to the first.
    fn form(&self, buses: &[u16]) -> Result<()> {
        let count = self.nodes.len();
        let Some(first) = self.nodes.first() else {
            return Err(Error::new("a cluster needs a node"));
        };
        for (index, (node, bus)) in self.nodes.iter().zip(buses).enumerate() {
            let (begin, end) = (SLOTS * index / count, SLOTS * (index + 1) / count - 1);
            // Each its own epoch: with the same one, the nodes would first have to agree who changes it.
            tell(node, &format!("SET-CONFIG-EPOCH {}", index + 1))?;
            tell(node, &format!("ADDSLOTSRANGE {begin} {end}"))?;
            if index > 0 {
                tell(first, &format!("MEET 127.0.0.1 {} {bus}", node.port()))?;
            }
        }
        Ok(())
    }
}

fn start_node(site: &Site, name: &str, ports: ClusterPorts) -> Result<Redis> {
    // What an earlier cluster has left would keep this one from forming.
    let _ = fs::remove_file(site.data(name).join("nodes.conf"));
    let (bus, announced) = (ports.bus.number().to_string(), ports.announced.to_string());
    let settings = [
        ("cluster-enabled", "yes"),
        ("cluster-config-file", "nodes.conf"),
        // Not the client's port plus 10,000, as it would be: that is a proxy's.
        ("cluster-port", &bus),
        ("cluster-announce-port", &announced),
        // A node that is away takes its keys with it, not those of the others.
        ("cluster-require-full-coverage", "no"),
        // On loopback a node that says nothing for so long is away.
        ("cluster-node-timeout", "2000"),
    ];
    Redis::start_with(site, name, ports.clients, &settings)
}

fn tell(node: &Redis, command: &str) -> Result<()> {
    let reply = converse(node.port(), &format!("CLUSTER {command}\r\nQUIT\r\n"));
    match reply {
        Some(reply) if reply.starts_with("+OK") => Ok(()),
        reply => Err(Error::new(format!(
            "{} does not do `CLUSTER {command}`: {}",
            node.name(),
            reply.as_deref().unwrap_or("it does not answer").trim()
        ))),
    }
}
