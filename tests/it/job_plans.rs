//! What is finished costs the unfinished nothing: with a million finished jobs in the table, a
//! claim reads as many pages as there are jobs to claim.

use std::{fs, path::Path};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::support::Database;

const FILL: [&str; 3] = [
    "insert into jobs (id, queue, kind, args, max_attempts, attempt, state, finished_at, unique_key)
     select gen_random_uuid(), 'busy', 'a.kind', '{}', 12, 1, 'completed', now() - n * interval '1 second', n::text
     from generate_series(1, 1000000) n",
    "insert into jobs (id, queue, kind, args, max_attempts, priority)
     select gen_random_uuid(), 'busy', 'a.kind', '{}', 12, n % 3 from generate_series(1, 1000) n",
    "insert into jobs (id, queue, kind, args, max_attempts, state, run_at, attempt, lease_expires_at, finished_at)
     select gen_random_uuid(), 'busy', 'a.kind', '{}', 12, state, now() + interval '1 hour', 1,
            case when state = 'running' then now() + interval '1 hour' end,
            case when state = 'dead' then now() end
     from unnest(array['scheduled', 'running', 'dead']) state, generate_series(1, 100)",
];

/// The one statement in `.sqlx/` that has this in it.
fn statement(fragment: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let found: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .map(|file| serde_json::from_slice::<Value>(&file).unwrap())
        .map(|file| file["query"].as_str().unwrap().to_owned())
        .map(|query| query.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|query| query.contains(fragment))
        .collect();
    assert_eq!(found.len(), 1, "{fragment}: {found:#?}");
    found.into_iter().next().unwrap()
}

/// Runs the statement and takes it back: its indexes, and how many pages it looked at.
async fn looked_at(
    connection: &mut PgConnection,
    mode: &str,
    fragment: &str,
    (types, arguments): (&str, &str),
) -> (Vec<String>, i64) {
    let mut transaction = connection.begin().await.unwrap();
    let query = statement(fragment);
    for sql in [
        format!("set local plan_cache_mode = {mode}"),
        format!("prepare asked ({types}) as {query}"),
    ] {
        transaction.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    let explain = format!("explain (analyze, buffers, format json) execute asked ({arguments})");
    let plan: Value =
        sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&mut *transaction).await.unwrap();
    transaction.execute("deallocate asked").await.unwrap();
    transaction.rollback().await.unwrap();
    let plan = &plan[0]["Plan"];
    let pages =
        ["Shared Hit Blocks", "Shared Read Blocks"].map(|name| plan[name].as_i64().unwrap());
    let mut indexes = Vec::new();
    collect(plan, &mut indexes);
    (indexes, pages.iter().sum())
}

/// The names of the indexes that are read, and of the tables that are read in full.
fn collect(node: &Value, found: &mut Vec<String>) {
    if let Some(index) = node["Index Name"].as_str() {
        found.push(index.to_owned());
    }
    if node["Node Type"] == "Seq Scan" {
        found.push(format!("all of {}", node["Relation Name"].as_str().unwrap()));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        collect(child, found);
    }
}

#[tokio::test]
async fn a_million_finished_jobs_do_not_slow_a_claim() {
    let mut connection = Database::create().await.connect().await;
    // What is asked, its parameters, the index that has the answer, and how many rows change.
    let questions = [
        (
            "cross join lateral ( select id from jobs where queue = q.name",
            ("text[], int[], float8, text", "array['busy', 'idle'], array[20, 20], 30, 'worker'"),
            "jobs_available_idx",
        ),
        (
            "update jobs set state = 'available' where id in",
            ("bigint", "1000"),
            "jobs_scheduled_idx",
        ),
        ("' was not heard of any more'", ("bigint", "1000"), "jobs_running_idx"),
        (
            "where state = 'dead' and id < $1",
            ("uuid, text, bigint", "'ffffffff-ffff-ffff-ffff-ffffffffffff', null, 21"),
            "jobs_dead_idx",
        ),
    ];
    // Without the million.
    for sql in &FILL[1..] {
        connection.execute(*sql).await.unwrap();
    }
    connection.execute("vacuum analyze jobs").await.unwrap();
    let mut before = Vec::new();
    for (fragment, parameters, _) in questions {
        before.push(looked_at(&mut connection, "auto", fragment, parameters).await.1);
    }
    connection.execute(FILL[0]).await.unwrap();
    connection.execute("vacuum analyze jobs").await.unwrap();
    for ((fragment, parameters, index), before) in questions.into_iter().zip(before) {
        for mode in ["force_custom_plan", "force_generic_plan"] {
            // Once for the caches and hints that a first reader pays for.
            looked_at(&mut connection, mode, fragment, parameters).await;
            let (read, pages) = looked_at(&mut connection, mode, fragment, parameters).await;
            assert!(read.iter().any(|name| name == index), "{fragment}: {read:?}");
            let whole = "all of jobs".to_owned();
            assert!(!read.contains(&whole), "{fragment}: {read:?}");
            // A level or two more of the primary key's tree for each row.
            assert!(pages <= before * 2 + 100, "{fragment}, {mode}: {before} became {pages}");
        }
    }
}
