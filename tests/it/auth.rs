//! Proving who one is: registering, logging in, passwords, tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use shoal::platform::tokens::generate_key;
use tokio::task::JoinSet;

use crate::support::{Client, Fleet, PASSWORD, Reply, unique};

fn email() -> String {
    format!("{}@shoal.test", unique("ada"))
}

fn account(email: &str, password: &str) -> Value {
    json!({ "email": email, "password": password, "name": "Ada" })
}

/// A part of a token, unverified.
fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[track_caller]
fn assert_token_fields(tokens: &Value) {
    assert_eq!(tokens["token_type"], "Bearer");
    assert_eq!(tokens["expires_in"], 600);
    let refresh = tokens["refresh_token"].as_str().unwrap();
    assert_eq!(URL_SAFE_NO_PAD.decode(refresh).unwrap().len(), 32, "256 random bits");
    let token = tokens["access_token"].as_str().unwrap();
    let (head, claims) = (part(token, 0), part(token, 1));
    assert_eq!((&head["alg"], &head["typ"]), (&json!("EdDSA"), &json!("at+jwt")));
    assert_eq!(claims["sid"], tokens["session_id"]);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("shoal"), &json!("shoal")));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert_eq!(claims["nbf"], claims["iat"]);
    assert!(claims["jti"].is_string());
}

#[tokio::test]
async fn registering_makes_an_account_and_logs_in() {
    let fleet = Fleet::one().await;
    let email = email();
    let reply = fleet.client.post("/v1/auth/register", &account(&email, PASSWORD)).await;
    let registered = reply.expect(201);
    assert_eq!(reply.header("location"), "/v1/users/me");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_token_fields(&registered);
    let user = &registered["user"];
    assert_eq!((&user["email"], &user["name"]), (&json!(email), &json!("Ada")));
    assert_eq!((&user["role"], &user["avatar_url"]), (&json!("customer"), &Value::Null));
    let client = fleet.client.with_token(registered["access_token"].as_str().unwrap());
    assert_eq!(client.get("/v1/users/me").await.expect(200), *user);
    let claims = part(client.token(), 1);
    assert_eq!((&claims["sub"], &claims["role"]), (&user["id"], &json!("customer")));

    let tokens = fleet.client.login(&email, PASSWORD).await.expect(200);
    assert_token_fields(&tokens);
    assert_ne!(tokens["session_id"], registered["session_id"]);
    let emitted = "select count(*) from events where type = 'user.registered'";
    assert_eq!(fleet.database.number(emitted).await, 1);
}

#[tokio::test]
async fn what_is_secret_is_not_stored() {
    let fleet = Fleet::one().await;
    let body = account(&email(), PASSWORD);
    let registered = fleet.client.post("/v1/auth/register", &body).await.expect(201);
    let mut connection = fleet.database.connect().await;
    let sql = "select jsonb_build_array((select jsonb_agg(u) from users u),
        (select jsonb_agg(encode(token_hash, 'escape')) from refresh_tokens),
        (select jsonb_agg(s) from sessions s), (select jsonb_agg(e) from events e))::text";
    let stored: String = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    assert!(stored.contains("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
    for secret in [PASSWORD, registered["refresh_token"].as_str().unwrap()] {
        assert!(!stored.contains(secret), "{secret} in {stored}");
    }
}

#[tokio::test]
async fn an_address_is_taken_in_any_case() {
    let fleet = Fleet::of(3).start().await;
    let email = email();
    let mut requests = JoinSet::new();
    for index in 0..6 {
        let (client, mut email) = (fleet.client.clone(), email.clone());
        if index % 2 == 1 {
            email = format!(" {}", email.to_uppercase());
        }
        let body = account(&email, PASSWORD);
        requests.spawn(async move { client.post("/v1/auth/register", &body).await });
    }
    let replies = requests.join_all().await;
    let (made, refused): (Vec<Reply>, Vec<Reply>) =
        replies.into_iter().partition(|reply| reply.status == 201);
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].json()["user"]["email"], email);
    for refused in refused {
        refused.expect_problem(409, "email_taken");
    }
    assert_eq!(fleet.database.number("select count(*) from users").await, 1);
    assert_eq!(fleet.database.number("select count(*) from sessions").await, 1);
    fleet.client.login(&email.to_uppercase(), PASSWORD).await.expect(200);
}

#[tokio::test]
async fn refuses_what_is_no_account() {
    let fleet = Fleet::one().await;
    let with = |field: &str, value: Value| {
        let mut body = account("ada@shoal.test", PASSWORD);
        body[field] = value;
        body
    };
    let long_domain = format!("a@{}.test", "d.".repeat(125));
    let cases = [
        ("email", json!("")),
        ("email", json!("ada")),
        ("email", json!("ada@")),
        ("email", json!("@shoal.test")),
        ("email", json!("ada@shoal")),
        ("email", json!("ada@shoal..test")),
        ("email", json!("ada@bob@shoal.test")),
        ("email", json!("a da@shoal.test")),
        ("email", json!("ada\u{0}@shoal.test")),
        ("email", json!(format!("{}@shoal.test", "a".repeat(65)))),
        ("email", json!(long_domain)),
        ("email", json!(7)),
        ("password", json!("a7 char")),
        ("password", json!("x".repeat(129))),
        ("password", json!(null)),
        ("name", json!("")),
        ("name", json!("  ")),
        ("name", json!("A\u{0}da")),
        ("name", json!("x".repeat(101))),
        ("role", json!("admin")),
    ];
    for (field, value) in cases {
        let body = with(field, value);
        let refused = fleet.client.post("/v1/auth/register", &body).await;
        let problem = refused.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{body} {problem}");
    }
    for common in ["password123", "PassWord123", "1234567890"] {
        let body = with("password", common.into());
        let refused = fleet.client.post("/v1/auth/register", &body).await;
        let problem = refused.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/password");
        assert_eq!(problem["errors"][0]["code"], "common_password");
    }
    assert_eq!(fleet.database.number("select count(*) from users").await, 0);
}

#[tokio::test]
async fn a_password_may_be_any_8_to_128_characters() {
    let fleet = Fleet::one().await;
    for password in ["ä7 chär\n".to_owned(), "🐟".repeat(128), "\u{0}".repeat(8)] {
        let email = email();
        fleet.client.post("/v1/auth/register", &account(&email, &password)).await.expect(201);
        fleet.client.login(&email, &password).await.expect(200);
        let shorter: String = password.chars().skip(1).collect();
        fleet.client.login(&email, &shorter).await.expect_problem(401, "unauthorized");
    }
}

/// A problem without what belongs to the one request.
fn anonymised(reply: &Reply) -> (Vec<String>, Value) {
    let mut problem = reply.expect_problem(401, "unauthorized");
    let fields = problem.as_object_mut().unwrap();
    fields.remove("request_id");
    fields.remove("instance");
    let mut names: Vec<_> = reply.headers.keys().map(ToString::to_string).collect();
    names.sort();
    (names, problem)
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_look_alike() {
    let fleet = Fleet::one().await;
    let email = email();
    fleet.client.register_as(&email).await;
    let wrong = fleet.client.login(&email, "incorrect horse").await;
    assert_eq!(wrong.header("www-authenticate"), "Bearer");
    let expected = anonymised(&wrong);
    for (email, password) in [
        ("nobody@shoal.test", PASSWORD),
        ("nobody@shoal.test", "short"),
        (&email, "short"),
        (&email, ""),
        (&email, &"x".repeat(500)),
    ] {
        assert_eq!(anonymised(&fleet.client.login(email, password).await), expected);
    }
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let fleet = Fleet::of(2).start().await;
    let email = email();
    let other = fleet.client.register_as(&email).await;
    let tokens = fleet.client.login(&email, PASSWORD).await.expect(200);
    let current = fleet.client.with_token(tokens["access_token"].as_str().unwrap());
    let change = async |current_password: &str, new_password: &str| {
        let body = json!({ "current_password": current_password, "new_password": new_password });
        current.post("/v1/auth/password", &body).await
    };
    for (old, new, pointer, code) in [
        ("incorrect horse", "battery staple", "/current_password", "wrong_password"),
        (PASSWORD, "password123", "/new_password", "common_password"),
        (PASSWORD, "short", "/new_password", "invalid"),
    ] {
        let problem = change(old, new).await.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer);
        assert_eq!(problem["errors"][0]["code"], code);
    }
    other.get("/v1/users/me").await.expect(200);

    assert_eq!(change(PASSWORD, "battery staple").await.status, 204);
    for replica in 0..2 {
        fleet.only(replica).with_token(other.token()).until_refused().await;
        fleet.only(replica).with_token(current.token()).get("/v1/users/me").await.expect(200);
    }
    fleet.client.login(&email, PASSWORD).await.expect_problem(401, "unauthorized");
    fleet.client.login(&email, "battery staple").await.expect(200);
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    fleet.client.post("/v1/auth/refresh", &refresh).await.expect(200);
}

#[tokio::test]
async fn a_log_in_under_way_does_not_outlive_the_password() {
    let fleet = Fleet::one().await;
    let email = email();
    let user = fleet.client.register_as(&email).await;
    // A change of the password that has not been committed yet.
    let mut connection = fleet.database.connect().await;
    for sql in ["begin", "update users set password_hash = 'another'"] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    let client = fleet.client.clone();
    let login = tokio::spawn(async move { client.login(&email, PASSWORD).await });
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    while fleet.database.number(waiting).await == 0 && !login.is_finished() {
        tokio::task::yield_now().await;
    }
    sqlx::query("commit").execute(&mut connection).await.unwrap();
    login.await.unwrap().expect_problem(401, "unauthorized");
    let sessions = user.get("/v1/auth/sessions").await.expect(200);
    assert_eq!(sessions["data"].as_array().unwrap().len(), 1, "the one of the registration");
}

#[tokio::test]
async fn publishes_the_keys_of_a_rotation_and_honours_both() {
    let (old, new) = (generate_key().unwrap(), generate_key().unwrap());
    let fleet = Fleet::of(1).set("JWT_PRIVATE_KEYS", &format!("{new}{old}")).start().await;
    let reply = fleet.client.get("/.well-known/jwks.json").await;
    let keys = reply.expect(200)["keys"].as_array().unwrap().clone();
    assert!(reply.header("cache-control").starts_with("public, max-age="));
    assert_eq!(keys.len(), 2);
    for key in &keys {
        let expected = json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
            "kid": key["kid"], "x": key["x"] });
        assert_eq!(*key, expected, "and nothing of the private half");
        assert_eq!(URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap().len(), 32);
    }
    assert_ne!(keys[0]["kid"], keys[1]["kid"]);
    let client = fleet.client.register().await;
    let (mut head, claims) = (part(client.token(), 0), part(client.token(), 1));
    assert_eq!(head["kid"], keys[0]["kid"], "the first one signs");
    head["kid"] = keys[1]["kid"].clone();
    client.with_token(&sign(&head, &claims, &old)).get("/v1/users/me").await.expect(200);
    client.with_token(&sign(&head, &claims, &new)).until_refused().await;
}

fn sign(head: &Value, claims: &Value, key: &str) -> String {
    let head: Header = serde_json::from_value(head.clone()).unwrap();
    let key = match head.alg {
        Algorithm::HS256 => EncodingKey::from_secret(key.as_bytes()),
        _ => EncodingKey::from_ed_pem(key.as_bytes()).unwrap(),
    };
    jsonwebtoken::encode(&head, claims, &key).unwrap()
}

#[tokio::test]
async fn refuses_every_token_but_its_own() {
    let (key, foreign) = (generate_key().unwrap(), generate_key().unwrap());
    let fleet = Fleet::of(1).set("JWT_PRIVATE_KEYS", &key).start().await;
    let client = fleet.client.register().await;
    let (head, claims) = (part(client.token(), 0), part(client.token(), 1));
    let with = |value: &Value, field: &str, new: Value| {
        let mut value = value.clone();
        value[field] = new;
        value
    };
    let now = claims["iat"].as_i64().unwrap();
    for claims in [
        claims.clone(),
        with(&claims, "exp", json!(now - 1)),
        with(&claims, "nbf", json!(now + 10)),
    ] {
        let token = sign(&head, &claims, &key);
        client.with_token(&token).get("/v1/users/me").await.expect(200);
    }
    let public = fleet.client.get("/.well-known/jwks.json").await.json()["keys"][0].clone();
    let public = public["x"].as_str().unwrap();
    let (body, unsigned) = (client.token().split('.').nth(1).unwrap(), r#"{"alg":"none"}"#);
    let mut bad = vec![
        sign(&head, &claims, &foreign),
        sign(&with(&head, "kid", json!("other")), &claims, &key),
        sign(&with(&head, "typ", json!("JWT")), &claims, &key),
        sign(&with(&head, "alg", json!("HS256")), &claims, public),
        format!("{}.{body}.", URL_SAFE_NO_PAD.encode(unsigned)),
        client.token()[..client.token().len() - 4].to_owned(),
        "garbage".to_owned(),
        String::new(),
    ];
    for (claim, value) in [
        ("iss", json!("somebody")),
        ("aud", json!("somewhere")),
        ("exp", json!(now - 3_600)),
        ("nbf", json!(now + 3_600)),
        ("sub", json!("nobody")),
        ("role", json!("root")),
        ("sid", json!(uuid::Uuid::now_v7())),
    ] {
        bad.push(sign(&head, &with(&claims, claim, value), &key));
    }
    let expected = anonymised(&client.anonymous().get("/v1/users/me").await);
    for token in bad {
        let refused = client.with_token(&token).get("/v1/users/me").await;
        assert_eq!(anonymised(&refused), expected, "{token}");
    }
    let me = |authorization: String| {
        let request = fleet.client.request(Method::GET, "/v1/users/me");
        Reply::of(request.header("authorization", authorization))
    };
    anonymised(&me(format!("Basic {}", client.token())).await);
    anonymised(&me(client.token().to_owned()).await);
    me(format!("bearer {}", client.token())).await.expect(200);
}

#[tokio::test]
async fn everything_goes_on_without_redis() {
    let mut fleet = Fleet::of(2).own_redis().start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(10, 250).await;
    let before = fleet.client.register().await;
    fleet.redis.as_mut().unwrap().process().stop();
    walk_through(&fleet.client, &before, product).await;
    let redis = fleet.redis.as_mut().unwrap();
    redis.process().restart().unwrap();
    redis.wait_until_ready().unwrap();
    walk_through(&fleet.client, &before, product).await;
}

/// What a shop is used for, from the account to the end of a session.
pub async fn walk_through(client: &Client, known: &Client, product: uuid::Uuid) {
    known.get("/v1/users/me").await.expect(200);
    let email = email();
    let customer = client.register_as(&email).await;
    let path = format!("/v1/products/{product}");
    client.get("/v1/products").await.expect(200);
    client.get(&path).await.expect(200);
    let placed = customer.place_order("k", &[(product, 1)]).await.expect(201);
    let path = format!("/v1/orders/{}", placed["id"].as_str().unwrap());
    assert_eq!(customer.get(&path).await.expect(200), placed);
    let tokens = client.login(&email, PASSWORD).await.expect(200);
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    let tokens = client.post("/v1/auth/refresh", &refresh).await.expect(200);
    let other = client.with_token(tokens["access_token"].as_str().unwrap());
    assert_eq!(other.post("/v1/auth/logout", &json!({})).await.status, 204);
    other.until_refused().await;
    customer.get("/v1/users/me").await.expect(200);
}
