//! The command line, as an operator uses it: the real binary, its output and its exit code.

use std::{collections::HashMap, process::Stdio, time::Duration};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
};

use crate::support::{Database, Fleet, environment, topology, unique};

/// Much longer than a command takes.
const HANG: Duration = Duration::from_secs(60);

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

fn command(settings: &HashMap<String, String>, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args(arguments).env_clear().envs(settings).kill_on_drop(true);
    command
}

pub async fn shoal(settings: &HashMap<String, String>, arguments: &[&str], stdin: &str) -> Output {
    let mut command = command(settings, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes()).await;
    let output = tokio::time::timeout(HANG, child.wait_with_output()).await.expect("a hang");
    let output = output.unwrap();
    Output {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The environment of a deployment whose database is `name`.
pub fn settings(name: &str) -> HashMap<String, String> {
    let mut settings = environment(name);
    settings.insert("DATABASE_DIRECT_URL".to_owned(), topology().migrator_url(name));
    settings.insert("HOST".to_owned(), "127.0.0.1".to_owned());
    settings.insert("PORT".to_owned(), "0".to_owned());
    settings
}

/// A database as the operator makes it, without a schema.
async fn empty_database() -> String {
    let name = unique("t");
    let mut admin = PgConnection::connect(&topology().superuser_url("postgres")).await.unwrap();
    let owner = &topology().migrator.user;
    let create = format!("create database {name} owner {owner}");
    admin.execute(AssertSqlSafe(create)).await.unwrap();
    name
}

/// A running `shoal serve` and its log.
struct Server {
    _child: Child,
    log: Lines<BufReader<ChildStdout>>,
}

impl Server {
    fn start(settings: &HashMap<String, String>) -> Self {
        let mut child = command(settings, &["serve"]).stdout(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, log }
    }

    /// The next line of the log with `message`.
    async fn line(&mut self, message: &str) -> Value {
        let find = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&line).expect("a log in JSON");
                if line["message"] == message {
                    return line;
                }
            }
            panic!("it ended without: {message}");
        };
        tokio::time::timeout(HANG, find).await.unwrap_or_else(|_| panic!("no line: {message}"))
    }

    /// `http://address` of the listener that is logged next.
    async fn url(&mut self) -> String {
        format!("http://{}", self.line("listening").await["address"].as_str().unwrap())
    }
}

async fn status(url: String) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn serve_waits_for_the_schema_and_says_so() {
    let name = empty_database().await;
    let settings = settings(&name);
    let mut server = Server::start(&settings);
    let url = server.url().await;
    let waiting = server.line("not ready yet").await;
    assert_eq!(waiting["level"], "WARN");
    let reason = waiting["reason"].as_str().unwrap();
    assert!(reason.contains("run `shoal migrate`"), "{reason}");
    for (path, expected) in [("live", 200), ("startup", 503), ("ready", 503)] {
        assert_eq!(status(format!("{url}/health/{path}")).await, expected, "{path}");
    }
    let check = shoal(&settings, &["healthcheck", &format!("{url}/health/ready")], "").await;
    assert_eq!(check.code, 1);
    assert!(check.stderr.contains("503"), "{}", check.stderr);

    let first = shoal(&settings, &["migrate"], "").await;
    assert_eq!(first.code, 0, "{}", first.stderr);
    server.line("ready").await;
    for path in ["live", "startup", "ready"] {
        assert_eq!(status(format!("{url}/health/{path}")).await, 200, "{path}");
    }
    let check = shoal(&settings, &["healthcheck", &format!("{url}/health/ready")], "").await;
    assert_eq!((check.code, check.stdout.as_str(), check.stderr.as_str()), (0, "", ""));

    let second = shoal(&settings, &["migrate"], "").await;
    assert_eq!((second.code, second.stdout), (0, first.stdout));
    let mut admin = PgConnection::connect(&topology().superuser_url(&name)).await.unwrap();
    let applied = "select count(*), count(distinct version) from _sqlx_migrations where success";
    let (rows, versions): (i64, i64) = sqlx::query_as(applied).fetch_one(&mut admin).await.unwrap();
    let known = shoal::platform::db::schema::MIGRATIONS.iter().count() as i64;
    assert_eq!((rows, versions), (known, known));
}

#[tokio::test]
async fn health_and_metrics_can_have_a_listener_of_their_own() {
    let database = Database::create().await;
    let mut settings = settings(&database.name);
    settings.insert("OPS_ADDR".to_owned(), "127.0.0.1:0".to_owned());
    let mut server = Server::start(&settings);
    let (main, ops) = (server.url().await, server.url().await);
    server.line("ready").await;
    for path in ["/health", "/health/live", "/health/startup", "/health/ready", "/metrics"] {
        assert_eq!(status(format!("{ops}{path}")).await, 200, "{path}");
        assert_eq!(status(format!("{main}{path}")).await, 404, "{path}");
    }
    assert_eq!(status(format!("{main}/v1/products")).await, 200);
    assert_eq!(status(format!("{ops}/v1/products")).await, 404);
}

#[tokio::test]
async fn healthcheck_fails_for_what_does_not_answer() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nothing = HashMap::new();
    let url = format!("http://{nobody}/health/ready");
    for url in [url.as_str(), "https://127.0.0.1/"] {
        let check = shoal(&nothing, &["healthcheck", url], "").await;
        assert_eq!(check.code, 1, "{url}");
        assert!(check.stderr.starts_with("shoal: "), "{}", check.stderr);
    }
    assert_eq!(shoal(&nothing, &["healthcheck", "nonsense"], "").await.code, 2);
}

#[tokio::test]
async fn every_mistake_in_the_environment_is_told_at_once() {
    let mut broken = settings("nothing");
    broken.remove("REDIS_URL");
    for (name, value) in [
        ("DATABASE_URL", "mysql://shoal:hunter2@db/shoal"),
        ("PORT", "eighty"),
        ("SHOAL_RATE_LIMIT_DEFAULT", "many"),
        ("SHOAL_DB_POOL_SIZE", "0"),
        ("TRUSTED_PROXIES", "10.0.0.0/99"),
    ] {
        broken.insert(name.to_owned(), value.to_owned());
    }
    let refused = shoal(&broken, &["serve"], "").await;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for name in [
        "REDIS_URL",
        "DATABASE_URL",
        "PORT",
        "SHOAL_RATE_LIMIT_DEFAULT",
        "SHOAL_DB_POOL_SIZE",
        "TRUSTED_PROXIES",
    ] {
        assert!(refused.stderr.contains(name), "{name} is missing: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);

    let mut misspelt = settings("nothing");
    misspelt.insert("SHOAL_DRAIN_DELAY".to_owned(), "5".to_owned());
    for arguments in [&["serve"][..], &["keys", "generate"]] {
        let refused = shoal(&misspelt, arguments, "").await;
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
        assert!(refused.stderr.contains("SHOAL_DRAIN_DELAY"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_generated_key_signs() {
    let nothing = HashMap::new();
    let key = shoal(&nothing, &["keys", "generate"], "").await;
    let other = shoal(&nothing, &["keys", "generate"], "").await;
    assert_eq!((key.code, key.stderr.as_str()), (0, ""));
    assert!(key.stdout.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_ne!(key.stdout, other.stdout);
    let both = format!("{}{}", key.stdout, other.stdout);
    let fleet = Fleet::of(1).set("JWT_PRIVATE_KEYS", &both).start().await;
    fleet.client.register().await.get("/v1/users/me").await.expect(200);
    let keys = fleet.client.get("/.well-known/jwks.json").await.expect(200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_administrator_is_made_by_hand() {
    let fleet = Fleet::one().await;
    let settings = settings(&fleet.database.name);
    let create = ["admin", "create", "--email", "Boss@shoal.test", "--name", "Boss"];
    let made = shoal(&settings, &create, "a long enough secret\n").await;
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stdout.contains("boss@shoal.test"), "{}", made.stdout);
    let session = fleet.client.login("boss@shoal.test", "a long enough secret").await.expect(200);
    let boss = fleet.client.with_token(session["access_token"].as_str().unwrap());
    assert_eq!(boss.get("/v1/users/me").await.expect(200)["role"], "admin");
    let again = shoal(&settings, &create, "a different secret\n").await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    fleet.client.login("boss@shoal.test", "a long enough secret").await.expect(200);
    // Whoever registered the address first must not get the role with it.
    fleet.client.register_as("mallory@shoal.test").await;
    let create = ["admin", "create", "--email", "mallory@shoal.test", "--name", "Boss"];
    let refused = shoal(&settings, &create, "a long enough secret\n").await;
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("a customer's account"), "{}", refused.stderr);

    for (email, password, why) in [
        ("new@shoal.test", "password\n", "guessed"),
        ("new@shoal.test", "short\n", "password"),
        ("new@shoal.test", "", "password"),
        ("nobody", "a long enough secret\n", "--email"),
    ] {
        let create = ["admin", "create", "--email", email, "--name", "New"];
        let refused = shoal(&settings, &create, password).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
        assert!(refused.stderr.contains(why), "{why}: {}", refused.stderr);
    }
    let administrators = "select count(*) from users where role = 'admin'";
    assert_eq!(fleet.database.number(administrators).await, 1);
}

#[tokio::test]
async fn products_are_imported_all_or_none() {
    let database = Database::create().await;
    let settings = settings(&database.name);
    let folder = topology().scratch_dir(&unique("csv"));
    std::fs::create_dir_all(&folder).unwrap();
    let import = async |lines: &str| {
        let file = folder.join("products.csv");
        let head = "sku,name,description,unit_amount,currency,stock\n";
        std::fs::write(&file, format!("{head}{lines}")).unwrap();
        shoal(&settings, &["import", "products", file.to_str().unwrap()], "").await
    };
    let many: String = (0..2_500).map(|n| format!("B{n},Bulk,Bulk,{n},EUR,{n}\n")).collect();
    let bad = import(&format!("{many}B1,Twice,Twice,1,EUR,1\nC,,No name,1,EUR,1\n")).await;
    assert_eq!((bad.code, bad.stdout.as_str()), (1, ""));
    for part in ["2 line(s)", "line 2502: sku B1 repeats", "line 2503: name"] {
        assert!(bad.stderr.contains(part), "{part}: {}", bad.stderr);
    }
    assert_eq!(database.number("select count(*) from products").await, 0);

    let good = import(&many).await;
    assert_eq!(good.code, 0, "{}", good.stderr);
    assert!(good.stdout.starts_with("2500 products imported"), "{}", good.stdout);
    let sold = "update inventory set on_hand = on_hand - 5 from products p
        where p.id = product_id and p.sku = 'B100' returning on_hand";
    assert_eq!(database.number(sold).await, 95);
    let again = import("B100,\"Bulk, renamed\",Bulk,7,EUR,100\nNEW,New,New,1,EUR,3\n").await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    let kept = "select on_hand from inventory join products p on p.id = product_id
        where p.sku = 'B100' and p.name = 'Bulk, renamed' and p.unit_amount = 7";
    assert_eq!(database.number(kept).await, 95, "what was sold meanwhile stays sold");
    assert_eq!(database.number("select count(*) from products").await, 2_501);

    let other = import("NEW2,New,New,1,EUR,3\nB100,Bulk,Bulk,7,JPY,100\n").await;
    assert_eq!(other.code, 1);
    assert!(other.stderr.contains("currency") && other.stderr.contains("B100"), "{}", other.stderr);
    assert_eq!(database.number("select count(*) from products").await, 2_501);

    let missing = shoal(&settings, &["import", "products", "nowhere.csv"], "").await;
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("nowhere.csv"), "{}", missing.stderr);
}

#[tokio::test]
async fn an_import_is_seen_behind_the_cache() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(5, 100).await;
    let path = format!("/v1/products/{product}");
    let sku = fleet.client.get(&path).await.expect(200)["sku"].as_str().unwrap().to_owned();
    let again = fleet.client.get(&path).await;
    assert!(again.header("cache-status").starts_with("shoal; hit"));
    let folder = topology().scratch_dir(&unique("csv"));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("products.csv");
    let head = "sku,name,description,unit_amount,currency,stock";
    std::fs::write(&file, format!("{head}\n{sku},New name,New,999,EUR,5\n")).unwrap();
    let import = ["import", "products", file.to_str().unwrap()];
    let imported = shoal(&settings(&fleet.database.name), &import, "").await;
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert_eq!(fleet.client.get(&path).await.expect(200)["unit_amount"], 999);
}
