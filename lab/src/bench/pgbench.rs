//! `pgbench`: what the same Postgres gives, through the same PgBouncer, a client that does nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::data::{CUSTOMERS, Data, ORDERS, PRODUCTS};
use super::figures::{Sample, percentile};
use super::sql::{self, fill_in};
use crate::error::{Context, Error, Result};
use crate::run::output_of;
use crate::topology::Topology;

/// Reads an order of the loaded ones.
pub(super) fn order_script(dir: &Path) -> Result<PathBuf> {
    let statement = fill_in(
        sql::FIND_ORDER,
        &[("1", &id("orders", "order")), ("2", &id("customers", "customer"))],
    );
    // The customer whom `data` gave the order to.
    let script = format!(
        "\\set order random(1, {ORDERS})\n\\set customer 1 + :order % {CUSTOMERS}\n{statement};\n"
    );
    write(dir, "order.sql", &script)
}

/// Places an order of two products.
pub(super) fn place_script(dir: &Path) -> Result<PathBuf> {
    // 48 random bits: two orders with one id would fail, and be seen as an error.
    let random = "random(1, 281474976710655)";
    let mut script = format!(
        "\\set customer random(1, {CUSTOMERS})\n\\set first random(1, {PRODUCTS})\n\
         \\set second 1 + (:first + random(1, {})) % {PRODUCTS}\n\\set quantity random(1, 5)\n\
         \\set order {random}\n\\set event {random}\n\\set key {random}\nbegin;\n",
        PRODUCTS - 2
    );
    let values = [
        ("scope", "decode(lpad(to_hex(:key::bigint), 64, '0'), 'hex')".to_owned()),
        ("first", id("products", "first")),
        ("second", id("products", "second")),
        ("customer", id("customers", "customer")),
        ("order", id("new", "order")),
        ("event", id("new", "event")),
        ("quantity", ":quantity::int".to_owned()),
        ("data", ":data::text".to_owned()),
    ];
    let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, &**value)).collect();
    for statement in sql::PLACE_ORDER {
        script.push_str(&fill_in(statement, &values));
        script.push_str(";\n");
    }
    script.push_str("commit;\n");
    write(dir, "place.sql", &script)
}

/// The id that `data` has made of a number.
fn id(prefix: &str, number: &str) -> String {
    format!("(:{prefix}::text || lpad(to_hex(:{number}::bigint), 12, '0'))::uuid")
}

fn write(dir: &Path, name: &str, script: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, script).cannot(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// What a transaction of the script may need besides its numbers: what the service would keep of an order.
fn order_data(data: &Data) -> String {
    let line = |number| {
        format!(
            r#"{{"product_id":"{}","name":"A product to measure with","quantity":3,"unit_amount":1999}}"#,
            data.product(number)
        )
    };
    format!(
        r#"{{"order_id":"{}","status":"pending","items":[{},{}],"total_amount":11994,"currency":"EUR"}}"#,
        data.order(1),
        line(1),
        line(2)
    )
}

/// One run from the measured core.
#[derive(Clone, Debug)]
pub(super) struct Pgbench<'a> {
    /// The core, as `taskset --cpu-list` wants it.
    pub(super) core: &'a str,
    pub(super) topology: &'a Topology,
    pub(super) database: &'a str,
    pub(super) data: &'a Data,
    pub(super) script: &'a Path,
    pub(super) connections: usize,
}

impl Pgbench<'_> {
    /// Runs the script for `seconds`. The latency of each transaction is kept in a file beside the script.
    pub(super) fn run(&self, seconds: u64) -> Result<Sample> {
        let log = self.script.with_extension("log");
        let node = &self.topology.primary;
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", self.core]);
        command.arg(self.topology.binaries.postgres_dir.join("pgbench"));
        command.args(["--no-vacuum", "--protocol=prepared", "--jobs=1", "--log"]);
        command.arg(format!("--log-prefix={}", log.display()));
        command.arg(format!("--client={}", self.connections));
        command.arg(format!("--time={seconds}")).arg("--file").arg(self.script);
        for (name, value) in [
            ("products", &self.data.products),
            ("customers", &self.data.customers),
            ("orders", &self.data.orders),
            ("new", &self.data.new),
            ("data", &order_data(self.data)),
        ] {
            command.arg("--define").arg(format!("{name}={value}"));
        }
        command.arg("--host").arg(&node.host).arg("--port").arg(node.pooler_port.to_string());
        command.arg("--username").arg(&self.topology.app.user).arg(self.database);
        command.env("PGPASSWORD", &self.topology.app.password).env_remove("PGOPTIONS");
        let output = output_of(&mut command, "", "run pgbench")?;
        let mut sample = parse(&output, seconds)
            .ok_or_else(|| Error::new(format!("cannot understand pgbench:\n{output}")))?;
        let mut latencies = take_latencies(&log)?;
        sample.p50_us = percentile(&mut latencies, 50.0);
        sample.p99_us = percentile(&mut latencies, 99.0);
        Ok(sample)
    }
}

/// The summary. Its rate leaves out the time that connecting took.
fn parse(output: &str, seconds: u64) -> Option<Sample> {
    let after = |name: &str| output.lines().find_map(|line| line.trim().strip_prefix(name));
    let number = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let done = number(after("number of transactions actually processed: ")?)?;
    let failed = after("number of failed transactions: ").and_then(number).unwrap_or(0.0);
    let rate = number(after("tps = ")?)?;
    // Clients that an error has ended are told of in prose, and the rate does not show them.
    let aborted = output.contains("aborted") || output.contains("incomplete");
    Some(Sample {
        seconds: if rate > 0.0 { done / rate } else { seconds as f64 },
        requests: done as u64,
        errors: failed as u64 + u64::from(aborted),
        ..Sample::default()
    })
}

/// Reads the logs `PREFIX.PID`, and removes them. The third field of a line is the microseconds taken.
fn take_latencies(prefix: &Path) -> Result<Vec<f64>> {
    let name = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = prefix.parent().unwrap_or(Path::new("/"));
    let entries = fs::read_dir(dir).cannot(|| format!("read {}", dir.display()))?;
    let logs = entries.flatten().map(|entry| entry.path()).filter(|path| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}.")))
    });
    let mut latencies = Vec::new();
    for log in logs {
        let text = fs::read_to_string(&log).cannot(|| format!("read {}", log.display()))?;
        latencies.extend(text.lines().filter_map(latency));
        fs::remove_file(&log).cannot(|| format!("remove {}", log.display()))?;
    }
    Ok(latencies)
}

fn latency(line: &str) -> Option<f64> {
    line.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{latency, parse};

    const OUTPUT: &str = "pgbench (15.18)\ntransaction type: place.sql\nnumber of clients: 64\n\
        number of transactions actually processed: 5000\nnumber of failed transactions: 2 (0.040%)\n\
        latency average = 49.793 ms\ninitial connection time = 30 ms\n\
        tps = 1250.000000 (without initial connection time)\n";

    #[test]
    fn the_rate_makes_the_time() {
        let sample = parse(OUTPUT, 5).expect("it is complete");
        assert!((sample.seconds - 4.0).abs() < 1e-9);
        assert_eq!((sample.requests, sample.errors), (5000, 2));
    }

    #[test]
    fn an_aborted_client_is_an_error() {
        let output =
            format!("{OUTPUT}pgbench: error: Run was aborted; the above results are incomplete.");
        assert_eq!(parse(&output, 5).expect("it is complete").errors, 3);
    }

    #[test]
    fn latencies_are_the_third_field() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(2241.0));
        assert_eq!(latency("0 199"), None);
    }
}
