//! Parses the command line, starts telemetry and the runtime, and maps errors to exit codes.

use std::process::ExitCode;

use clap::Parser;
use shoal::{cli::Cli, config, platform::telemetry};

/// Fewer page faults and less fragmentation than the system's, at the price of some memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoal: {error:#}");
            // As for a wrong argument: nothing was begun, the operator has to change something.
            ExitCode::from(if error.is::<config::Mistakes>() { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    cli.check_environment()?;
    let telemetry = config::read_telemetry(&config::process_environment)?;
    let _telemetry = cli.logs().then(|| telemetry::start(&telemetry)).transpose()?;
    // One TLS stack for every library that would otherwise pick its own.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(cli.run())
}
