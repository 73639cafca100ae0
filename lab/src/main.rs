//! `cargo lab`: the development tool's command line.

#![allow(
    clippy::disallowed_methods,
    reason = "they are disallowed in the service; the lab is a tool"
)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::bench::baseline;
use lab::bench::workloads::Workload;
use lab::commands::{
    autoscale, bench, down, fault, logs, mails, prepare,
    ship_check::{self, Missing},
    status, test, up,
};
use lab::{Error, Result};
use lab::{mail, provider, s3};

/// As in the service: the bare servers of `bench` are to differ from it by nothing else.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Starts Shoal's whole topology on this machine, without Docker, and runs the tests against it.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything, and stay until Ctrl-C. Data is kept between runs.
    Up {
        /// How many API replicas.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
        replicas: u16,
        /// The port of nginx, on loopback.
        #[arg(long, default_value_t = lab::ports::fixed::NGINX)]
        port: u16,
        /// Begin without the data of earlier runs.
        #[arg(long)]
        fresh: bool,
        /// Only Postgres, PgBouncer, Redis and S3.
        #[arg(long)]
        services_only: bool,
        /// Build the API with optimisations.
        #[arg(long)]
        release: bool,
        /// Put a proxy before every server, so that `cargo lab fault` can break what the API leans on.
        #[arg(long)]
        faults: bool,
        /// A Redis Cluster of three nodes instead of a single Redis. Needs Redis 7.
        #[arg(long)]
        redis_cluster: bool,
    },
    /// Break and heal parts of the lab that runs with --faults in another terminal.
    ///
    /// Without arguments: what can be broken, how, and what is wrong now. Faults last until they are cleared.
    #[command(after_help = FAULT_EXAMPLES)]
    Fault {
        /// A target, a fault and its time; or `clear`; or a target and `clear`.
        #[arg(value_name = "WORD")]
        words: Vec<String>,
    },
    /// Run the tests against servers of their own, and stop them.
    Test {
        /// For `cargo test`, for example `orders -- --nocapture`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show what runs where.
    Status,
    /// Stop the lab that runs in another terminal.
    Down,
    /// Print the log of a server.
    Logs {
        /// As `cargo lab status` names it.
        name: String,
        /// Go on printing what is added.
        #[arg(short, long)]
        follow: bool,
    },
    /// Show the mail that the lab's service has sent.
    Mails {
        /// How many messages, the newest.
        #[arg(short, long, default_value_t = 10)]
        count: usize,
    },
    /// Renew `.sqlx/` from the schema that the migrations make.
    Prepare {
        /// Only tell whether it is up to date.
        #[arg(long)]
        check: bool,
    },
    /// Check manifests, images, rules and units by their own tools, which are installed if they can be.
    ShipCheck {
        /// Fail where a tool is not to be had, instead of passing its check over.
        #[arg(long)]
        all: bool,
    },
    /// Run the payment provider alone. It declines amounts that end in 13.
    Provider {
        /// The port on loopback.
        #[arg(long, default_value_t = lab::ports::fixed::PROVIDER)]
        port: u16,
    },
    /// Run the mail server alone. It delivers nothing.
    MailSink {
        /// The port on loopback.
        #[arg(long, default_value_t = lab::ports::fixed::MAIL)]
        port: u16,
        /// Where messages are kept.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Run the S3 server alone.
    S3 {
        /// The port on loopback.
        #[arg(long, default_value_t = lab::ports::fixed::S3)]
        port: u16,
        /// Where buckets are kept.
        #[arg(long)]
        dir: PathBuf,
        /// Access key id; LAB_S3_ACCESS_KEY if not given.
        #[arg(long)]
        access_key: Option<String>,
        /// Secret access key; LAB_S3_SECRET_KEY if not given, which keeps it out of the process list.
        #[arg(long)]
        secret_key: Option<String>,
    },
    /// Measure one replica on one core, side by side with bare handlers, pgbench and redis-benchmark.
    Bench {
        /// How long each measurement takes.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// How often each is repeated, in turns with the others.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
        rounds: u32,
        /// One round of one second, to try it out.
        #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
        quick: bool,
        /// Only these workloads, parted by commas.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<Workload>,
        /// Measure the programs in target/release as they are.
        #[arg(long)]
        no_build: bool,
        /// Where bench.json and bench.html go, instead of target/lab/bench.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Let Kubernetes' autoscaler, as k8s/ has it, start and end replicas here while load comes and goes.
    Autoscale {
        /// The overlay below k8s/overlays whose numbers count.
        #[arg(long, default_value = "production")]
        overlay: String,
        /// Requests per second that a replica is to carry here, instead of what the manifest says.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        per_replica: u32,
        /// How much faster the autoscaler's clock goes.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=30))]
        speed: u32,
        /// The load at its peak, in replicas.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=50))]
        peak: u32,
        /// Build the API with optimisations.
        #[arg(long)]
        release: bool,
    },
    /// Serve the bare handlers that `bench` compares the API with.
    #[command(hide = true)]
    BenchServer {
        /// The port on loopback.
        #[arg(long)]
        port: u16,
        /// Where the bodies are.
        #[arg(long)]
        redis_url: String,
    },
}

const FAULT_EXAMPLES: &str = "\
Examples:
  cargo lab fault redis down             refuse connections; also latency 2s, drop, drop-replies, reset
  cargo lab fault pg-replica-1 lag 10s   replay 10 s late; also pause
  cargo lab fault pgbouncer restart      end the primary's PgBouncer and start it again
  cargo lab fault api-2 kill             SIGKILL; also stop (SIGSTOP), cont, term
  cargo lab fault worker kill            the same of the worker, the provider (`provider`), the mail server (`mail`)
  cargo lab fault redis clear            heal one
  cargo lab fault clear                  heal everything";

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Up { replicas, port, fresh, services_only, release, faults, redis_cluster } => {
            let options = up::Options {
                replicas,
                port,
                fresh,
                services_only,
                release,
                faults,
                redis_cluster,
            };
            up::run(&options).map(|()| 0)
        }
        Command::Fault { words } => fault::run(&words).map(|()| 0),
        Command::Test { .. } => test::run(&arguments_of_test()),
        Command::Status => status::run().map(|()| 0),
        Command::Down => down::run().map(|()| 0),
        Command::Logs { name, follow } => logs::run(&name, follow).map(|()| 0),
        Command::Mails { count } => mails::run(count).map(|()| 0),
        Command::ShipCheck { all } => {
            let missing = if all { Missing::Fails } else { Missing::Skipped };
            ship_check::run(missing).map(|()| 0)
        }
        Command::Provider { port } => provider::run(port).map(|()| 0),
        Command::MailSink { port, dir } => mail::run(port, &dir).map(|()| 0),
        Command::Prepare { check } => prepare::run(check).map(|()| 0),
        Command::S3 { port, dir, access_key, secret_key } => s3::run(&s3::Settings {
            dir,
            port,
            access_key: given_or_variable(access_key, "LAB_S3_ACCESS_KEY")?,
            secret_key: given_or_variable(secret_key, "LAB_S3_SECRET_KEY")?,
        })
        .map(|()| 0),
        Command::Bench { seconds, rounds, quick, only, no_build, out } => {
            let (seconds, rounds) = if quick { (1, 1) } else { (seconds, rounds) };
            let programs = if no_build { bench::Programs::AsBuilt } else { bench::Programs::Fresh };
            bench::run(&bench::Options { seconds, rounds, only, programs, out }).map(|()| 0)
        }
        Command::Autoscale { overlay, per_replica, speed, peak, release } => {
            let (per_replica, peak) = (f64::from(per_replica), f64::from(peak));
            let clock_factor = speed;
            let options = autoscale::Options { overlay, per_replica, clock_factor, peak, release };
            autoscale::run(&options).map(|()| 0)
        }
        Command::BenchServer { port, redis_url } => baseline::run(&baseline::Settings {
            port,
            redis_url,
            // Holds a password, which is to stay out of the process list.
            database_url: given_or_variable(None, "LAB_BENCH_DATABASE_URL")?,
        })
        .map(|()| 0),
    }
}

/// What follows `test` on the command line, as it stands there: clap would swallow a first `--`, which
/// `cargo test` needs.
fn arguments_of_test() -> Vec<OsString> {
    std::env::args_os().skip_while(|arg| arg != "test").skip(1).collect()
}

fn given_or_variable(given: Option<String>, variable: &str) -> Result<String> {
    let value = given.or_else(|| std::env::var(variable).ok());
    value.ok_or_else(|| Error::new(format!("{variable} is not set")).exit_code(2))
}
