//! Rate limits: one count for the fleet, by user or address; guesses at passwords by account.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Client, Fleet, PASSWORD, Reply, unique};

/// So long that nothing comes back during a test: one request in 180 s.
const TWENTY: (&str, &str) = ("SHOAL_RATE_LIMIT_DEFAULT", "20/3600");

const FREE: &str = "/v1/rate-limit";

async fn fleet_with(limit: (&str, &str)) -> Fleet {
    Fleet::of(3).set(limit.0, limit.1).start().await
}

/// How many of `count` requests at once are let in. The others are 429.
async fn let_in(count: usize, request: impl Fn(usize) -> reqwest::RequestBuilder) -> usize {
    let mut requests = JoinSet::new();
    for index in 0..count {
        requests.spawn(Reply::of(request(index)));
    }
    let replies = requests.join_all().await;
    for refused in replies.iter().filter(|reply| reply.status != 200 && reply.status != 401) {
        refused.expect_problem(429, "quota_exceeded");
    }
    replies.iter().filter(|reply| reply.status != 429).count()
}

async fn products_from(fleet: &Fleet, count: usize, forwarded_for: &[&str]) -> usize {
    let request = |index: usize| {
        let request = fleet.client.request(Method::GET, "/v1/products");
        request.header("x-forwarded-for", forwarded_for[index % forwarded_for.len()])
    };
    let_in(count, request).await
}

async fn remaining(client: &Client) -> u64 {
    client.get(FREE).await.expect(200)["data"][0]["remaining"].as_u64().unwrap()
}

#[tokio::test]
async fn every_answer_says_what_is_left() {
    let fleet = fleet_with(TWENTY).await;
    let customer = fleet.client.register().await;
    let first = customer.get("/v1/users/me").await;
    assert_eq!(first.header("ratelimit-policy"), r#""default";q=20;w=3600"#);
    assert_eq!(first.header("ratelimit"), r#""default";r=19;t=180"#);
    for left in (0..19).rev() {
        // Refusals of all kinds are counted and say so, too.
        let reply = customer.get("/v1/users").await;
        reply.expect_problem(403, "forbidden");
        let state = reply.header("ratelimit");
        assert!(state.starts_with(&format!(r#""default";r={left};t="#)), "{state}");
    }
    let refused = customer.get("/v1/users/me").await;
    let problem = refused.expect_problem(429, "quota_exceeded");
    let kind = "https://iana.org/assignments/http-problem-types#quota-exceeded";
    assert_eq!(problem["type"], kind);
    assert_eq!(refused.header("ratelimit-policy"), r#""default";q=20;w=3600"#);
    assert!(refused.header("ratelimit").starts_with(r#""default";r=0;t="#));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=180).contains(&wait), "{wait}");
    assert_eq!(refused.header("cache-control"), "no-store");
}

#[tokio::test]
async fn what_was_spent_comes_back() {
    // One request a second.
    let fleet = fleet_with(("SHOAL_RATE_LIMIT_DEFAULT", "2/2")).await;
    let request = |_| fleet.client.request(Method::GET, "/v1/products");
    assert!((2..20).contains(&let_in(20, request).await));
    for _ in 0..1_000 {
        let reply = fleet.client.get("/v1/products").await;
        if reply.status == 200 {
            return;
        }
        reply.expect_problem(429, "quota_exceeded");
        assert_eq!(reply.header("retry-after"), "1");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing came back");
}

#[tokio::test]
async fn three_replicas_count_as_one() {
    let fleet = fleet_with(TWENTY).await;
    let customer = fleet.client.register().await;
    let passed = let_in(60, |_| customer.request(Method::GET, "/v1/users/me")).await;
    assert_eq!(passed, 20);
}

#[tokio::test]
async fn users_count_by_themselves_wherever_they_are() {
    let fleet = fleet_with(TWENTY).await;
    let (ada, bob) = (fleet.client.register().await, fleet.client.register().await);
    let from = |client: &Client, index: usize| {
        let request = client.request(Method::GET, "/v1/users/me");
        request.header("x-forwarded-for", format!("203.0.113.{index}"))
    };
    assert_eq!(let_in(30, |index| from(&ada, index)).await, 20);
    assert_eq!(let_in(30, |index| from(&bob, index)).await, 20);
    assert_eq!(remaining(&fleet.client).await, 20, "registrations are writes");
    // A token that is not good makes nobody a user.
    let forged = fleet.client.with_token("forged");
    assert_eq!(let_in(30, |_| forged.request(Method::GET, "/v1/users/me")).await, 20);
}

#[tokio::test]
async fn addresses_are_what_the_own_proxy_saw() {
    let fleet = fleet_with(TWENTY).await;
    let spoofed =
        ["1.1.1.1, 203.0.113.1", "203.0.113.1", "2.2.2.2,203.0.113.1, 127.0.0.1", "x, 203.0.113.1"];
    assert_eq!(products_from(&fleet, 60, &spoofed).await, 20);
    assert_eq!(products_from(&fleet, 30, &["203.0.113.2"]).await, 20);
    assert_eq!(products_from(&fleet, 30, &["::ffff:203.0.113.3", "203.0.113.3:4711"]).await, 20);
    assert_eq!(products_from(&fleet, 30, &["2001:db8::1", "[2001:db8::1]:4711"]).await, 20);
}

#[tokio::test]
async fn without_a_trusted_proxy_nobody_chooses_an_address() {
    let fleet = Fleet::of(3).set(TWENTY.0, TWENTY.1).set("TRUSTED_PROXIES", "").start().await;
    assert_eq!(products_from(&fleet, 40, &["1.1.1.1", "2.2.2.2", "3.3.3.3"]).await, 20);
}

#[tokio::test]
async fn asking_what_is_left_costs_nothing() {
    let fleet = fleet_with(TWENTY).await;
    let customer = fleet.client.register().await;
    let expected = |remaining: u64, reset: u64| {
        json!({ "policy": "default", "quota": 20, "window_seconds": 3600, "remaining": remaining,
            "reset_seconds": reset })
    };
    for _ in 0..30 {
        let reply = customer.get(FREE).await;
        assert_eq!(reply.expect(200)["data"][0], expected(20, 0));
        assert_eq!(reply.header("ratelimit"), r#""default";r=20;t=0"#);
    }
    customer.get("/v1/users/me").await.expect(200);
    assert_eq!(remaining(&customer).await, 19);
    assert_eq!(let_in(30, |_| customer.request(Method::GET, "/v1/users/me")).await, 19);
    for _ in 0..30 {
        assert_eq!(remaining(&customer).await, 0);
    }
}

#[tokio::test]
async fn machines_are_not_limited() {
    let fleet = Fleet::of(1).set("SHOAL_RATE_LIMIT_DEFAULT", "1/3600").start().await;
    fleet.client.get("/v1/products").await.expect(200);
    fleet.client.get("/v1/products").await.expect_problem(429, "quota_exceeded");
    for path in ["/health", "/health/live", "/health/ready", "/health/startup", "/metrics", "/"] {
        for _ in 0..5 {
            let reply = fleet.client.get(path).await;
            assert_eq!((reply.status, reply.header("ratelimit")), (200, ""), "{path}");
        }
    }
}

fn login(client: &Client, email: &str, password: &str) -> reqwest::RequestBuilder {
    let body = json!({ "email": email, "password": password });
    client.request(Method::POST, "/v1/auth/login").json(&body)
}

fn email() -> String {
    format!("{}@shoal.test", unique("user"))
}

const FIVE_GUESSES: (&str, &str) = ("SHOAL_RATE_LIMIT_LOGIN_ACCOUNT", "5/3600");

#[tokio::test]
async fn guesses_made_at_once_are_all_counted() {
    let fleet = fleet_with(FIVE_GUESSES).await;
    let email = email();
    let customer = fleet.client.register_as(&email).await;
    // Wherever they come from, and however the address is written.
    let guess = |index: usize, email: &str| {
        let email = if index.is_multiple_of(2) { email.to_owned() } else { email.to_uppercase() };
        let request = login(&fleet.client, &email, &format!("guess {index}"));
        request.header("x-forwarded-for", format!("203.0.113.{index}"))
    };
    assert_eq!(let_in(20, |index| guess(index, &email)).await, 5);
    assert_eq!(let_in(20, |index| guess(index, "nobody@shoal.test")).await, 5);
    let strange = login(&fleet.client, &email, PASSWORD).header("x-forwarded-for", "203.0.113.99");
    let refused = Reply::of(strange).await;
    refused.expect_problem(429, "quota_exceeded");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=120).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit-policy"), r#""login_account";q=5;w=3600"#);
    assert!(refused.header("ratelimit").starts_with(r#""login_account";r=0;t="#));
    customer.get("/v1/users/me").await.expect(200);
    fleet.client.login("else@shoal.test", "guess").await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn knowing_the_password_forgives_the_guesses() {
    let fleet = fleet_with(FIVE_GUESSES).await;
    let email = email();
    fleet.client.register_as(&email).await;
    for _ in 0..3 {
        for _ in 0..4 {
            fleet.client.login(&email, "guess").await.expect_problem(401, "unauthorized");
        }
        fleet.client.login(&email, PASSWORD).await.expect(200);
    }
    assert_eq!(let_in(8, |_| login(&fleet.client, &email, "guess")).await, 5);
}

/// A log-in through a proxy of ours, from `address`.
async fn login_from(fleet: &Fleet, address: &str, email: &str, password: &str) -> Reply {
    let request = login(&fleet.client, email, password);
    Reply::of(request.header("x-forwarded-for", address)).await
}

#[tokio::test]
async fn an_attacker_elsewhere_does_not_lock_the_owner_out() {
    const OWNER: &str = "203.0.113.1";
    const ATTACKER: &str = "203.0.113.2";
    let fleet = Fleet::of(3).own_redis().set(FIVE_GUESSES.0, FIVE_GUESSES.1).start().await;
    let email = email();
    fleet.client.register_as(&email).await;
    login_from(&fleet, OWNER, &email, PASSWORD).await.expect(200);
    for _ in 0..5 {
        let wrong = login_from(&fleet, ATTACKER, &email, "guess").await;
        wrong.expect_problem(401, "unauthorized");
    }
    let refused = login_from(&fleet, ATTACKER, &email, "guess").await;
    refused.expect_problem(429, "quota_exceeded");
    // The owner at its address; with a typing error, too.
    login_from(&fleet, OWNER, &email, "typo").await.expect_problem(401, "unauthorized");
    login_from(&fleet, OWNER, &email, PASSWORD).await.expect(200);
    // That pardons nobody else: neither the attacker nor whoever comes from a third address.
    for address in [ATTACKER, "203.0.113.3"] {
        let refused = login_from(&fleet, address, &email, PASSWORD).await;
        refused.expect_problem(429, "quota_exceeded");
    }
    // Known or not, an address may not guess on and on.
    for _ in 0..5 {
        login_from(&fleet, OWNER, &email, "guess").await.expect_problem(401, "unauthorized");
    }
    let refused = login_from(&fleet, OWNER, &email, PASSWORD).await;
    refused.expect_problem(429, "quota_exceeded");
    // Without what Redis knew, everybody is a stranger with five guesses again.
    fleet.flush_redis().await;
    for _ in 0..5 {
        login_from(&fleet, OWNER, &email, "guess").await.expect_problem(401, "unauthorized");
    }
    for address in [OWNER, ATTACKER] {
        let refused = login_from(&fleet, address, &email, PASSWORD).await;
        refused.expect_problem(429, "quota_exceeded");
    }
}

#[tokio::test]
async fn each_guess_costs_a_longer_wait() {
    // A thirtieth of the window is 100 ms.
    let fleet = fleet_with(("SHOAL_RATE_LIMIT_LOGIN_ACCOUNT", "2/3")).await;
    let email = email();
    fleet.client.register_as(&email).await;
    let guess = async || login_from(&fleet, "203.0.113.2", &email, "guess").await;
    let mut waits = Vec::new();
    for _ in 0..6 {
        // Until it is let through, which then sets the next wait.
        crate::support::until(async || guess().await.status == 401).await;
        let refused = login_from(&fleet, "203.0.113.3", &email, "guess").await;
        if refused.status == 429 {
            waits.push(refused.header("retry-after").parse::<u64>().unwrap());
        }
    }
    let longest = waits.iter().max();
    assert!(longest.is_some_and(|wait| (2..=3).contains(wait)), "{waits:?}");
}

#[tokio::test]
async fn a_stolen_token_does_not_make_guessing_free() {
    let fleet = fleet_with(FIVE_GUESSES).await;
    let email = email();
    let customer = fleet.client.register_as(&email).await;
    let guess = json!({ "current_password": "guess", "new_password": "battery staple" });
    for _ in 0..5 {
        let wrong = customer.post("/v1/auth/password", &guess).await;
        wrong.expect_problem(422, "validation_failed");
    }
    let refused = customer.post("/v1/auth/password", &guess).await;
    refused.expect_problem(429, "quota_exceeded");
    fleet.client.login(&email, PASSWORD).await.expect_problem(429, "quota_exceeded");
}

#[tokio::test]
async fn an_address_may_try_so_many_accounts() {
    let fleet = fleet_with(("SHOAL_RATE_LIMIT_LOGIN_IP", "6/3600")).await;
    let from = |index: usize, address: &str| {
        let request = login(&fleet.client, &format!("user{index}@shoal.test"), "guess");
        request.header("x-forwarded-for", format!("1.1.1.{index}, {address}"))
    };
    assert_eq!(let_in(12, |index| from(index, "203.0.113.1")).await, 6);
    assert_eq!(let_in(12, |index| from(index, "203.0.113.2")).await, 6);
    // Making accounts is counted with it.
    for _ in 0..6 {
        fleet.client.register().await;
    }
    let body = json!({ "email": email(), "password": PASSWORD, "name": "Test" });
    let refused = fleet.client.post("/v1/auth/register", &body).await;
    refused.expect_problem(429, "quota_exceeded");
}

#[tokio::test]
async fn without_redis_each_replica_grants_its_share() {
    let fleet = Fleet::of(3).own_redis().set("SHOAL_RATE_LIMIT_LOGIN_ACCOUNT", "9/3600");
    let mut fleet = fleet.set("SHOAL_RATE_LIMIT_DEFAULT", "300/36000").start().await;
    let email = email();
    let customer = fleet.client.register_as(&email).await;
    fleet.redis.as_mut().unwrap().process().stop();
    assert_eq!(let_in(30, |_| login(&fleet.client, &email, "guess")).await, 9, "3 each");
    for replica in 0..3 {
        let customer = fleet.only(replica).with_token(customer.token());
        let passed = let_in(120, |_| customer.request(Method::GET, "/v1/auth/sessions")).await;
        assert_eq!(passed, 102, "0.34 of 300");
    }
    let other = self::email();
    let replica = fleet.only(0);
    let registered = replica.register_as(&other).await;
    for _ in 0..5 {
        replica.login(&other, "guess").await.expect_problem(401, "unauthorized");
        replica.login(&other, PASSWORD).await.expect(200);
    }
    // Back to one count for all, on every replica, though each had given up on Redis.
    let redis = fleet.redis.as_mut().unwrap();
    redis.process().restart().unwrap();
    redis.wait_until_ready().unwrap();
    for replica in 0..3 {
        let client = fleet.only(replica).with_token(registered.token());
        client.until_redis_answers(102, |_| ()).await;
    }
}

#[tokio::test]
async fn a_redis_that_lost_its_scripts_gets_them_again() {
    let fleet = Fleet::of(2).own_redis().set(TWENTY.0, TWENTY.1);
    let mut fleet = fleet.start().await;
    let customer = fleet.client.register().await;
    let left = async |client: &Client| {
        let reply = client.get("/v1/users/me").await;
        reply.expect(200);
        reply.limit_remaining()
    };
    assert_eq!(left(&customer).await, 19);
    for expected in [18, 17, 16, 15] {
        fleet.redis_command("SCRIPT FLUSH").await;
        assert_eq!(left(&customer).await, expected, "still the fleet's count, not a share");
    }
    fleet.flush_redis().await;
    assert_eq!(left(&customer).await, 19);
    let redis = fleet.redis.as_mut().unwrap();
    redis.process().restart().unwrap();
    redis.wait_until_ready().unwrap();
    // Each replica notices the lost connection with one request at most.
    for replica in 0..2 {
        let client = fleet.only(replica).with_token(customer.token());
        client.get("/v1/users/me").await.expect(200);
    }
    let (before, after) = (left(&customer).await, left(&customer).await);
    assert_eq!(after, before - 1);
    assert!(before > 6, "a share of the quota is 6");
}

#[tokio::test]
async fn decisions_are_counted() {
    let fleet = Fleet::of(1).set(FIVE_GUESSES.0, FIVE_GUESSES.1).start().await;
    let_in(7, |_| login(&fleet.client, "nobody@shoal.test", "guess")).await;
    let metrics = String::from_utf8(fleet.client.get("/metrics").await.body).unwrap();
    for (decision, count) in [("allowed", 5), ("refused", 2)] {
        let line = format!(
            r#"rate_limit_decisions_total{{decision="{decision}",policy="login_account"}} {count}"#
        );
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert!(!metrics.contains("nobody@shoal.test"));
}
