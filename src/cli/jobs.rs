//! `shoal jobs`: the same as the routes under `/v1/admin`, for whoever has the database at hand.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{connect, print};
use crate::{
    domain,
    platform::{
        db::{Db, Tx},
        http::error::ApiError,
        jobs::admin::{self, Dead, QueueState, Retried, StoredJob},
    },
};

#[derive(Args)]
pub(super) struct Jobs {
    /// For programs: what the API answers
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The queues, and what waits in them
    List,
    /// Dead letters, newest first
    Dead {
        /// Of this queue only
        #[arg(long)]
        queue: Option<String>,
        /// How many, at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
        /// Older than this one
        #[arg(long)]
        before: Option<Uuid>,
    },
    /// One job
    Show { id: Uuid },
    /// Begin a job anew that died, was discarded, or would run later; or all dead letters of a
    /// queue, of a kind, or of a kind in a queue
    Retry {
        #[arg(required_unless_present_any = ["queue", "kind"])]
        id: Option<Uuid>,
        /// All dead letters of this queue
        #[arg(long, conflicts_with = "id")]
        queue: Option<String>,
        /// All dead letters of this kind
        #[arg(long, conflicts_with = "id")]
        kind: Option<String>,
    },
    /// End a job that does not run, without its being done
    Discard { id: Uuid },
    /// Begin no more jobs of a queue
    Pause { queue: String },
    /// Begin jobs of a queue again
    Resume { queue: String },
}

impl Jobs {
    /// # Errors
    /// For the person who called: what went wrong, and what to do.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (db, tasks) = connect()?;
        if let Command::Retry { id: None, queue, kind } = &self.command {
            let which = Dead { queue: queue.as_deref(), kind: kind.as_deref() };
            let retried = retry_dead(&db, which).await?;
            tasks.stop().await;
            let done = Retried { retried, has_more: false };
            return print(&if self.json {
                json(&done)?
            } else {
                format!("{retried} are available\n")
            });
        }
        let mut tx = db.begin().await?;
        let text = match self.command {
            Command::List => {
                let queues = admin::queues(&mut tx, domain::work().queues()).await?;
                if self.json { json(&queues)? } else { queue_table(&queues) }
            }
            Command::Dead { queue, limit, before } => {
                let before = before.unwrap_or(Uuid::max());
                let dead = admin::dead(&mut tx, queue.as_deref(), before, limit).await?;
                if self.json { json(&dead)? } else { dead_table(&dead)? }
            }
            Command::Show { id } => {
                let job = admin::find(&mut tx, id).await.map_err(told)?;
                if self.json { json(&job)? } else { details(&job)? }
            }
            Command::Retry { id, .. } => {
                let id = id.context("which job?")?;
                let job = admin::retry(&mut tx, id).await.map_err(told)?;
                if self.json { json(&job)? } else { format!("{id} is {}\n", job.state) }
            }
            Command::Discard { id } => {
                let job = admin::discard(&mut tx, id).await.map_err(told)?;
                if self.json { json(&job)? } else { format!("{id} is {}\n", job.state) }
            }
            Command::Pause { queue } => {
                check_name(&mut tx, &queue).await?;
                admin::pause(&mut tx, &queue).await?;
                format!("{queue} is paused: jobs that run go on, no more are begun\n")
            }
            Command::Resume { queue } => {
                check_name(&mut tx, &queue).await?;
                admin::resume(&mut tx, &queue).await?;
                format!("{queue} goes on\n")
            }
        };
        // Workers are not told: the next poll finds what there is to do.
        tx.commit().await?;
        tasks.stop().await;
        print(&text)
    }
}

/// All of them, some at a time: how many.
async fn retry_dead(db: &Db, which: Dead<'_>) -> anyhow::Result<i64> {
    let mut retried = 0;
    loop {
        let mut tx = db.begin().await?;
        let some = admin::retry_dead(&mut tx, which).await.map_err(told)?;
        tx.commit().await?;
        retried += some.retried;
        // Where all that were found stay dead, those alike of them would be found again.
        if !some.has_more || some.retried == 0 {
            return Ok(retried);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` gives it away")]
fn told(error: ApiError) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

async fn check_name(tx: &mut Tx, name: &str) -> anyhow::Result<()> {
    let known = domain::work();
    let names: Vec<&str> = known.queues().map(|queue| queue.name).collect();
    let is_queue = admin::is_queue(tx, known.queues(), name).await?;
    anyhow::ensure!(is_queue, "no queue {name}; there are: {}", names.join(", "));
    Ok(())
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn queue_table(queues: &[QueueState]) -> String {
    let head = ["queue", "available", "scheduled", "running", "dead", "oldest", "state"];
    let row = |queue: &QueueState| {
        [
            queue.queue.clone(),
            queue.available.to_string(),
            queue.scheduled.to_string(),
            queue.running.to_string(),
            queue.dead.to_string(),
            format!("{:.0} s", queue.oldest_age_seconds),
            if queue.paused { "paused".to_owned() } else { "works".to_owned() },
        ]
    };
    table(head, queues.iter().map(row))
}

fn dead_table(jobs: &[StoredJob]) -> anyhow::Result<String> {
    let rows: Vec<[String; 4]> = jobs
        .iter()
        .map(|job| {
            let error = job.error.as_deref().unwrap_or_default().lines().next();
            Ok([
                job.id.to_string(),
                job.kind.clone(),
                when(job.finished_at)?,
                error.unwrap_or_default().to_owned(),
            ])
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(table(["id", "kind", "died", "error"], rows.into_iter()))
}

/// Columns as wide as their widest cell, the last one open.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn details(job: &StoredJob) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, value) in [
        ("id", job.id.to_string()),
        ("kind", format!("{} in {}", job.kind, job.queue)),
        ("state", format!("{}, attempt {} of {}", job.state, job.attempt, job.max_attempts)),
        ("created", when(Some(job.created_at))?),
        ("due", when(Some(job.run_at))?),
        ("begun", when(job.started_at)?),
        ("ended", when(job.finished_at)?),
        ("worker", job.worker.clone().unwrap_or_default()),
        ("request", job.request_id.clone().unwrap_or_default()),
        ("error", job.error.clone().unwrap_or_default()),
        ("args", job.args.to_string()),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<8}  {value}");
        }
    }
    Ok(text)
}

fn when(instant: Option<OffsetDateTime>) -> anyhow::Result<String> {
    Ok(instant.map(|instant| instant.format(&Rfc3339)).transpose()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = ["orders".to_owned(), "1".to_owned()];
        assert_eq!(table(["queue", "dead"], [row].into_iter()), "queue   dead\norders  1\n");
    }
}
