//! `wrk`, the HTTP load generator, and the scripts that tell it what to ask for.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::figures::Sample;
use crate::error::{Context, Error, Result};
use crate::run::output_of;

/// Ends every script: the figures in full, where wrk itself would round them.
const DONE: &str = r#"
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "bench requests=%d duration_us=%d p50_us=%d p99_us=%d status=%d connect=%d read=%d write=%d timeout=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
"#;

/// Sends one of the requests of a list, drawn at random, over and over. They are formatted once.
const REPLAY: &str = r#"
local requests = {}
init = function(args)
  math.randomseed(os.time())
  for line in io.lines(list) do
    local method, path, token, body = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$")
    local headers = {}
    for name, value in pairs(wrk.headers) do headers[name] = value end
    if token ~= "" then headers["Authorization"] = "Bearer " .. token end
    if body ~= "" then headers["Content-Type"] = "application/json" else body = nil end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
  end
end
request = function() return requests[math.random(#requests)] end
"#;

/// Places orders of two different products, each under a key of its own, for customers drawn at random.
const PLACE: &str = r#"
local tokens, count = {}, 0
local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end
init = function(args)
  math.randomseed(os.time() + number)
  for line in io.lines(list) do tokens[#tokens + 1] = "Bearer " .. line end
  run = string.format("%d-%d-%d", os.time(), number, math.random(1000000000))
  headers = {}
  for name, value in pairs(wrk.headers) do headers[name] = value end
  headers["Content-Type"] = "application/json"
end
request = function()
  count = count + 1
  headers["Authorization"] = tokens[math.random(#tokens)]
  headers["Idempotency-Key"] = run .. "-" .. count
  local first = math.random(products)
  local second = (first + math.random(products - 2)) % products + 1
  return wrk.format("POST", "/v1/orders", headers, string.format(
    '{"items":[{"product_id":"%s%012x","quantity":%d},{"product_id":"%s%012x","quantity":1}]}',
    prefix, first, math.random(5), prefix, second))
end
"#;

/// Draws one of the kinds, by how often each comes; reads are formatted once, orders as in [`PLACE`].
const MIXED: &str = r#"
local reads = { {}, {}, {} }
local place_init, request_of_place = init, request
init = function(args)
  place_init(args)
  for line in io.lines(reads_list) do
    local kind, path, token = line:match("^(%d)\t([^\t]*)\t(.*)$")
    local headers = {}
    for name, value in pairs(wrk.headers) do headers[name] = value end
    headers["Authorization"] = "Bearer " .. token
    local own = reads[tonumber(kind)]
    own[#own + 1] = wrk.format("GET", path, headers)
  end
end
request = function()
  local drawn = math.random(kinds[4])
  for kind = 1, 3 do
    if drawn <= kinds[kind] then return reads[kind][math.random(#reads[kind])] end
  end
  return request_of_place()
end
"#;

/// How often what is asked for.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Mix {
    pub(super) lists: u32,
    pub(super) products: u32,
    pub(super) own_orders: u32,
    /// That are placed.
    pub(super) orders: u32,
}

impl Mix {
    pub(super) fn sum(&self) -> u32 {
        self.lists + self.products + self.own_orders + self.orders
    }
}

/// One request of a list: method, path, token, body; what it does not need is empty.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) token: String,
    pub(super) body: String,
}

impl Request {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), token: String::new(), body: String::new() }
    }

    #[must_use]
    pub(super) fn with_token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }
}

/// A script that sends the requests of a list.
pub(super) fn write_replay(dir: &Path, name: &str, requests: &[Request]) -> Result<PathBuf> {
    let lines: String = requests
        .iter()
        .map(|r| format!("{}\t{}\t{}\t{}\n", r.method, r.path, r.token, r.body))
        .collect();
    write(dir, name, &lines, "", REPLAY)
}

/// A script that places orders for the customers with these tokens, of products `prefix` and 1 to `products`
/// in twelve hexadecimal digits.
pub(super) fn write_orders(
    dir: &Path,
    name: &str,
    tokens: &[String],
    prefix: &str,
    products: usize,
) -> Result<PathBuf> {
    let globals = format!("prefix = \"{prefix}\"\nproducts = {products}\n");
    write(dir, name, &format!("{}\n", tokens.join("\n")), &globals, PLACE)
}

/// A script that draws from lists, products and own orders to read, in this order, and places orders as
/// [`write_orders`] does: tokens, prefix, number of products.
pub(super) fn write_mix(
    dir: &Path,
    name: &str,
    mix: &Mix,
    reads: &[Vec<Request>; 3],
    (tokens, prefix, products): (&[String], &str, usize),
) -> Result<PathBuf> {
    let list = dir.join(format!("{name}-reads.txt"));
    let mut lines = String::new();
    for (kind, requests) in (1..).zip(reads) {
        for request in requests {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{kind}\t{}\t{}", request.path, request.token);
        }
    }
    fs::write(&list, lines).cannot(|| format!("write {}", list.display()))?;
    let (first, second) = (mix.lists, mix.lists + mix.products);
    let globals = format!(
        "prefix = \"{prefix}\"\nproducts = {products}\nreads_list = \"{}\"\nkinds = {{ {first}, {second}, {}, {} }}\n",
        list.display(),
        second + mix.own_orders,
        mix.sum()
    );
    write(dir, name, &format!("{}\n", tokens.join("\n")), &globals, &format!("{PLACE}{MIXED}"))
}

fn write(dir: &Path, name: &str, list: &str, globals: &str, script: &str) -> Result<PathBuf> {
    let list_file = dir.join(format!("{name}.txt"));
    let script_file = dir.join(format!("{name}.lua"));
    let text = format!("list = \"{}\"\n{globals}{script}{DONE}", list_file.display());
    for (path, text) in [(&list_file, list), (&script_file, &*text)] {
        fs::write(path, text).cannot(|| format!("write {}", path.display()))?;
    }
    Ok(script_file)
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Wrk<'a> {
    pub(super) program: &'a Path,
    /// Where it runs, as `taskset --cpu-list` wants it.
    pub(super) cores: &'a str,
    pub(super) script: &'a Path,
    pub(super) port: u16,
    pub(super) threads: usize,
    pub(super) connections: usize,
}

impl Wrk<'_> {
    /// Sends for `seconds`, and answers what came of it.
    pub(super) fn run(&self, seconds: u64) -> Result<Sample> {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", self.cores]).arg(self.program);
        command.arg("--latency").arg(format!("--threads={}", self.threads));
        command.arg(format!("--connections={}", self.connections));
        command.arg(format!("--duration={seconds}s")).arg("--timeout=10s");
        command.arg("--script").arg(self.script).arg(format!("http://127.0.0.1:{}/", self.port));
        let output = output_of(&mut command, "", "send requests with wrk")?;
        parse(&output).ok_or_else(|| Error::new(format!("cannot understand wrk:\n{output}")))
    }
}

/// The line that [`DONE`] writes.
fn parse(output: &str) -> Option<Sample> {
    let line = output.lines().find_map(|line| line.strip_prefix("bench "))?;
    let figure = |name: &str| {
        let fields = line.split(' ').filter_map(|field| field.split_once('='));
        fields.into_iter().find(|(field, _)| *field == name)?.1.parse::<u64>().ok()
    };
    let mut errors = 0;
    for kind in ["status", "connect", "read", "write", "timeout"] {
        errors += figure(kind)?;
    }
    Some(Sample {
        seconds: figure("duration_us")? as f64 / 1e6,
        requests: figure("requests")?,
        errors,
        p50_us: Some(figure("p50_us")? as f64),
        p99_us: Some(figure("p99_us")? as f64),
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    const OUTPUT: &str = "Running 1s test @ http://127.0.0.1:1/\n\
        bench requests=1000 duration_us=2000000 p50_us=150 p99_us=900 status=1 connect=2 read=3 write=0 timeout=4\n";

    #[test]
    fn figures_and_every_kind_of_error_are_read() {
        let sample = parse(OUTPUT).expect("the line is there");
        assert!((sample.seconds - 2.0).abs() < 1e-9);
        assert_eq!((sample.requests, sample.errors), (1000, 10));
        assert_eq!((sample.p50_us, sample.p99_us), (Some(150.0), Some(900.0)));
    }

    #[test]
    fn output_without_the_line_is_refused() {
        assert!(parse("unable to connect to 127.0.0.1:1 Connection refused\n").is_none());
        assert!(parse("bench requests=1\n").is_none());
    }
}
