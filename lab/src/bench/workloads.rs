//! What is asked for, and of whom.

use std::path::PathBuf;

use super::data::{CUSTOMERS, HOT_PRODUCTS, ORDERS, PRODUCTS, log_in_body};
use super::figures::{Kind, Row, Table};
use super::pgbench;
use super::stage::{LIST, Stage};
use super::wrk::{Request, write_orders, write_replay};
use crate::error::Result;

/// Connections of every load generator, unless a workload says otherwise.
pub(super) const CONNECTIONS: usize = 64;
/// Hashing passwords fills the core with two at once; more connections would only measure the queue.
const LOG_IN_CONNECTIONS: usize = 4;

/// One thing that clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// A product out of the hot ones.
    Product,
    /// A page of the catalogue.
    List,
    /// An own order by its id.
    Order,
    /// Placing an order of two lines.
    Place,
    /// Logging in.
    Login,
    /// Many requests at once for one product that nobody has asked for.
    Cold,
    /// Jobs that do nothing, and how soon a job begins.
    Jobs,
    /// Webhooks to a receiver that answers at once.
    Deliveries,
    /// Live streams of events that are open at the same time.
    Streams,
    /// Large pictures, through the API and past it.
    Uploads,
    /// The mix of the load test over rising concurrency, up to where requests only take longer.
    Knee,
}

/// What sends the requests of a row.
#[derive(Clone, Debug)]
pub(super) enum Load {
    Wrk { script: PathBuf, connections: usize, side: Side },
    RedisBenchmark { key: String },
    Pgbench { script: PathBuf },
}

/// Which cores a load generator gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Those of the servers: what is measured has its core to itself.
    Servers,
    /// The measured one, as `pgbench` has it: where the servers are what is asked for, neither contender's
    /// client may take time from them.
    Subject,
}

/// What a number of round trips is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    /// What the load generator was answered.
    Request,
    /// What was placed: orders that are on their way when the load generator stops are placed all the same.
    Order,
}

/// A workload that is about to run: its table, and the load of each of the table's rows.
pub(super) struct Plan {
    pub(super) table: Table,
    pub(super) loads: Vec<Load>,
    /// The cache that answers, as the metrics name it.
    pub(super) cache: Option<&'static str>,
    /// What round trips to Postgres are counted by, if they are.
    pub(super) round_trips: Option<Per>,
}

impl Plan {
    /// Writes the scripts; `None` for what is no load over time.
    pub(super) fn new(workload: Workload, stage: &Stage<'_>) -> Result<Option<Self>> {
        match workload {
            Workload::Product => product(stage).map(Some),
            Workload::List => list(stage).map(Some),
            Workload::Order => order(stage).map(Some),
            Workload::Place => place(stage).map(Some),
            Workload::Login => login(stage).map(Some),
            Workload::Cold
            | Workload::Jobs
            | Workload::Deliveries
            | Workload::Streams
            | Workload::Uploads
            | Workload::Knee => Ok(None),
        }
    }

    fn of(name: &'static str, title: &'static str, about: String) -> Self {
        let table = Table { name, title, about, rows: Vec::new() };
        Self { table, loads: Vec::new(), cache: None, round_trips: None }
    }

    fn add(&mut self, name: &str, kind: Kind, load: Load) {
        self.table.rows.push(Row::new(name, kind));
        self.loads.push(load);
    }
}

fn product(stage: &Stage<'_>) -> Result<Plan> {
    let about =
        format!("GET /v1/products/{{id}}; {HOT_PRODUCTS} products of {PRODUCTS} are asked for");
    let mut plan = Plan::of("product", "Cached product", about);
    plan.cache = Some("product");
    let ids = || (1..=HOT_PRODUCTS).map(|number| stage.data.product(number));
    let own: Vec<_> = ids().map(|id| Request::get(format!("/v1/products/{id}"))).collect();
    plan.add("shoal", Kind::Service, replay(stage, "product", &own)?);
    let held = [Request::get("/bare/product")];
    plan.add("bare axum, same bytes", Kind::Bare, replay(stage, "product-bare", &held)?);
    let redis: Vec<_> = ids().map(|id| Request::get(format!("/redis/{id}"))).collect();
    plan.add("bare axum + Redis GET", Kind::BareRedis, replay(stage, "product-redis", &redis)?);
    plan.add("redis-benchmark GET", Kind::RedisBenchmark, get("product"));
    Ok(plan)
}

fn list(stage: &Stage<'_>) -> Result<Plan> {
    let mut plan = Plan::of("list", "Product list of 20, cached", format!("GET {LIST}"));
    plan.cache = Some("catalogue");
    plan.add("shoal", Kind::Service, replay(stage, "list", &[Request::get(LIST)])?);
    let held = [Request::get("/bare/list")];
    plan.add("bare axum, same bytes", Kind::Bare, replay(stage, "list-bare", &held)?);
    let redis = [Request::get("/redis/list")];
    plan.add("bare axum + Redis GET", Kind::BareRedis, replay(stage, "list-redis", &redis)?);
    plan.add("redis-benchmark GET", Kind::RedisBenchmark, get("list"));
    Ok(plan)
}

fn order(stage: &Stage<'_>) -> Result<Plan> {
    let about =
        format!("GET /v1/orders/{{id}} with a token; {ORDERS} orders of {CUSTOMERS} customers");
    let mut plan = Plan::of("order", "Own order by id", about);
    plan.round_trips = Some(Per::Request);
    let data = &stage.data;
    let own = (1..=ORDERS).map(|number| {
        let path = format!("/v1/orders/{}", data.order(number));
        Request::get(path).with_token(data.token_of_order(number))
    });
    plan.add("shoal", Kind::Service, replay(stage, "order", &own.collect::<Vec<_>>())?);
    let held = [Request::get("/bare/order")];
    plan.add("bare axum, same bytes", Kind::Bare, replay(stage, "order-bare", &held)?);
    let query = (1..=ORDERS).map(|number| {
        let customer = data.customer(1 + number % CUSTOMERS);
        Request::get(format!("/orders/{customer}/{}", data.order(number)))
    });
    let query = replay(stage, "order-query", &query.collect::<Vec<_>>())?;
    plan.add("bare axum + query by sqlx", Kind::BareQuery, query);
    let script = pgbench::order_script(&stage.scripts)?;
    plan.add("pgbench, the query", Kind::Pgbench, Load::Pgbench { script });
    Ok(plan)
}

fn place(stage: &Stage<'_>) -> Result<Plan> {
    let about = "POST /v1/orders with Idempotency-Key: stock, order, lines, event".to_owned();
    let mut plan = Plan::of("place", "Place an order of two lines", about);
    plan.round_trips = Some(Per::Order);
    let data = &stage.data;
    let script = write_orders(&stage.scripts, "place", &data.tokens, &data.products, PRODUCTS)?;
    let load = Load::Wrk { script, connections: CONNECTIONS, side: Side::Subject };
    plan.add("shoal", Kind::Service, load);
    let script = pgbench::place_script(&stage.scripts)?;
    plan.add("pgbench, nine statements", Kind::Pgbench, Load::Pgbench { script });
    Ok(plan)
}

fn login(stage: &Stage<'_>) -> Result<Plan> {
    let about =
        format!("POST /v1/auth/login, {LOG_IN_CONNECTIONS} connections; Argon2id is the work");
    let mut plan = Plan::of("login", "Log in", about);
    let own = (1..=CUSTOMERS).map(|number| Request {
        method: "POST",
        path: "/v1/auth/login".to_owned(),
        token: String::new(),
        body: log_in_body(number),
    });
    let script = write_replay(&stage.scripts, "login", &own.collect::<Vec<_>>())?;
    let load = Load::Wrk { script, connections: LOG_IN_CONNECTIONS, side: Side::Servers };
    plan.add("shoal", Kind::Service, load);
    Ok(plan)
}

fn replay(stage: &Stage<'_>, name: &str, requests: &[Request]) -> Result<Load> {
    let script = write_replay(&stage.scripts, name, requests)?;
    Ok(Load::Wrk { script, connections: CONNECTIONS, side: Side::Servers })
}

fn get(name: &str) -> Load {
    Load::RedisBenchmark { key: format!("{}{name}", super::baseline::PREFIX) }
}
