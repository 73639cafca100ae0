//! Sessions: begun on one replica and good on all of them, whatever becomes of Redis, until they
//! are ended everywhere.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Client, Fleet, PASSWORD, Reply, unique};

/// What a replica of these tests grants at most without Redis: 0.34 of the default limit.
const SHARE: u32 = 340_000;

/// A session of a new customer: its client and its tokens.
async fn begin(client: &Client) -> (Client, Value) {
    let email = format!("{}@shoal.test", unique("user"));
    let body = json!({ "email": email, "password": PASSWORD, "name": "Test" });
    let tokens = client.post("/v1/auth/register", &body).await.expect(201);
    (client.with_token(tokens["access_token"].as_str().unwrap()), tokens)
}

async fn refresh(client: &Client, tokens: &Value) -> Reply {
    let body = json!({ "refresh_token": tokens["refresh_token"] });
    client.post("/v1/auth/refresh", &body).await
}

async fn log_out(client: &Client) {
    assert_eq!(client.post("/v1/auth/logout", &json!({})).await.status, 204);
}

/// The session as seen by each replica alone.
fn everywhere(fleet: &Fleet, session: &Client) -> Vec<Client> {
    (0..fleet.replicas.len())
        .map(|replica| fleet.only(replica).with_token(session.token()))
        .collect()
}

async fn expect_accepted(clients: &[Client]) {
    for client in clients {
        client.get("/v1/users/me").await.expect(200);
    }
}

/// Not only is the token refused by every replica: once refused, it stays so.
async fn expect_ended(clients: &[Client]) {
    for client in clients {
        client.until_refused().await;
    }
    for _ in 0..10 {
        for client in clients {
            client.get("/v1/users/me").await.expect_problem(401, "unauthorized");
        }
    }
}

#[tokio::test]
async fn is_good_on_every_replica_and_survives_an_empty_redis() {
    let fleet = Fleet::of(3).own_redis().start().await;
    let (session, tokens) = begin(&fleet.only(0)).await;
    let clients = everywhere(&fleet, &session);
    expect_accepted(&clients).await;
    fleet.flush_redis().await;
    expect_accepted(&clients).await;
    fleet.flush_redis().await;
    let renewed = refresh(&fleet.only(1), &tokens).await.expect(200);
    fleet.flush_redis().await;
    let renewed = session.with_token(renewed["access_token"].as_str().unwrap());
    expect_accepted(&everywhere(&fleet, &renewed)).await;
}

#[tokio::test]
async fn ends_on_every_replica() {
    let fleet = Fleet::of(3).start().await;
    let (session, tokens) = begin(&fleet.client).await;
    let clients = everywhere(&fleet, &session);
    expect_accepted(&clients).await;
    log_out(&clients[0]).await;
    expect_ended(&clients).await;
    for replica in 0..3 {
        refresh(&fleet.only(replica), &tokens).await.expect_problem(401, "unauthorized");
    }
    session.post("/v1/auth/logout", &json!({})).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn stays_ended_when_redis_forgets_it() {
    let fleet = Fleet::of(3).own_redis().start().await;
    let (session, _) = begin(&fleet.client).await;
    let clients = everywhere(&fleet, &session);
    expect_accepted(&clients).await;
    log_out(&clients[0]).await;
    expect_ended(&clients).await;
    fleet.flush_redis().await;
    expect_ended(&clients).await;
}

#[tokio::test]
async fn ends_on_every_replica_while_redis_is_stopped() {
    let mut fleet = Fleet::of(3).own_redis().start().await;
    let (session, _) = begin(&fleet.client).await;
    let clients = everywhere(&fleet, &session);
    fleet.redis.as_mut().unwrap().process().stop();
    expect_accepted(&clients).await;
    log_out(&clients[0]).await;
    expect_ended(&clients).await;
}

#[tokio::test]
async fn an_end_that_redis_missed_holds_when_it_is_back_with_its_old_content() {
    let mut fleet = Fleet::of(3).own_redis().start().await;
    let (session, _) = begin(&fleet.client).await;
    let clients = everywhere(&fleet, &session);
    expect_accepted(&clients).await;
    fleet.redis_command("SAVE").await;
    fleet.redis.as_mut().unwrap().process().kill();
    log_out(&clients[0]).await;
    let redis = fleet.redis.as_mut().unwrap();
    redis.process().restart().unwrap();
    redis.wait_until_ready().unwrap();
    for client in &clients {
        client.until_redis_answers(SHARE, |_| ()).await;
    }
    expect_ended(&clients).await;
}

/// What a frozen Redis was sent meanwhile, it does when it thaws.
#[tokio::test]
async fn an_end_that_a_frozen_redis_missed_holds_when_it_thaws() {
    let fleet = Fleet::of(2).own_redis().set("SHOAL_REDIS_TIMEOUT_MS", "100");
    let mut fleet = fleet.start().await;
    let (session, _) = begin(&fleet.client).await;
    let (other, _) = begin(&fleet.client).await;
    let clients = everywhere(&fleet, &session);
    fleet.redis.as_mut().unwrap().process().pause();
    // The first replica asks Postgres, and would like to share what it said.
    expect_accepted(&clients[..1]).await;
    // The second one gives up on Redis, so that it does not even try to tell it of the end.
    let second = fleet.only(1).with_token(other.token());
    expect_accepted(&vec![second; 5]).await;
    log_out(&clients[1]).await;
    for client in &clients {
        client.until_refused().await;
    }
    fleet.redis.as_mut().unwrap().process().resume();
    for client in &clients {
        let refused = |reply: &Reply| drop(reply.expect_problem(401, "unauthorized"));
        client.until_redis_answers(SHARE, refused).await;
    }
    expect_ended(&clients).await;
}

#[tokio::test]
async fn a_refresh_token_is_traded_for_the_next() {
    let fleet = Fleet::of(2).start().await;
    let (session, mut tokens) = begin(&fleet.client).await;
    let id = tokens["session_id"].clone();
    for _ in 0..5 {
        let next = refresh(&fleet.client, &tokens).await.expect(200);
        assert_eq!((&next["session_id"], &next["token_type"]), (&id, &json!("Bearer")));
        assert_eq!(next["expires_in"], 600);
        assert_ne!(next["refresh_token"], tokens["refresh_token"]);
        assert_ne!(next["access_token"], tokens["access_token"]);
        tokens = next;
    }
    let latest = session.with_token(tokens["access_token"].as_str().unwrap());
    expect_accepted(&[session, latest]).await;
    for bad in
        [json!(""), json!("garbage"), json!("x".repeat(2_000)), tokens["access_token"].clone()]
    {
        let refused = refresh(&fleet.client, &json!({ "refresh_token": bad })).await;
        refused.expect_problem(401, "unauthorized");
    }
    refresh(&fleet.client, &tokens).await.expect(200);
}

#[tokio::test]
async fn a_refresh_token_that_comes_twice_ends_the_session() {
    let fleet = Fleet::of(3).own_redis().start().await;
    let (session, first) = begin(&fleet.client).await;
    let (bystander, _) = begin(&fleet.client).await;
    let second = refresh(&fleet.client, &first).await.expect(200);
    let renewed = session.with_token(second["access_token"].as_str().unwrap());
    expect_accepted(&everywhere(&fleet, &renewed)).await;
    fleet.flush_redis().await;
    refresh(&fleet.client, &first).await.expect_problem(401, "unauthorized");
    expect_ended(&everywhere(&fleet, &session)).await;
    expect_ended(&everywhere(&fleet, &renewed)).await;
    refresh(&fleet.client, &second).await.expect_problem(401, "unauthorized");
    expect_accepted(&[bystander]).await;
}

#[tokio::test]
async fn one_of_many_refreshes_at_once_wins() {
    let fleet = Fleet::of(3).start().await;
    for _ in 0..5 {
        let (_, tokens) = begin(&fleet.client).await;
        let mut requests = JoinSet::new();
        for _ in 0..4 {
            let (client, tokens) = (fleet.client.clone(), tokens.clone());
            requests.spawn(async move { refresh(&client, &tokens).await });
        }
        let mut won = 0;
        for reply in requests.join_all().await {
            if reply.status == 200 {
                won += 1;
            } else {
                reply.expect_problem(401, "unauthorized");
            }
        }
        assert_eq!(won, 1);
    }
    let unspent = "select count(*) from refresh_tokens where used_at is null";
    assert_eq!(fleet.database.number(unspent).await, 5);
}

#[tokio::test]
async fn ends_by_itself_when_its_time_is_over() {
    let fleet = Fleet::of(2).start().await;
    let mut connection = fleet.database.connect().await;
    let (idle, tokens) = begin(&fleet.client).await;
    sqlx::query("update refresh_tokens set expires_at = now()")
        .execute(&mut connection)
        .await
        .unwrap();
    refresh(&fleet.client, &tokens).await.expect_problem(401, "unauthorized");
    expect_accepted(&[idle]).await;

    let (session, tokens) = begin(&fleet.client).await;
    let clients = everywhere(&fleet, &session);
    expect_accepted(&clients).await;
    let ids = session.get("/v1/auth/sessions").await.expect(200)["data"][0]["id"].clone();
    assert_eq!(ids, tokens["session_id"]);
    sqlx::query("update sessions set expires_at = now()").execute(&mut connection).await.unwrap();
    refresh(&fleet.client, &tokens).await.expect_problem(401, "unauthorized");
    expect_ended(&clients).await;
}

#[tokio::test]
async fn are_listed_to_their_owner() {
    let fleet = Fleet::one().await;
    let email = format!("{}@shoal.test", unique("user"));
    let first = fleet.client.register_as(&email).await;
    let login = json!({ "email": email, "password": PASSWORD });
    let request = fleet.client.request(Method::POST, "/v1/auth/login").json(&login);
    let request = request.header("x-forwarded-for", "6.6.6.6, 203.0.113.7");
    let tokens = Reply::of(request.header("user-agent", "a".repeat(300))).await.expect(200);
    begin(&fleet.client).await;

    let listed = first.get("/v1/auth/sessions").await.expect(200);
    let sessions = listed["data"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let expected = json!({ "id": tokens["session_id"], "ip": "203.0.113.7", "current": false,
        "user_agent": "a".repeat(200), "created_at": sessions[0]["created_at"],
        "last_seen_at": sessions[0]["created_at"] });
    assert_eq!(sessions[0], expected, "newest first");
    assert_eq!((&sessions[1]["current"], &sessions[1]["ip"]), (&json!(true), &json!("127.0.0.1")));

    refresh(&fleet.client, &tokens).await.expect(200);
    let seen = first.get("/v1/auth/sessions").await.expect(200)["data"][0].clone();
    assert!(seen["last_seen_at"].as_str() > seen["created_at"].as_str(), "{seen}");
    fleet.client.get("/v1/auth/sessions").await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn are_ended_by_their_owner_one_by_one_or_all() {
    let fleet = Fleet::of(2).start().await;
    let email = format!("{}@shoal.test", unique("user"));
    let first = fleet.client.register_as(&email).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(fleet.client.login(&email, PASSWORD).await.expect(200));
    }
    let token = |tokens: &Value| first.with_token(tokens["access_token"].as_str().unwrap());
    let path = |id: &Value| format!("/v1/auth/sessions/{}", id.as_str().unwrap());
    let (stranger, strange_tokens) = begin(&fleet.client).await;

    let foreign = first.delete(&path(&strange_tokens["session_id"])).await;
    let missing = first.delete(&path(&json!(Uuid::now_v7()))).await;
    for refused in [&foreign, &missing] {
        assert_eq!(refused.expect_problem(404, "not_found")["detail"], missing.json()["detail"]);
    }
    expect_accepted(&everywhere(&fleet, &stranger)).await;

    let one = path(&others[0]["session_id"]);
    assert_eq!(first.delete(&one).await.status, 204);
    expect_ended(&everywhere(&fleet, &token(&others[0]))).await;
    first.delete(&one).await.expect_problem(404, "not_found");
    expect_accepted(&[first.clone(), token(&others[1])]).await;
    let left = first.get("/v1/auth/sessions").await.expect(200);
    assert_eq!(left["data"].as_array().unwrap().len(), 2);

    assert_eq!(first.delete("/v1/auth/sessions").await.status, 204);
    for ended in [&first, &token(&others[1])] {
        expect_ended(&everywhere(&fleet, ended)).await;
    }
    expect_accepted(&[stranger]).await;
    fleet.client.login(&email, PASSWORD).await.expect(200);
}
