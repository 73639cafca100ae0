//! Everything that a measurement needs, started and filled: the servers, the replica and the bare server on the
//! measured core, and the data behind them.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::baseline;
use super::cores::Cores;
use super::data::{Data, HOT_PRODUCTS};
use super::http;
use super::workloads::Per;
use crate::api::{Api, Shoal};
use crate::error::{Context, Error, Result};
use crate::net::accepts_connections;
use crate::ports::Port;
use crate::process::Process;
use crate::progress::Progress;
use crate::psql::Psql;
use crate::services::{ServicePorts, Services};
use crate::site::{Site, make_dir};
use crate::topology::{DATABASE, Topology};

const READY_WITHIN: Duration = Duration::from_secs(10);
/// With the names of the columns.
const STATISTICS: &str = "\\pset tuples_only off\n\\pset footer off\nshow stats;\n";
/// The first page of the catalogue, as a shop's front page asks for it.
pub(super) const LIST: &str = "/v1/products?limit=20";

/// What is measured, and what it stands on. The servers are stopped last.
pub(super) struct Stage<'a> {
    pub(super) site: &'a Site,
    pub(super) cores: &'a Cores,
    pub(super) api: Api,
    pub(super) bare: Process,
    bare_port: Port,
    pub(super) shoal: Shoal,
    pub(super) data: Data,
    pub(super) topology: Topology,
    /// Where the scripts of the load generators are.
    pub(super) scripts: PathBuf,
    _services: Services,
}

impl<'a> Stage<'a> {
    /// `binaries` is the directory of optimised programs.
    pub(super) fn set(
        site: &'a Site,
        cores: &'a Cores,
        binaries: &Path,
        progress: &Progress,
    ) -> Result<Self> {
        let services = Services::start(site, ServicePorts::free()?, DATABASE, progress)?;
        let topology = services.topology(site);

        let step = progress.step("Migrations, one replica of the API");
        let shoal = Shoal::new(&topology, DATABASE, &binaries.join("shoal"));
        // A bench may take longer than a token lives.
        let shoal = shoal.without_limits()?.with_setting("SHOAL_ACCESS_TOKEN_SECS", "7200");
        let shoal = shoal.with_signing_key(site)?;
        shoal.run(&["migrate"], "", "run the migrations")?;
        let pinned = shoal.clone().on_cores(&cores.subject_list());
        let api = Api::start(site, "api-1", Port::free()?, &pinned)?;
        step.done();

        let step = progress.step("Products, customers, orders");
        let psql = Psql::new(site, topology.primary.port, DATABASE);
        let data = Data::load(&psql, api.port())?;
        keep_bodies(&topology.redis_url, api.port(), &data)?;
        step.done();

        let step = progress.step("The bare server");
        let bare_port = Port::free()?;
        let bare = start_bare(site, cores, &binaries.join("lab"), &bare_port, &topology)?;
        step.done();
        let scripts = site.dir().join("scripts");
        make_dir(&scripts)?;
        Ok(Self {
            site,
            cores,
            api,
            bare,
            bare_port,
            shoal,
            data,
            topology,
            scripts,
            _services: services,
        })
    }

    pub(super) fn bare_port(&self) -> u16 {
        self.bare_port.number()
    }

    pub(super) fn redis_port(&self) -> Result<u16> {
        redis_port(&self.topology.redis_url)
    }

    /// Writes out what the primary has changed.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let psql = Psql::new(self.site, self.topology.primary.port, DATABASE);
        psql.run("checkpoint").map(drop)
    }

    /// Round trips that the primary's PgBouncer has made for the clients of the database.
    pub(super) fn round_trips(&self, per: Per) -> Result<RoundTrips> {
        let orders = (per == Per::Order).then(|| self.settled_orders()).transpose()?;
        let console = Psql::of_pooler(self.site, self.topology.primary.pooler_port);
        let table = console.run(STATISTICS)?;
        // PgBouncer counts a query each time a server says that it is ready for the next: a round trip.
        let count = parse_statistic(&table, DATABASE, "total_query_count").ok_or_else(|| {
            Error::new(format!("cannot understand PgBouncer's statistics:\n{table}"))
        })?;
        Ok(RoundTrips { count, orders })
    }

    /// For how long server connections were held so far, by the PgBouncers.
    pub(super) fn connections_held(&self) -> Result<Held> {
        let held = |pooler: u16| -> Result<f64> {
            let console = Psql::of_pooler(self.site, pooler);
            let table = console.run(STATISTICS)?;
            let time = parse_statistic(&table, DATABASE, "total_xact_time");
            // Nobody has come by yet.
            Ok(time.unwrap_or_default() as f64)
        };
        let replicas = self.topology.replicas.iter().map(|replica| held(replica.pooler_port));
        Ok(Held {
            primary_us: held(self.topology.primary.pooler_port)?,
            replicas_us: replicas.sum::<Result<f64>>()?,
        })
    }

    /// The number of orders, once those are placed that were on their way. Asked of Postgres itself: the
    /// pooler is to count nothing but what is measured.
    fn settled_orders(&self) -> Result<u64> {
        let psql = Psql::new(self.site, self.topology.primary.port, DATABASE);
        let mut last = None;
        loop {
            let text = psql.run("select count(*) from orders; select pg_sleep(0.1)")?;
            let count = text.lines().next().and_then(|line| line.parse().ok());
            let count = count.ok_or_else(|| Error::new(format!("{text} is no number")))?;
            if last == Some(count) {
                return Ok(count);
            }
            last = Some(count);
        }
    }
}

/// Microseconds for which server connections were held, all transactions together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) primary_us: f64,
    pub(super) replicas_us: f64,
}

/// Counted at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrips {
    count: u64,
    orders: Option<u64>,
}

impl RoundTrips {
    /// Made since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> u64 {
        self.count.saturating_sub(earlier.count)
    }

    /// Placed since `earlier`; `None` if there was none, or they were not counted.
    pub(super) fn orders_since(&self, earlier: &Self) -> Option<u64> {
        self.orders?.checked_sub(earlier.orders?).filter(|orders| *orders > 0)
    }

    /// Made since `earlier` for each order placed meanwhile.
    pub(super) fn per_order_since(&self, earlier: &Self) -> Option<f64> {
        let orders = self.orders_since(earlier)?;
        Some(self.since(earlier) as f64 / orders as f64)
    }
}

fn start_bare(
    site: &Site,
    cores: &Cores,
    binary: &Path,
    port: &Port,
    topology: &Topology,
) -> Result<Process> {
    let number = port.number();
    let launch = site.launch_as_self("bare", binary).arg("bench-server");
    let launch = launch.args(["--port", &number.to_string(), "--redis-url", &topology.redis_url]);
    let launch = launch
        .env([("LAB_BENCH_DATABASE_URL".to_owned(), topology.app_url(DATABASE))])
        .on_cores(Some(&cores.subject_list()));
    let mut bare = Process::start(launch)?;
    bare.wait_until(READY_WITHIN, || accepts_connections(number))?;
    Ok(bare)
}

/// Keeps in Redis, for the bare server, what the service answers.
fn keep_bodies(redis_url: &str, api_port: u16, data: &Data) -> Result<()> {
    let mut bodies = Vec::new();
    for number in 1..=HOT_PRODUCTS {
        let id = data.product(number);
        let body = http::body_of(api_port, &format!("/v1/products/{id}"), &[])?;
        if number == 1 {
            bodies.push(("product".to_owned(), body.clone()));
        }
        bodies.push((id, body));
    }
    bodies.push(("list".to_owned(), http::body_of(api_port, LIST, &[])?));
    let bearer = format!("Bearer {}", data.token_of_order(1));
    let order = format!("/v1/orders/{}", data.order(1));
    let order = http::body_of(api_port, &order, &[("Authorization", &bearer)])?;
    bodies.push(("order".to_owned(), order));
    set_all(redis_port(redis_url)?, &bodies)
}

fn set_all(port: u16, bodies: &[(String, Vec<u8>)]) -> Result<()> {
    let what = || "fill Redis".to_owned();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).cannot(what)?;
    stream.set_read_timeout(Some(READY_WITHIN)).cannot(what)?;
    for (name, body) in bodies {
        let key = format!("{}{name}", baseline::PREFIX);
        let mut head = String::from("*3\r\n$3\r\nSET\r\n");
        // Writing to a string cannot fail.
        let _ = write!(head, "${}\r\n{key}\r\n${}\r\n", key.len(), body.len());
        let command = [head.as_bytes(), body, b"\r\n"].concat();
        stream.write_all(&command).cannot(what)?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).cannot(what)?;
        if &reply != b"+OK\r\n" {
            return Err(Error::new(format!("cannot fill Redis: it refused the key {key}")));
        }
    }
    Ok(())
}

fn redis_port(url: &str) -> Result<u16> {
    let port = url.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches('/').parse().ok());
    port.ok_or_else(|| Error::new(format!("{url} has no port")))
}

/// A column of PgBouncer's statistics.
fn parse_statistic(table: &str, database: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines().skip_while(|line| !line.starts_with("database|"));
    let column = lines.next()?.split('|').position(|column| column == name)?;
    let row = lines.find(|line| line.split('|').next() == Some(database))?;
    row.split('|').nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{RoundTrips, parse_statistic, redis_port};

    #[test]
    fn round_trips_are_divided_by_the_orders_that_were_placed() {
        let before = RoundTrips { count: 100, orders: Some(10) };
        let after = RoundTrips { count: 150, orders: Some(20) };
        assert_eq!(after.per_order_since(&before), Some(5.0));
        assert_eq!(after.per_order_since(&after), None);
        assert_eq!(RoundTrips { orders: None, ..after }.per_order_since(&before), None);
    }

    #[test]
    fn round_trips_are_found_by_column_and_database() {
        let table = "Tuples only is off.\ndatabase|total_xact_count|total_query_count\n\
            pgbouncer|1|1\nshoal|7|42\n";
        let count = |table, database| parse_statistic(table, database, "total_query_count");
        assert_eq!(count(table, "shoal"), Some(42));
        assert_eq!(count(table, "other"), None);
        assert_eq!(count("", "shoal"), None);
        assert_eq!(parse_statistic(table, "shoal", "total_xact_time"), None);
    }

    #[test]
    fn the_port_ends_the_url() {
        assert_eq!(redis_port("redis://127.0.0.1:6379").expect("it has one"), 6379);
        assert!(redis_port("redis://127.0.0.1").is_err());
    }
}
