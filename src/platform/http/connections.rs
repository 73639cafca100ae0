//! How many connections there may be, in all and from one address, and how many there are.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use prometheus::{IntCounter, IntGauge};
use rustix::process::{Resource, getrlimit};

use super::client_ip::bucket;
use crate::platform::metrics::Metrics;

/// Descriptors for everything but clients: listeners, pools, Redis, S3, files.
const OTHER_DESCRIPTORS: usize = 256;

#[derive(Clone)]
pub struct Config {
    /// Per listener.
    pub max: usize,
    /// From one address, or one network of version 6. 0 for no limit.
    pub max_per_address: usize,
    /// Their connections carry many clients: no limit per address.
    pub trusted_proxies: Vec<IpNet>,
}

/// What `http_connections` and `http_connections_refused_total` count, for all listeners.
#[derive(Clone)]
pub(super) struct Counts {
    open: IntGauge,
    refused_total: IntCounter,
    refused_address: IntCounter,
}

impl Counts {
    /// # Errors
    /// A metric is registered twice.
    pub(super) fn new(metrics: &Metrics) -> prometheus::Result<Self> {
        let refused = metrics.counter_vec(
            "http_connections_refused_total",
            "Connections that were refused because there were too many.",
            &["reason"],
        )?;
        Ok(Self {
            open: metrics.int_gauge("http_connections", "Open connections of clients.")?,
            refused_total: refused.with_label_values(&["total"]),
            refused_address: refused.with_label_values(&["address"]),
        })
    }

    /// Connections that are open now.
    pub(super) fn open(&self) -> i64 {
        self.open.get()
    }
}

/// The connections of one listener: health on a listener of its own must not be refused because
/// clients have taken all of theirs.
pub(super) struct Connections {
    config: Config,
    max: usize,
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    counts: Counts,
}

impl Connections {
    pub(super) fn new(config: &Config, counts: Counts) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        let max = fitting(config.max, descriptors);
        if max < config.max {
            tracing::warn!(max, ?descriptors, "fewer connections: the process may not open more");
        }
        Self {
            config: config.clone(),
            max,
            open: AtomicUsize::new(0),
            by_address: Mutex::default(),
            counts,
        }
    }

    /// Counts one more, until it is dropped. `None` if that would be too many.
    pub(super) fn open(self: &Arc<Self>, peer: IpAddr) -> Option<Open> {
        let address = self.limited(peer);
        if address.is_some_and(|address| !self.take_from(address)) {
            self.counts.refused_address.inc();
            return None;
        }
        self.counts.open.inc();
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open { connections: self.clone(), address };
        if before >= self.max {
            self.counts.refused_total.inc();
            return None;
        }
        Some(open)
    }

    /// The address to count by, if this one is counted.
    fn limited(&self, peer: IpAddr) -> Option<IpAddr> {
        let ip = peer.to_canonical();
        let is_exempt = self.config.trusted_proxies.iter().any(|network| network.contains(&ip));
        (self.config.max_per_address > 0 && !is_exempt).then(|| bucket(ip))
    }

    fn take_from(&self, address: IpAddr) -> bool {
        let mut all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.entry(address).or_default();
        if *open >= self.config.max_per_address {
            return false;
        }
        *open += 1;
        true
    }

    fn give_back(&self, address: IpAddr) {
        let mut all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                all.remove(&address);
            }
        }
    }
}

/// One open connection.
pub(super) struct Open {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let connections = &self.connections;
        if let Some(address) = self.address {
            connections.give_back(address);
        }
        connections.open.fetch_sub(1, Ordering::Relaxed);
        connections.counts.open.dec();
    }
}

/// `max`, or what the descriptors of the process leave for clients.
fn fitting(max: usize, descriptors: Option<u64>) -> usize {
    let Some(descriptors) = descriptors else { return max };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    max.min(descriptors.saturating_sub(OTHER_DESCRIPTORS).max(descriptors / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max: usize, max_per_address: usize) -> Arc<Connections> {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let config = Config { max, max_per_address, trusted_proxies };
        Arc::new(Connections::new(&config, Counts::new(&Metrics::default()).unwrap()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_a_proxy_is_no_address() {
        let connections = connections(6, 2);
        let mut open: Vec<Open> = Vec::new();
        let mut connect = |address: &str| {
            let connection = connections.open(ip(address));
            let came_in = connection.is_some();
            open.extend(connection);
            came_in
        };
        assert!(connect("203.0.113.1") && connect("::ffff:203.0.113.1"));
        assert!(!connect("203.0.113.1"));
        assert!(connect("2001:db8::1") && connect("2001:db8::2"));
        assert!(!connect("2001:db8::3"), "one network");
        assert!(connect("10.0.0.1") && connect("10.0.0.1"));
        assert!(!connect("10.0.0.1"), "six in all");
        assert!(!connect("203.0.113.2"));
        assert_eq!(connections.counts.open.get(), 6);
        assert_eq!(connections.counts.refused_address.get(), 2);
        assert_eq!(connections.counts.refused_total.get(), 2);
        open.clear();
        assert_eq!(connections.counts.open.get(), 0);
        assert!(connections.by_address.lock().unwrap().is_empty());
        assert!(connections.open(ip("203.0.113.1")).is_some());
    }

    #[test]
    fn descriptors_are_left_for_everything_else() {
        assert_eq!(fitting(10_000, None), 10_000);
        assert_eq!(fitting(10_000, Some(1 << 20)), 10_000);
        assert_eq!(fitting(10_000, Some(1_024)), 768);
        assert_eq!(fitting(10_000, Some(100)), 50);
    }
}
