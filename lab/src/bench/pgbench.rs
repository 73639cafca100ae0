//! `pgbench`: what the same Postgres gives, through the same PgBouncer, a client that does nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::data::{CUSTOMERS, Data, ORDERS, PRODUCTS};
use super::figures::{Sample, percentile};
use super::sql::{self, fill_in};
use crate::error::{Context, Error, Result};
use crate::topology::Topology;

/// Its clock runs while its clients log in, which costs a hash each: what that takes on an idle machine, and on
/// a busy one.
const LOG_IN_SECONDS: [u64; 2] = [2, 15];

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
    /// Runs the script for `seconds` at least. The latency of each transaction is kept in a file beside the
    /// script meanwhile.
    pub(super) fn run(&self, seconds: u64) -> Result<Sample> {
        let mut output = String::new();
        for log_in in LOG_IN_SECONDS {
            let log = self.script.with_extension("log");
            output = said_by(&mut self.command(&log, seconds + log_in))?;
            let mut latencies = take_latencies(&log)?;
            if let Some(mut sample) = parse(&output) {
                sample.p50_us = percentile(&mut latencies, 50.0);
                sample.p99_us = percentile(&mut latencies, 99.0);
                return Ok(sample);
            }
        }
        Err(Error::new(format!("pgbench has not finished a single transaction:\n{output}")))
    }

    fn command(&self, log: &Path, seconds: u64) -> Command {
        let node = &self.topology.primary;
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", self.core]);
        command.arg(self.topology.binaries.postgres_dir.join("pgbench"));
        command.args(["--no-vacuum", "--protocol=prepared", "--log"]);
        // A thread for each client: while one prepares its statements, which pgbench waits for, those that
        // share its thread hold their server connections, and with all of them held it would wait for ever.
        command.arg(format!("--jobs={}", self.connections));
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
        command
    }
}

/// All it wrote. It ends with 2 if the server refused something: that is counted, not hidden.
fn said_by(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().cannot(|| "run pgbench".to_owned())?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    match output.status.code() {
        Some(0 | 2) => Ok(text),
        _ => Err(Error::new(format!("pgbench ended with {}. It said:\n{text}", output.status))),
    }
}

/// The summary. Its rate leaves out the time that connecting took.
fn parse(output: &str) -> Option<Sample> {
    let after = |name: &str| output.lines().find_map(|line| line.trim().strip_prefix(name));
    let number = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let done = number(after("number of transactions actually processed: ")?)?;
    let failed = after("number of failed transactions: ").and_then(number).unwrap_or(0.0);
    let rate = number(after("tps = ")?).filter(|rate| *rate > 0.0)?;
    // Each client that an error has ended is told of in prose, and the rate does not show it.
    let aborted = output.matches(" aborted in command ").count();
    Some(Sample {
        seconds: done / rate,
        requests: done as u64,
        errors: failed as u64 + aborted as u64,
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
        let sample = parse(OUTPUT).expect("it is complete");
        assert!((sample.seconds - 4.0).abs() < 1e-9);
        assert_eq!((sample.requests, sample.errors), (5000, 2));
    }

    #[test]
    fn an_aborted_client_is_an_error() {
        let output =
            format!("{OUTPUT}pgbench: error: client 40 aborted in command 7 (SQL) of script 0");
        assert_eq!(parse(&output).expect("it is complete").errors, 3);
    }

    #[test]
    fn no_transaction_is_no_figure() {
        assert!(parse("number of transactions actually processed: 0\n").is_none());
    }

    #[test]
    fn latencies_are_the_third_field() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(2241.0));
        assert_eq!(latency("0 199"), None);
    }
}
