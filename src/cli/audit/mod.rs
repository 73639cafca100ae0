//! `shoal audit`: the checklist for scaling out, for the person on call and for CI.

mod table;

use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use url::Url;

use super::print;
use crate::{
    config::{self, Config, process_environment},
    platform::{
        audit::{
            self, Finding, Outcome, Subject, Totals,
            deployment::{Deployment, Proxy, Workload},
            manifest, nginx,
        },
        http_client::Reach,
    },
};

#[derive(Args)]
pub(super) struct Audit {
    /// For programs: every check as an object
    #[arg(long)]
    json: bool,
    /// Leave out what passed
    #[arg(long, conflicts_with = "json")]
    brief: bool,
    /// Replicas of the API, at most; goes before what manifests say
    #[arg(long, value_name = "N")]
    max_replicas: Option<u32>,
    /// Workers, at most
    #[arg(long, value_name = "N")]
    max_workers: Option<u32>,
    /// PgBouncers in front of each Postgres; otherwise one
    #[arg(long, value_name = "N")]
    poolers: Option<u32>,
    /// Kubernetes manifests, `-` for the standard input: as `kubectl kustomize` prints them, or an
    /// autoscaler's alone. May be repeated
    #[arg(long = "manifest", visible_alias = "hpa", value_name = "FILE")]
    manifests: Vec<PathBuf>,
    /// The configuration of nginx in front of the replicas
    #[arg(long, value_name = "FILE")]
    nginx: Option<PathBuf>,
    /// How long the proxy waits for an answer, in seconds
    #[arg(long, value_name = "SECS")]
    proxy_timeout: Option<u64>,
    /// From the order to end to SIGKILL, in seconds
    #[arg(long, value_name = "SECS")]
    grace: Option<u64>,
    /// What of it goes by before SIGTERM, in seconds
    #[arg(long, value_name = "SECS")]
    pre_stop: Option<u64>,
    /// A running replica: where it serves /health. May be repeated
    #[arg(long = "url", value_name = "URL")]
    replicas: Vec<Url>,
    /// How long each look may take, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    patience: u64,
    /// Whether to colour what is for people
    #[arg(long, value_enum, default_value_t)]
    color: Color,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal
    #[default]
    Auto,
    Always,
    Never,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    totals: Totals,
    checks: &'a [Finding],
}

impl Audit {
    /// # Errors
    /// Something failed, or could not be begun.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let config = Config::read(&process_environment)?;
        let subject = self.subject(config)?;
        let found = audit::audit(&subject).await?;
        let totals = Totals::of(&found);
        if self.json {
            let report = Report { totals, checks: &found };
            print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        } else {
            let is_coloured = match self.color {
                Color::Auto => std::io::stdout().is_terminal(),
                color => color == Color::Always,
            };
            let paint = if is_coloured { table::Paint::Colours } else { table::Paint::Plain };
            let is_shown = |finding: &&Finding| !self.brief || finding.outcome != Outcome::Passed;
            let shown: Vec<&Finding> = found.iter().filter(is_shown).collect();
            print(&table::render(&shown, totals, paint))?;
        }
        anyhow::ensure!(totals.failed == 0, "{} of {} checks failed", totals.failed, found.len());
        Ok(())
    }

    fn subject(&self, config: Config) -> anyhow::Result<Subject> {
        let server = &config.http.server;
        Ok(Subject {
            drain_delay: server.drain_delay,
            drain_cap: server.drain_cap,
            trusted_proxies: config.http.trusted_proxies,
            layers: config.http.layers,
            database: config.database,
            redis: config.redis,
            cache: config.cache,
            storage: config.storage,
            jobs: config.jobs,
            payments: config.payments,
            mail: config.mail,
            tokens: config.tokens,
            webhooks_reach_everything: config.webhooks.reach == Reach::Everything,
            has_direct_url: config::read_direct_url(&process_environment).is_ok(),
            deployment: self.deployment()?,
            replicas: self.replicas.clone(),
            patience: Duration::from_secs(self.patience),
        })
    }

    /// Of the files, and of the options, which go before them.
    fn deployment(&self) -> anyhow::Result<Deployment> {
        let mut text = String::new();
        for path in &self.manifests {
            text += &read(path)?;
            text += "\n---\n";
        }
        let mut deployment = if self.manifests.is_empty() {
            Deployment::default()
        } else {
            manifest::read(&text).map_err(|why| anyhow::anyhow!("--manifest: {why}"))?
        };
        if let Some(path) = &self.nginx {
            let proxy = nginx::read(&read(path)?);
            deployment.proxy = Some(proxy.map_err(|why| anyhow::anyhow!("--nginx: {why}"))?);
        }
        if let Some(secs) = self.proxy_timeout {
            let proxy = deployment.proxy.unwrap_or_default();
            deployment.proxy = Some(Proxy { read: Some(Duration::from_secs(secs)), ..proxy });
        }
        deployment.poolers = self.poolers.or(deployment.poolers);
        deployment.api.most = self.max_replicas.or(deployment.api.most);
        deployment.worker.most = self.max_workers.or(deployment.worker.most);
        self.endings(&mut deployment.api);
        self.endings(&mut deployment.worker);
        Ok(deployment)
    }

    fn endings(&self, workload: &mut Workload) {
        workload.grace = self.grace.map(Duration::from_secs).or(workload.grace);
        if let Some(secs) = self.pre_stop {
            workload.pre_stop = Duration::from_secs(secs);
            workload.pre_stop_is_unknown = false;
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read the input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
