//! What no compiler checks: who may import what, and a few habits, by text search. Each rule has
//! a test with a snippet that offends, so that it cannot come to find nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A source file, by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
}

/// What a rule objects to.
type Rule = fn(&Source) -> Vec<String>;

/// Platform files that may hold SQL although they are no `queries.rs`: each is about one table or
/// one question of the platform itself.
const SQL_OF_THE_PLATFORM: [&str; 1] = ["src/platform/db/schema.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(under: &str, extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![root().join(under)];
    while let Some(path) = left.pop() {
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            if !["target", ".git", ".sqlx"].contains(&&*name) {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if extensions.iter().any(|extension| name.ends_with(extension)) {
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust(under: &str) -> Vec<Source> {
    files(under, &[".rs"])
}

#[track_caller]
fn hold(rule: Rule, sources: &[Source]) {
    assert!(!sources.is_empty(), "nothing was looked at");
    let found: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[track_caller]
fn offends(rule: Rule, path: &str, text: &str) {
    let source = Source { path: path.to_owned(), text: text.to_owned() };
    assert!(!rule(&source).is_empty(), "{path}: {text}");
}

#[track_caller]
fn is_fine(rule: Rule, path: &str, text: &str) {
    let source = Source { path: path.to_owned(), text: text.to_owned() };
    assert_eq!(rule(&source), Vec::<String>::new());
}

impl Source {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// Lines with one of `words`, comments left out.
    fn lines_with(&self, words: &[&str]) -> Vec<String> {
        self.lines_where(|line| words.iter().any(|word| line.contains(word)))
    }

    fn lines_where(&self, objects: impl Fn(&str) -> bool) -> Vec<String> {
        let code = |line: &str| line.split("//").next().unwrap().to_owned();
        let lines = self.text.lines().enumerate();
        lines
            .filter(|(_, line)| objects(&code(line)))
            .map(|(index, line)| format!("{}:{}: {}", self.path, index + 1, line.trim()))
            .collect()
    }

    /// What is imported from the crate, one path per item: `crate::platform::db::Conn`. Knows
    /// nested braces, and paths that are written out in the code.
    fn crate_paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let code: String = self
            .text
            .lines()
            .map(|line| line.split("//").next().unwrap().to_owned() + "\n")
            .collect();
        for (at, _) in code.match_indices("crate::") {
            let start = &code[at..];
            let end = start.find([';', '(', '<']).unwrap_or(start.len());
            expand("", &start[..end], &mut paths);
        }
        paths
    }
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, inner)) = tree.split_once('{') else {
        let item = tree.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next();
        paths.push(format!("{prefix}{}", item.unwrap_or_default()));
        return;
    };
    let head = head.trim();
    let mut depth = 0;
    let mut item = String::new();
    for character in inner.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth < 0 || (character == ',' && depth == 0) {
            if !item.trim().is_empty() {
                expand(&format!("{prefix}{head}"), item.trim(), paths);
            }
            item.clear();
            if depth < 0 {
                return;
            }
        } else {
            item.push(character);
        }
    }
}

/// Arrows may skip forward, never go back.
fn imports_go_one_way(source: &Source) -> Vec<String> {
    const LAYERS: [&str; 6] = ["platform", "config", "state", "domain", "app", "cli"];
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let Some(own) = source.path.split(['/', '.']).nth(1).and_then(layer) else {
        return Vec::new();
    };
    source
        .crate_paths()
        .into_iter()
        .filter(|path| path.split("::").nth(1).and_then(layer).is_some_and(|used| used > own))
        .map(|path| format!("{} imports {path}", source.path))
        .collect()
}

#[test]
fn imports_go_from_main_to_platform_and_never_back() {
    hold(imports_go_one_way, &rust("src"));
    let platform = "src/platform/cache.rs";
    for module in ["domain::orders", "state::AppState", "app", "config::Config", "cli::Cli"] {
        offends(imports_go_one_way, platform, &format!("use crate::{module};"));
        offends(imports_go_one_way, platform, &format!("use crate::{{platform::db, {module}}};"));
        offends(imports_go_one_way, platform, &format!("fn f() {{ crate::{module}::f(); }}"));
    }
    offends(imports_go_one_way, "src/state.rs", "use crate::{\n    domain::{users::Name},\n};");
    is_fine(imports_go_one_way, "src/domain/users/mod.rs", "use crate::state::AppState;");
    is_fine(imports_go_one_way, platform, "// not crate::domain");
}

fn sql_has_its_place(source: &Source) -> Vec<String> {
    if source.name() == "queries.rs" || SQL_OF_THE_PLATFORM.contains(&source.path.as_str()) {
        return Vec::new();
    }
    source.lines_with(&["sqlx::query", "raw_sql(", "query!(", "query_as!(", "query_scalar!("])
}

#[test]
fn sql_is_in_queries() {
    hold(sql_has_its_place, &rust("src"));
    for listed in SQL_OF_THE_PLATFORM {
        assert!(root().join(listed).exists(), "{listed} is gone: take it off the list");
    }
    offends(sql_has_its_place, "src/domain/users/service.rs", "sqlx::query_as!(User, \"...\")");
    offends(sql_has_its_place, "src/platform/db/mod.rs", "let q = sqlx::query(\"select 1\");");
    offends(sql_has_its_place, "src/app.rs", "use sqlx::*; query!(\"select 1\")");
    is_fine(sql_has_its_place, "src/domain/users/queries.rs", "sqlx::query!(\"select 1\")");
}

fn servers_are_the_platforms(source: &Source) -> Vec<String> {
    if source.is_under("src/platform/") {
        return Vec::new();
    }
    source.lines_with(&["deadpool_redis", "aws_sdk_s3", "jsonwebtoken", "aws_config", "lettre"])
}

#[test]
fn clients_of_servers_are_used_by_the_platform_alone() {
    hold(servers_are_the_platforms, &rust("src"));
    for name in [
        "deadpool_redis::redis::cmd",
        "aws_sdk_s3::Client",
        "jsonwebtoken::encode",
        "lettre::Message",
    ] {
        let line = format!("use {name};");
        offends(servers_are_the_platforms, "src/domain/orders/service.rs", &line);
        is_fine(servers_are_the_platforms, "src/platform/redis.rs", &line);
    }
}

fn http_stays_in_handlers(source: &Source) -> Vec<String> {
    if !["queries.rs", "service.rs", "jobs.rs"].contains(&source.name()) {
        return Vec::new();
    }
    source.lines_with(&["axum"])
}

#[test]
fn use_cases_and_queries_know_no_axum() {
    hold(http_stays_in_handlers, &rust("src"));
    for file in ["queries.rs", "service.rs", "jobs.rs"] {
        let path = format!("src/domain/orders/{file}");
        offends(http_stays_in_handlers, &path, "use axum::Json;");
    }
    is_fine(http_stays_in_handlers, "src/domain/orders/handlers.rs", "use axum::Json;");
}

/// The resources in the order in which `domain/mod.rs` merges their routes: one may use those
/// above it.
fn resources() -> Vec<String> {
    let list = std::fs::read_to_string(root().join("src/domain/mod.rs")).unwrap();
    let merged = |line: &str| {
        let name = line.trim().strip_prefix(".merge(")?.strip_suffix("::routes())")?;
        Some(name.to_owned())
    };
    list.lines().filter_map(merged).collect()
}

fn resources_keep_their_distance(source: &Source) -> Vec<String> {
    let resources = resources();
    let place = |name: &str| resources.iter().position(|resource| resource == name);
    let own =
        source.path.strip_prefix("src/domain/").and_then(|path| Some(path.split_once('/')?.0));
    let Some(own) = own else {
        return Vec::new();
    };
    let objections = |path: String| {
        let parts: Vec<&str> = path.split("::").collect();
        let used = *parts.get(2)?;
        if parts[1] != "domain" || place(used).is_none() || used == own {
            return None;
        }
        // A module of the other, rather than what its `mod.rs` offers.
        let inside = parts
            .get(3)
            .is_some_and(|name| ["model", "handlers", "queries", "service", "jobs"].contains(name));
        (inside || place(used) > place(own)).then(|| format!("{}: {path}", source.path))
    };
    source.crate_paths().into_iter().filter_map(objections).collect()
}

#[test]
fn a_resource_uses_those_it_stands_on_through_their_front_door() {
    let domain = rust("src/domain");
    hold(resources_keep_their_distance, &domain);
    for source in domain.iter().filter(|source| source.name() == "mod.rs") {
        let resource = source.path.split('/').nth(2).unwrap();
        let is_listed = resources().iter().any(|listed| listed == resource);
        assert!(resource == "mod.rs" || is_listed, "{resource} is not in src/domain/mod.rs");
    }
    let rule = resources_keep_their_distance;
    offends(rule, "src/domain/products/service.rs", "use crate::domain::orders;");
    offends(rule, "src/domain/users/mod.rs", "use crate::{domain::{auth::Password}, state};");
    offends(rule, "src/domain/orders/service.rs", "use crate::domain::products::queries::find;");
    is_fine(rule, "src/domain/orders/service.rs", "use crate::domain::products::{self, SoldLine};");
}

fn the_environment_is_read_once(source: &Source) -> Vec<String> {
    if source.is_under("src/config/") {
        return Vec::new();
    }
    source.lines_with(&["use std::env", "env::var", "env::set_var", "env::remove_var", "dotenv"])
}

#[test]
fn the_environment_is_read_in_config() {
    hold(the_environment_is_read_once, &rust("src"));
    let rule = the_environment_is_read_once;
    offends(rule, "src/platform/redis.rs", "let url = std::env::var(\"REDIS_URL\");");
    offends(rule, "src/app.rs", "use std::env;");
    is_fine(rule, "src/config/mod.rs", "std::env::var(name).ok()");
    is_fine(rule, "src/app.rs", "env!(\"CARGO_PKG_VERSION\")");
}

/// Statements are prepared and cached: PgBouncer handles that, and planning costs.
fn statements_stay_prepared(source: &Source) -> Vec<String> {
    source.lines_with(&[".persistent(false)", "statement_cache_capacity(0)"])
}

#[test]
fn no_statement_is_planned_anew_each_time() {
    hold(statements_stay_prepared, &rust("src"));
    let rule = statements_stay_prepared;
    offends(rule, "src/a.rs", "sqlx::query(\"select 1\").persistent(false)");
    offends(rule, "src/a.rs", "options.statement_cache_capacity(0)");
}

fn is_short(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines > 400 { vec![format!("{} has {lines} lines", source.path)] } else { Vec::new() }
}

#[test]
fn files_are_short() {
    let sources = rust("src");
    hold(is_short, &sources);
    hold(is_short, &rust("tests"));
    hold(is_short, &rust("lab/src"));
    offends(is_short, "src/a.rs", &"\n".repeat(401));
    is_fine(is_short, "src/a.rs", &"\n".repeat(400));
    let mut lengths: Vec<_> = sources.iter().map(|source| source.text.lines().count()).collect();
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= 150, "the median file has {median} lines");
}

/// Whether what follows `/` in `line` is a directory of one machine, such as a home.
fn names_a_place(line: &str) -> bool {
    ["/home/", "/root/", "/work/", "/Users/", "/mnt/"].iter().any(|place| {
        line.match_indices(place).any(|(at, _)| {
            // Not within a longer path or an address.
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !(c.is_alphanumeric() || "/.-_}$".contains(c)))
        })
    })
}

/// Absolute paths of a machine, and package mirrors: neither exists where this is cloned to.
fn is_portable(source: &Source) -> Vec<String> {
    if source.path == "tests/it/tidy.rs" {
        return Vec::new();
    }
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, line)| names_a_place(line) || line.contains("://deb."))
        .map(|(index, line)| format!("{}:{}: {}", source.path, index + 1, line.trim()))
        .collect()
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let kinds = [".rs", ".toml", ".md", ".sql", ".conf", ".ini", ".lua", ".html", ".json", "run"];
    hold(is_portable, &files("", &kinds));
    offends(is_portable, "README.md", "cd /home/ada/shoal");
    offends(is_portable, "lab/src/a.rs", "let root = \"/work/shoal\";");
    offends(is_portable, "lab/src/a.rs", "const MIRROR: &str = \"http://deb.debian.org\";");
    is_fine(is_portable, "README.md", "https://github.com/work/home/ and src/work/mod.rs");
}

/// `20261121000001_name.sql`: in the order in which they were written, whatever branch they are
/// from.
fn is_timestamped(name: &str) -> bool {
    let Some((stamp, rest)) = name.split_once('_') else { return false };
    let number = |range: std::ops::Range<usize>| stamp[range].parse::<u32>().unwrap_or(0);
    stamp.len() == 14
        && stamp.bytes().all(|byte| byte.is_ascii_digit())
        && number(0..4) >= 2_026
        && (1..=12).contains(&number(4..6))
        && (1..=31).contains(&number(6..8))
        && rest.strip_suffix(".sql").is_some_and(|words| !words.is_empty())
}

#[test]
fn migrations_are_timestamped() {
    let migrations = files("migrations", &[".sql"]);
    assert!(!migrations.is_empty());
    for migration in migrations {
        assert!(is_timestamped(migration.name()), "{}", migration.path);
    }
    assert!(is_timestamped("20261121000001_platform.sql"));
    for bad in ["0001_platform.sql", "20261321000001_a.sql", "20261121000001.sql", "a_b.sql"] {
        assert!(!is_timestamped(bad), "{bad}");
    }
}
