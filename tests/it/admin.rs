//! Looking after jobs, by the API and by the command line.

use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{Client, Fleet, environment, until};

/// A job of each state, and its id by the state's name.
async fn filled(fleet: &Fleet) -> impl Fn(&str) -> Uuid {
    let insert = "
        insert into jobs (id, queue, kind, args, max_attempts, attempt, state, run_at,
                          lease_expires_at, finished_at, error, worker, request_id)
        select uuid_at(now() - n * interval '1 second'), 'orders', 'orders.expire', '{\"n\": 1}', 12, 3, state,
               now() + case when state = 'scheduled' then interval '1 hour' else interval '-1 minute' end,
               case when state = 'running' then now() + interval '1 hour' end,
               case when state in ('completed', 'dead', 'discarded') then now() end,
               case when state = 'dead' then E'it would not\\nat all' end, 'host:1:aa', 'r-1'
        from unnest(array['available', 'scheduled', 'running', 'completed', 'dead', 'discarded'])
            with ordinality as s (state, n)
        returning state, id";
    let rows: Vec<(String, Uuid)> =
        sqlx::query_as(insert).fetch_all(&mut fleet.database.connect().await).await.unwrap();
    move |state: &str| rows.iter().find(|row| row.0 == state).unwrap().1
}

async fn act(admin: &Client, id: Uuid, what: &str) -> (u16, Value) {
    let reply = admin.post(&format!("/v1/admin/jobs/{id}/{what}"), &json!({})).await;
    (reply.status, reply.json())
}

#[tokio::test]
async fn queues_are_shown_with_what_waits_in_them() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let _ids = filled(&fleet).await;
    let queues = admin.get("/v1/admin/jobs").await.expect(200)["data"].clone();
    let of = |name: &str| {
        let found = queues.as_array().unwrap().iter().find(|queue| queue["queue"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {queues}")).clone()
    };
    let orders = of("orders");
    for state in ["available", "scheduled", "running", "dead"] {
        assert_eq!(orders[state], 1, "{state}");
    }
    assert_eq!(orders["paused"], false);
    assert!(orders["oldest_age_seconds"].as_f64().unwrap() > 59.0, "{orders}");
    // One in which there is nothing.
    assert_eq!(of("maintenance")["available"], 0);
}

#[tokio::test]
async fn dead_letters_are_listed_by_pages_with_their_reasons() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    for queue in ["orders", "other"] {
        let insert = "insert into jobs (id, queue, kind, args, max_attempts, state, finished_at, error)
            select uuid_at(now() - n * interval '1 minute'), $1, $1 || '.verb', '{}', 1, 'dead', now(), 'reason ' || n
            from generate_series(1 + length($1), 5 + length($1)) n";
        sqlx::query(insert).bind(queue).execute(&mut fleet.database.connect().await).await.unwrap();
    }
    let _ids = filled(&fleet).await;
    let mut path = "/v1/admin/jobs/dead?limit=2&queue=orders".to_owned();
    let mut reasons = Vec::new();
    loop {
        let page = admin.get(&path).await.expect(200);
        for job in page["data"].as_array().unwrap() {
            assert_eq!((&job["queue"], &job["state"]), (&json!("orders"), &json!("dead")));
            reasons.push(job["error"].as_str().unwrap().to_owned());
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/admin/jobs/dead?limit=2&queue=orders&cursor={cursor}");
    }
    let newest_first =
        ["it would not\nat all", "reason 7", "reason 8", "reason 9", "reason 10", "reason 11"];
    assert_eq!(reasons, newest_first);
    let all = admin.get("/v1/admin/jobs/dead").await.expect(200);
    assert_eq!(all["data"].as_array().unwrap().len(), 11);
    admin.get("/v1/admin/jobs/dead?cursor=nonsense").await.expect(422);
}

#[tokio::test]
async fn a_job_is_retried_and_discarded_as_its_state_allows() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let id = filled(&fleet).await;
    let shown = admin.get(&format!("/v1/admin/jobs/{}", id("dead"))).await.expect(200);
    assert_eq!(shown["error"], "it would not\nat all");
    assert_eq!(shown["args"], json!({ "n": 1 }));
    assert_eq!((&shown["attempt"], &shown["request_id"]), (&json!(3), &json!("r-1")));
    for (state, status, now) in [
        ("dead", 200, "available"),
        ("scheduled", 200, "available"),
        ("available", 200, "available"),
        ("discarded", 200, "available"),
        ("running", 409, ""),
        ("completed", 409, ""),
    ] {
        let (answered, job) = act(&admin, id(state), "retry").await;
        assert_eq!(answered, status, "{state}: {job}");
        if status == 200 {
            assert_eq!(job["state"], now, "{state}");
        } else {
            assert_eq!(job["code"], "job_is_under_way");
        }
    }
    let anew = "select count(*) from jobs where state = 'available' and attempt = 0
        and run_at <= now() and finished_at is null";
    // All but the one that was available before.
    assert_eq!(fleet.database.number(anew).await, 3);
}

#[tokio::test]
async fn what_is_discarded_is_not_done() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let id = filled(&fleet).await;
    for (state, status) in [
        ("dead", 200),
        ("scheduled", 200),
        ("available", 200),
        ("discarded", 200),
        ("running", 409),
        ("completed", 409),
    ] {
        let (answered, job) = act(&admin, id(state), "discard").await;
        assert_eq!(answered, status, "{state}: {job}");
        if status == 200 {
            assert_eq!(job["state"], "discarded", "{state}");
            assert!(job["finished_at"].is_string(), "{state}");
        }
    }
    let left = "select count(*) from jobs where state in ('available', 'scheduled', 'dead')";
    assert_eq!(fleet.database.number(left).await, 0);
}

/// Another one with its unique key does what it would have done.
#[tokio::test]
async fn a_job_is_not_retried_beside_its_like() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let insert =
        "insert into jobs (id, queue, kind, args, max_attempts, state, finished_at, unique_key)
        values (gen_random_uuid(), 'orders', 'k', '{}', 1, 'available', null, 'key'),
               (gen_random_uuid(), 'orders', 'k', '{}', 1, 'dead', now(), 'key')
        returning id";
    let ids: Vec<Uuid> =
        sqlx::query_scalar(insert).fetch_all(&mut fleet.database.connect().await).await.unwrap();
    let (status, problem) = act(&admin, ids[1], "retry").await;
    assert_eq!((status, &problem["code"]), (409, &json!("job_is_there")));
    assert_eq!(act(&admin, ids[1], "discard").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_goes_on_when_it_is_resumed() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let admin = fleet.admin().await;
    let paused = admin.post("/v1/admin/queues/orders/pause", &json!({})).await.expect(200);
    assert_eq!(paused["paused"], true);
    // Twice is once.
    admin.post("/v1/admin/queues/orders/pause", &json!({})).await.expect(200);
    let insert = "insert into jobs (id, queue, kind, args, max_attempts)
        values (gen_random_uuid(), 'orders', 'orders.expire', '{}', 12)";
    sqlx::Executor::execute(&mut fleet.database.connect().await, insert).await.unwrap();
    // Whatever was begun before has ended; this one waits.
    let is_left_alone = async || {
        let queues = admin.get("/v1/admin/jobs").await.expect(200)["data"].clone();
        let orders = queues.as_array().unwrap().iter().find(|queue| queue["queue"] == "orders");
        let orders = orders.unwrap();
        assert_eq!(orders["paused"], true);
        orders["available"].as_i64().unwrap() >= 1 && orders["running"] == 0
    };
    until(is_left_alone).await;
    let resumed = admin.post("/v1/admin/queues/orders/resume", &json!({})).await.expect(200);
    assert_eq!(resumed["paused"], false);
    let left = "select count(*) from jobs where queue = 'orders' and state <> 'completed'";
    until(async || fleet.database.number(left).await == 0).await;
}

/// What came twice is answered twice and done once, whatever has happened in between.
#[tokio::test]
async fn what_is_asked_for_again_by_its_key_is_not_done_again() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let id = filled(&fleet).await;
    let again = async |path: &str, key: &str| {
        let reply = admin.post_with_key(path, key, &json!({})).await;
        (reply.header("idempotency-replayed").to_owned(), reply.expect(200))
    };
    let (pause, resume) = ("/v1/admin/queues/orders/pause", "/v1/admin/queues/orders/resume");
    let (fresh, paused) = again(pause, "p").await;
    assert_eq!((fresh.as_str(), &paused["paused"]), ("", &json!(true)));
    assert_eq!(again(resume, "r").await.1["paused"], false);
    assert_eq!(again(pause, "p").await, ("true".to_owned(), paused));
    assert_eq!(fleet.database.number("select count(*) from paused_queues").await, 0);
    again(pause, "another").await;
    assert_eq!(again(resume, "r").await.1["paused"], false);
    assert_eq!(fleet.database.number("select count(*) from paused_queues").await, 1);

    let dead = id("dead");
    let retry = format!("/v1/admin/jobs/{dead}/retry");
    let discard = format!("/v1/admin/jobs/{dead}/discard");
    let (_, retried) = again(&retry, "retry").await;
    let (_, discarded) = again(&discard, "discard").await;
    assert_eq!(again(&retry, "retry").await.1, retried);
    let is_discarded = "select count(*) from jobs where state = 'discarded'";
    // The other one was before.
    assert_eq!(fleet.database.number(is_discarded).await, 2);
    again(&retry, "retry it anew").await;
    assert_eq!(again(&discard, "discard").await.1, discarded);
    assert_eq!(fleet.database.number(is_discarded).await, 1);
}

/// The command line, with nothing but the database.
#[tokio::test]
async fn the_command_line_does_the_same() {
    let fleet = Fleet::one().await;
    let id = filled(&fleet).await;
    let name = fleet.database.name.clone();
    let shoal = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command.arg("jobs").args(arguments).env_clear().envs(environment(&name));
        let output = command.output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (_, list, _) = shoal(&["list"]).await;
    let line = list.lines().find(|line| line.starts_with("orders ")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[1..5], ["1", "1", "1", "1"], "{list}");
    assert_eq!(words.last(), Some(&"works"));

    let (_, dead, _) = shoal(&["dead", "--queue", "orders", "--json"]).await;
    let dead: Value = serde_json::from_str(&dead).unwrap();
    assert_eq!(dead[0]["id"], json!(id("dead")));
    let (_, table, _) = shoal(&["dead"]).await;
    assert!(
        table.contains(
            "it would not
"
        ),
        "the first line of the reason: {table}"
    );

    let dead = id("dead").to_string();
    let (_, shown, _) = shoal(&["show", &dead]).await;
    assert!(shown.contains("orders.expire in orders") && shown.contains("attempt 3 of 12"));
    assert_eq!(
        shoal(&["retry", &dead]).await.1,
        format!(
            "{dead} is available
"
        )
    );
    assert_eq!(
        shoal(&["discard", &dead]).await.1,
        format!(
            "{dead} is discarded
"
        )
    );
    let (succeeded, _, error) = shoal(&["retry", &id("running").to_string()]).await;
    assert!(!succeeded && error.contains("cannot be retried"), "{error}");
    let (succeeded, _, error) = shoal(&["show", &Uuid::now_v7().to_string()]).await;
    assert!(!succeeded && error.contains("not_found"), "{error}");

    assert!(shoal(&["pause", "orders"]).await.0);
    assert_eq!(fleet.database.number("select count(*) from paused_queues").await, 1);
    let (_, queues, _) = shoal(&["list", "--json"]).await;
    let queues: Value = serde_json::from_str(&queues).unwrap();
    let orders = queues.as_array().unwrap().iter().find(|queue| queue["queue"] == "orders");
    assert_eq!(orders.unwrap()["paused"], true);
    assert!(shoal(&["resume", "orders"]).await.0);
    assert_eq!(fleet.database.number("select count(*) from paused_queues").await, 0);
    let (succeeded, _, error) = shoal(&["pause", "none"]).await;
    assert!(!succeeded && error.contains("there are: mail, maintenance, orders"), "{error}");
}

#[tokio::test]
async fn only_administrators_look_after_jobs() {
    let fleet = Fleet::one().await;
    let id = filled(&fleet).await("dead");
    let customer = fleet.client.register().await;
    let paths = ["".to_owned(), "/dead".to_owned(), format!("/{id}")];
    for path in paths {
        customer.get(&format!("/v1/admin/jobs{path}")).await.expect(403);
        fleet.client.get(&format!("/v1/admin/jobs{path}")).await.expect(401);
    }
    for path in [
        format!("/v1/admin/jobs/{id}/retry"),
        format!("/v1/admin/jobs/{id}/discard"),
        "/v1/admin/queues/orders/pause".to_owned(),
        "/v1/admin/queues/orders/resume".to_owned(),
    ] {
        customer.post(&path, &json!({})).await.expect(403);
        fleet.client.post(&path, &json!({})).await.expect(401);
    }
    let admin = fleet.admin().await;
    admin.get(&format!("/v1/admin/jobs/{}", Uuid::now_v7())).await.expect(404);
    admin.get("/v1/admin/jobs/no-id").await.expect(404);
    admin.post("/v1/admin/queues/none/pause", &json!({})).await.expect(404);
}
