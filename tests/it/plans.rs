//! Every list that the API offers walks an index. The statements are those of the committed
//! `.sqlx/`, explained as PgBouncer's clients run them: prepared, with parameters.

use std::{fs, path::Path};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::support::Database;

/// Enough that reading all of it would be the worse plan, over all the months that have a
/// partition.
const ROWS: [&str; 8] = [
    "create function made_id(n bigint) returns uuid language sql immutable as $$
        select overlay(md5(n::text) placing left(replace(uuid_at(
            date_trunc('month', now(), 'UTC') + n * interval '500 seconds')::text, '-', ''), 12) from 1)::uuid
    $$",
    "insert into users (id, email, name, password_hash)
        select made_id(n), n || '@shoal.test', 'User', '' from generate_series(1, 20000) n",
    "insert into products (id, sku, name, description, unit_amount, currency, availability)
        select made_id(n), 'S' || n, case when n % 500 = 0 then 'Rare' else 'Common' end,
            'Thing ' || n, n % 5000, 'EUR', 'in_stock'
        from generate_series(1, 20000) n",
    "insert into orders (id, customer_id, status, total_amount, currency)
        select made_id(n), made_id(n % 200), case n % 50 when 0 then 'pending' when 1 then 'paid'
            when 2 then 'shipped' when 3 then 'cancelled' when 4 then 'payment_failed'
            else 'completed' end,
            100, 'EUR'
        from generate_series(1, 20000) n",
    "insert into order_items (order_id, line, customer_id, product_id, name, quantity, unit_amount)
        select made_id(n), line, made_id(n % 200), made_id(n), 'Thing', 1, 100
        from generate_series(1, 20000) n, generate_series(1, 2) line",
    "insert into events (id, type, subject_id, sequence, data)
        select made_id(n), 'order.created', made_id(n / 4), n % 4 + 1, '{}'
        from generate_series(1, 20000) n",
    "insert into daily_sales (day, currency, orders, units, total_amount)
        select current_date - n % 5000, 'C' || n / 5000, 1, 1, 100
        from generate_series(0, 19999) n",
    "insert into daily_product_sales (product_id, currency, day, orders, units, total_amount)
        select made_id(n % 2000), 'EUR', current_date - n / 2000, 1, 1, 100
        from generate_series(0, 99999) n",
];

/// A filled and analysed database.
async fn filled() -> PgConnection {
    let mut connection = Database::create().await.connect().await;
    for sql in ROWS {
        connection.execute(sql).await.unwrap();
    }
    // Sessions: a few of each user.
    let sessions = "insert into sessions (id, user_id, user_agent, ip, expires_at)
        select gen_random_uuid(), made_id(n % 5000), '', '::1', now() + interval '1 day'
        from generate_series(1, 20000) n";
    connection.execute(sessions).await.unwrap();
    connection.execute("vacuum analyze").await.unwrap();
    connection
}

/// The one statement in `.sqlx/` that has all of `fragments`, white space aside and with a `;` at
/// its end.
fn statement(fragments: &[&str]) -> (String, Vec<String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ") + ";";
    let mut found: Vec<(String, Value)> = fs::read_dir(folder)
        .unwrap()
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .map(|file| serde_json::from_slice::<Value>(&file).unwrap())
        .map(|file| (words(file["query"].as_str().unwrap()), file))
        .filter(|(query, _)| fragments.iter().all(|fragment| query.contains(fragment)))
        .collect();
    let queries: Vec<&String> = found.iter().map(|(query, _)| query).collect();
    assert_eq!(found.len(), 1, "{fragments:?} is in {queries:#?}");
    let (query, file) = found.remove(0);
    let types = file["describe"]["parameters"]["Left"].as_array().unwrap();
    let sql_type = |name: &Value| match name.as_str().unwrap() {
        "Int8" => "bigint".to_owned(),
        "Int4" => "int".to_owned(),
        "UuidArray" => "uuid[]".to_owned(),
        simple => simple.to_lowercase(),
    };
    (query, types.iter().map(sql_type).collect())
}

/// The plan of the statement, once for these parameters and once for any, as a flat list of
/// nodes each: Postgres goes over to the second after a few executions if it seems as good.
async fn plans(
    connection: &mut PgConnection,
    fragments: &[&str],
    arguments: &[&str],
) -> Vec<Vec<Value>> {
    let (query, types) = statement(fragments);
    assert_eq!(types.len(), arguments.len(), "{query}");
    let mut plans = Vec::new();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let prepare = format!("prepare listed ({}) as {query}", types.join(", "));
        let explain = format!("explain (format json) execute listed ({})", arguments.join(", "));
        let mut transaction = connection.begin().await.unwrap();
        let set = format!("set local plan_cache_mode = {mode}");
        transaction.execute(AssertSqlSafe(set)).await.unwrap();
        transaction.execute(AssertSqlSafe(prepare)).await.unwrap();
        let plan: Value =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&mut *transaction).await.unwrap();
        transaction.execute("deallocate listed").await.unwrap();
        transaction.rollback().await.unwrap();
        let mut nodes = Vec::new();
        flatten(&plan[0]["Plan"], &mut nodes);
        plans.push(nodes);
    }
    plans
}

fn flatten(node: &Value, nodes: &mut Vec<Value>) {
    nodes.push(node.clone());
    for child in node["Plans"].as_array().into_iter().flatten() {
        flatten(child, nodes);
    }
}

fn texts<'a>(nodes: &'a [Value], field: &str) -> Vec<&'a str> {
    nodes.iter().filter_map(|node| node[field].as_str()).collect()
}

fn shown(nodes: &[Value]) -> String {
    let line = |node: &Value| {
        let name = node["Index Name"].as_str().or(node["Relation Name"].as_str());
        format!("{} {}", node["Node Type"].as_str().unwrap(), name.unwrap_or_default())
    };
    nodes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Reads `index`, or its like on the partitions, and nothing in full. How the default partition
/// is read does not matter: it is empty.
#[track_caller]
fn walks(nodes: &[Value], index: &str, allows_sort: bool) {
    let plan = shown(nodes);
    let used = texts(nodes, "Index Name");
    assert!(!used.is_empty(), "no index at all:\n{plan}");
    for name in used.into_iter().filter(|name| !name.contains("_default_")) {
        assert!(name.starts_with(index) || is_index_of_partition(name, index), "{name}:\n{plan}");
    }
    for node in nodes {
        let kind = node["Node Type"].as_str().unwrap();
        let table = node["Relation Name"].as_str().unwrap_or_default();
        assert!(kind != "Seq Scan" || table.ends_with("_default"), "\n{plan}");
        assert!(allows_sort || !kind.ends_with("Sort"), "\n{plan}");
    }
}

/// `orders_customer_id_id_idx` is `orders_y2026m11_customer_id_id_idx` on a partition, shortened
/// if it must be.
fn is_index_of_partition(name: &str, index: &str) -> bool {
    let (table, columns) = index.split_once('.').unwrap_or(("", index));
    name.starts_with(table) && name.contains(columns)
}

/// Some id in the middle.
const ID: &str = "made_id(10000)";

#[tokio::test]
async fn the_catalogue_is_walked_by_an_index_in_every_order() {
    let mut connection = filled().await;
    for (behind, order, arguments, index) in [
        ("and id > $2", "order by id limit", vec!["21", ID], "products_catalogue_id_idx"),
        ("and id < $2", "order by id desc limit", vec!["21", ID], "products_catalogue_id_idx"),
        (
            "(unit_amount, id) > ($2, $3)",
            "order by unit_amount, id limit",
            vec!["21", "700", ID],
            "products_catalogue_unit_amount_id_idx",
        ),
        (
            "(unit_amount, id) < ($2, $3)",
            "order by unit_amount desc, id desc limit",
            vec!["21", "700", ID],
            "products_catalogue_unit_amount_id_idx",
        ),
    ] {
        let fragments = ["from products", "archived_at is null", behind, order];
        for plan in plans(&mut connection, &fragments, &arguments).await {
            walks(&plan, index, false);
        }
    }
}

#[tokio::test]
async fn a_search_reads_its_matches_only() {
    let mut connection = filled().await;
    let first = "'00000000-0000-0000-0000-000000000000'";
    let last = "'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    for (comparison, amount, id) in
        [("end, id) > (", "-1", first), ("end, id) < (", "9223372036854775807", last)]
    {
        for by_amount in ["true", "false"] {
            let arguments = ["21", "'rare'", by_amount, amount, id];
            let fragments = ["websearch_to_tsquery", comparison];
            for plan in plans(&mut connection, &fragments, &arguments).await {
                // The matches are sorted, which are few.
                walks(&plan, "products_catalogue_search_idx", true);
            }
        }
    }
}

#[tokio::test]
async fn orders_are_walked_by_an_index_for_every_filter() {
    let mut connection = filled().await;
    let customer = "made_id(7)";
    for (filter, arguments, index) in [
        ("where id < $1 order by id desc limit $2", vec![ID, "21"], "orders.pkey"),
        (
            "where id < $1 and customer_id = $3 order by id desc",
            vec![ID, "21", customer],
            "orders.customer_id_id_idx",
        ),
        (
            "where id < $1 and customer_id = $3 and status = $4 order by id desc",
            vec![ID, "21", customer, "'completed'"],
            "orders.customer_id_status_id_idx",
        ),
        (
            "where id < $1 and status = $3 order by id desc",
            vec![ID, "21", "'pending'"],
            "orders.status_id_idx",
        ),
    ] {
        for plan in plans(&mut connection, &["from orders", filter], &arguments).await {
            let (items, orders) = apart(plan);
            walks(&orders, index, false);
            // Those of each order by themselves.
            walks(&items, "order_items.pkey", false);
            let conditions = texts(&items, "Index Cond");
            let by_order =
                |cond: &&str| ["(order_id = o.id)", "(order_id = orders.id)"].contains(cond);
            assert!(conditions.iter().all(by_order), "{conditions:?}");
        }
    }
}

/// The nodes that read lines of orders, and all others but the topmost: it sorts what was found.
fn apart(nodes: Vec<Value>) -> (Vec<Value>, Vec<Value>) {
    let reads_items = |node: &Value| {
        let name = node["Relation Name"].as_str();
        name.is_some_and(|name| name.starts_with("order_items"))
    };
    nodes.into_iter().skip(1).partition(reads_items)
}

#[tokio::test]
async fn the_other_lists_walk_an_index_too() {
    let mut connection = filled().await;
    let users = ["from users", "where id < $1 order by id desc limit $2"];
    for plan in plans(&mut connection, &users, &[ID, "21"]).await {
        walks(&plan, "users_pkey", false);
    }
    let trail = ["from events", "subject_id = $1 and sequence > $2 order by sequence"];
    for plan in plans(&mut connection, &trail, &["made_id(70)", "0", "21"]).await {
        // Not known when it happened, so every month is asked, and the few answers are sorted.
        walks(&plan, "events.subject_id_sequence_idx", true);
    }
    let sessions = ["from sessions", "where user_id = $1", "order by id desc limit 100"];
    for plan in plans(&mut connection, &sessions, &["made_id(7)"]).await {
        walks(&plan, "sessions_user_id_id_idx", true);
    }
}

#[tokio::test]
async fn reports_read_their_days_or_products_only() {
    let mut connection = filled().await;
    let range = ["current_date - 29", "current_date"];
    let by_day = ["from daily_sales", "order by day, currency limit"];
    let arguments = [range[0], range[1], "current_date - 9", "'C1'", "21"];
    for plan in plans(&mut connection, &by_day, &arguments).await {
        walks(&plan, "daily_sales_pkey", false);
    }
    let by_product = ["from daily_product_sales", "order by product_id, currency limit"];
    let arguments = [range[0], range[1], "made_id(1000)", "'EUR'", "21"];
    for plan in plans(&mut connection, &by_product, &arguments).await {
        let sales = |node: &Value| {
            node["Relation Name"].as_str().is_some_and(|name| name == "daily_product_sales")
        };
        let nodes: Vec<Value> = plan.into_iter().filter(sales).collect();
        // By product from where the page begins, or by day: whichever is less.
        walks(&nodes, "daily_product_sales", true);
    }
}

#[tokio::test]
async fn what_a_stream_missed_is_found_by_the_orders_of_its_owner() {
    let mut connection = filled().await;
    let fragments = ["with since as materialized", "updated_at >= since.time"];
    let arguments = ["made_id(7)", "now() - interval '1 minute'", "0", ID];
    for plan in plans(&mut connection, &fragments, &arguments).await {
        let (events, orders): (Vec<Value>, Vec<Value>) = plan.into_iter().partition(|node| {
            let name = node["Relation Name"].as_str();
            name.is_some_and(|name| name.starts_with("events"))
        });
        walks(&events, "events.subject_id_sequence_idx", true);
        walks(&orders, "orders.customer_id", true);
    }
}

#[tokio::test]
async fn an_order_is_looked_for_in_its_month_alone() {
    let mut connection = filled().await;
    let partitions = "select count(*) from pg_inherits where inhparent = 'orders'::regclass";
    let partitions: i64 = sqlx::query_scalar(partitions).fetch_one(&mut connection).await.unwrap();
    assert!(partitions >= 5, "four months and the default");
    for from in
        ["from orders o left join order_items i", "with o as ( select * from orders where id = $1"]
    {
        let (query, _) = statement(&[from]);
        // With the id at hand; a generic plan prunes when it is executed.
        let query = query.replace("$1", "made_id(5)").replace("$2", "null");
        let explain = format!("explain (format json) {query}");
        let plan: Value =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&mut connection).await.unwrap();
        let mut nodes = Vec::new();
        flatten(&plan[0]["Plan"], &mut nodes);
        let (items, orders) = apart(nodes);
        let tables = texts(&orders, "Relation Name");
        assert_eq!(tables.len(), 1, "{}", shown(&orders));
        assert!(tables[0].starts_with("orders_y"), "{tables:?}");
        walks(&orders, "orders.pkey", true);
        walks(&items, "order_items.pkey", true);
    }
}
