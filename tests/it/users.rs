//! Users: oneself, and what administrators see of others.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Client, Fleet, Reply, unique};

const ME: &str = "/v1/users/me";

async fn with_header(client: &Client, method: Method, name: &str, value: &str) -> Reply {
    let request = client.request(method.clone(), ME).header(name, value);
    match method {
        Method::PATCH => Reply::of(request.json(&json!({ "name": format!("By {value}") }))).await,
        _ => Reply::of(request).await,
    }
}

#[tokio::test]
async fn a_user_is_read_anew_only_when_it_changed() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let reply = customer.get(ME).await;
    let user = reply.expect(200);
    let mut fields: Vec<_> = user.as_object().unwrap().keys().cloned().collect();
    fields.sort();
    assert_eq!(fields, ["avatar_url", "created_at", "email", "id", "name", "role"]);
    assert_eq!(user["id"], json!(customer.user_id));
    assert_eq!((reply.header("etag"), reply.header("cache-control")), ("\"1\"", "no-store"));
    for tag in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        let unchanged = with_header(&customer, Method::GET, "if-none-match", tag).await;
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{tag}");
        assert_eq!(unchanged.header("etag"), "\"1\"");
        assert_eq!(unchanged.header("cache-control"), "no-store");
    }
    let changed = with_header(&customer, Method::GET, "if-none-match", "\"2\"").await;
    assert_eq!(changed.expect(200), user);
}

#[tokio::test]
async fn a_change_touches_what_it_names_and_nothing_else() {
    let fleet = Fleet::of(3).start().await;
    let customer = fleet.client.register().await;
    let mut user = customer.get(ME).await.expect(200);
    let reply = customer.patch(ME, &json!({ "name": "  Ada Lovelace " })).await;
    user["name"] = json!("Ada Lovelace");
    assert_eq!(reply.expect(200), user);
    assert_eq!((reply.header("etag"), reply.header("cache-control")), ("\"2\"", "no-store"));
    customer.patch(ME, &json!({})).await.expect(200);
    for replica in 0..3 {
        let read = fleet.only(replica).with_token(customer.token()).get(ME).await;
        assert_eq!(read.expect(200), user);
    }
}

#[tokio::test]
async fn a_change_of_what_was_not_seen_is_refused() {
    let fleet = Fleet::of(3).start().await;
    let customer = fleet.client.register().await;
    for tag in ["\"2\"", "W/\"1\"", "\"x\"", "1", ""] {
        let refused = with_header(&customer, Method::PATCH, "if-match", tag).await;
        refused.expect_problem(412, "precondition_failed");
    }
    for (tag, next) in [("\"1\"", "\"2\""), ("\"9\", \"2\"", "\"3\""), ("*", "\"4\"")] {
        let reply = with_header(&customer, Method::PATCH, "if-match", tag).await;
        assert_eq!(reply.expect(200)["name"], format!("By {tag}"));
        assert_eq!(reply.header("etag"), next);
    }
}

#[tokio::test]
async fn of_changes_at_once_to_one_version_one_wins() {
    let fleet = Fleet::of(3).start().await;
    let customer = fleet.client.register().await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let customer = customer.clone();
        requests
            .spawn(async move { with_header(&customer, Method::PATCH, "if-match", "\"1\"").await });
    }
    let mut won = 0;
    for reply in requests.join_all().await {
        if reply.status == 200 {
            won += 1;
        } else {
            reply.expect_problem(412, "precondition_failed");
        }
    }
    assert_eq!(won, 1);
    assert_eq!(customer.get(ME).await.header("etag"), "\"2\"");
}

#[tokio::test]
async fn refuses_what_nobody_may_change() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let before = customer.get(ME).await;
    for (body, pointer) in [
        (json!({ "role": "admin" }), "/role"),
        (json!({ "name": "Ada", "email": "ada@shoal.test" }), "/email"),
        (json!({ "id": Uuid::now_v7() }), "/id"),
        (json!({ "name": "" }), "/name"),
        (json!({ "name": "x".repeat(101) }), "/name"),
        (json!({ "name": "A\u{0}da" }), "/name"),
        (json!({ "name": 7 }), "/name"),
    ] {
        let problem = customer.patch(ME, &body).await.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let after = customer.get(ME).await;
    assert_eq!((&after.body, after.header("etag")), (&before.body, "\"1\""));
}

#[tokio::test]
async fn others_are_the_administrators_business() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let (ada, bob) = (fleet.client.register().await, fleet.client.register().await);
    let path = format!("/v1/users/{}", ada.user_id);
    let missing = format!("/v1/users/{}", Uuid::now_v7());
    for path in ["/v1/users", "/v1/users?email=ada@shoal.test", &path, &missing] {
        bob.get(path).await.expect_problem(403, "forbidden");
        fleet.client.get(path).await.expect_problem(401, "unauthorized");
    }
    fleet.client.get(ME).await.expect_problem(401, "unauthorized");
    let change = fleet.client.patch(ME, &json!({ "name": "Ada" })).await;
    change.expect_problem(401, "unauthorized");

    fleet.database.replicated().await;
    let seen = admin.get(&path).await;
    assert_eq!(seen.expect(200), ada.get(ME).await.expect(200));
    assert_eq!((seen.header("etag"), seen.header("cache-control")), ("\"1\"", "no-store"));
    admin.get(&missing).await.expect_problem(404, "not_found");
    assert_eq!(admin.get(ME).await.expect(200)["role"], "admin");
    assert_eq!(ada.get(ME).await.expect(200)["role"], "customer");
}

#[tokio::test]
async fn an_administrator_finds_a_user_by_address() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let email = format!("{}+x@shoal.test", unique("ada"));
    let ada = fleet.client.register_as(&email).await;
    fleet.client.register().await;
    fleet.database.replicated().await;
    let query = email.to_uppercase().replace('+', "%2B");
    let found = admin.get(&format!("/v1/users?email={query}")).await;
    let found = found.expect(200);
    assert_eq!(found["data"], json!([ada.get(ME).await.expect(200)]));
    assert_eq!(found["has_more"], false);
    let nobody = admin.get("/v1/users?email=nobody@shoal.test").await.expect(200);
    assert_eq!(nobody, json!({ "data": [], "has_more": false }));
    admin.get("/v1/users?email=nobody").await.expect_problem(422, "validation_failed");
}

#[tokio::test]
async fn administrators_page_through_users_newest_first() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let mut expected = Vec::new();
    for _ in 0..4 {
        expected.insert(0, json!(fleet.client.register().await.user_id));
    }
    expected.push(admin.get(ME).await.expect(200)["id"].clone());
    fleet.database.replicated().await;
    let mut seen: Vec<Value> = Vec::new();
    let mut path = "/v1/users?limit=2".to_owned();
    loop {
        let reply = admin.get(&path).await;
        let page = reply.expect(200);
        assert_eq!(reply.header("cache-control"), "no-store");
        seen.extend(page["data"].as_array().unwrap().iter().map(|user| user["id"].clone()));
        if seen.len() == 2 {
            // Who comes in meanwhile shifts nothing.
            fleet.client.register().await;
            fleet.database.replicated().await;
        }
        if page["has_more"] == false {
            assert_eq!((reply.header("link"), &page["next_cursor"]), ("", &Value::Null));
            break;
        }
        let link = reply.header("link");
        assert!(link.ends_with("; rel=\"next\""), "{link}");
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
        assert!(path.contains("limit=2") && path.contains(page["next_cursor"].as_str().unwrap()));
    }
    assert_eq!(seen, expected);
    let all = admin.get("/v1/users").await.expect(200);
    assert_eq!(all["data"].as_array().unwrap().len(), 6);
    for bad in ["limit=0", "limit=101", "limit=x", "cursor=garbage"] {
        let refused = admin.get(&format!("/v1/users?{bad}")).await;
        let problem = refused.expect_problem(422, "validation_failed");
        let name = bad.split('=').next().unwrap();
        assert_eq!(problem["errors"][0]["pointer"], format!("?{name}"), "{problem}");
    }
}

#[tokio::test]
async fn changes_at_once_come_one_after_the_other() {
    let fleet = Fleet::of(3).start().await;
    let customer = fleet.client.register().await;
    let change = async |if_match: Option<&'static str>| {
        let mut changes = JoinSet::new();
        for index in 0..20 {
            let name = json!({ "name": format!("Name {index}") });
            let mut request = customer.request(Method::PATCH, "/v1/users/me").json(&name);
            if let Some(tag) = if_match {
                request = request.header("if-match", tag);
            }
            changes.spawn(Reply::of(request));
        }
        let replies = changes.join_all().await;
        replies.into_iter().map(|reply| reply.status).collect::<Vec<_>>()
    };
    assert_eq!(change(None).await, [200; 20], "nobody named a version to be wrong about");
    assert_eq!(customer.get("/v1/users/me").await.header("etag"), "\"21\"");
    let mut first_wins = change(Some("\"21\"")).await;
    first_wins.sort_unstable();
    assert_eq!((first_wins[0], &first_wins[1..]), (200, &[412; 19][..]));
}
