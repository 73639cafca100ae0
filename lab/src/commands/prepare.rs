//! `cargo lab prepare`: renews `.sqlx/`, the descriptions of the queries that builds without a database use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cargo::{self, cargo};
use crate::error::{Context, Error, Result};
use crate::install::Binaries;
use crate::interrupt;
use crate::ports::Port;
use crate::postgres::{Postgres, create_roles};
use crate::progress::Progress;
use crate::psql::Psql;
use crate::site::{Profile, Site, repository};
use crate::state::{self, Lock};

const DATABASE: &str = "shoal_prepare";

/// Query descriptions by file name.
type Descriptions = BTreeMap<String, String>;

/// Describes all queries anew and writes them to `.sqlx/`; with `check` only tells whether they differ.
pub fn run(check: bool) -> Result<()> {
    interrupt::listen()?;
    let progress = Progress::new();
    let (binaries, all) = super::set_up(super::TEST, &progress)?;
    let dir = all.join(std::process::id().to_string());
    let _lock = Lock::take(&dir)?;
    let described = describe(&dir, binaries, &progress);
    state::remove(&dir)?;
    let described = described?;

    let committed_dir = repository().join(".sqlx");
    let committed = read(&committed_dir)?;
    let differences = compare(&committed, &described);
    if differences.is_empty() {
        println!(".sqlx/ is up to date: {} queries", described.len());
        return Ok(());
    }
    if check {
        return Err(Error::new(format!(
            ".sqlx/ is not up to date:\n  {}",
            differences.join("\n  ")
        ))
        .way_out("run `cargo lab prepare` and commit .sqlx/"));
    }
    write(&committed_dir, &committed, &described)?;
    println!(".sqlx/ is renewed:\n  {}", differences.join("\n  "));
    Ok(())
}

/// Compiles the library against a real schema; sqlx's macros write what they learn.
fn describe(dir: &Path, binaries: Binaries, progress: &Progress) -> Result<Descriptions> {
    let site = Site::new(dir, binaries, Profile::ThrowAway)?;
    let step = progress.step("Postgres with the migrated schema");
    let postgres = Postgres::start_primary(&site, "postgres-primary", Port::free()?)?;
    create_roles(&site, postgres.port(), DATABASE)?;
    migrate(&site, postgres.port())?;
    step.done();

    let out = dir.join("sqlx");
    fs::create_dir_all(&out).cannot(|| format!("create {}", out.display()))?;
    // Unknown to cargo, the database is an input of the macros: without a change they would not run.
    let source = repository().join("src/lib.rs");
    let touched = fs::File::options()
        .append(true)
        .open(&source)
        .and_then(|file| file.set_modified(std::time::SystemTime::now()));
    touched.cannot(|| format!("touch {}", source.display()))?;
    let mut command = cargo(&["check", "--workspace", "--lib"]);
    let url = format!(
        "postgres://postgres:{}@127.0.0.1:{}/{DATABASE}",
        site.secrets.superuser,
        postgres.port()
    );
    command.env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", &out).env("DATABASE_URL", url);
    cargo::run(&mut command, "compile the queries against the schema")?;
    read(&out)
}

/// Runs the migrations in order, as their owner. Not with `shoal migrate`: building that needs `.sqlx/`.
fn migrate(site: &Site, port: u16) -> Result<()> {
    let dir = repository().join("migrations");
    let entries = fs::read_dir(&dir).cannot(|| format!("read {}", dir.display()))?;
    let is_migration = |path: &PathBuf| {
        path.extension().is_some_and(|kind| kind == "sql")
            && !path.to_string_lossy().ends_with(".down.sql")
    };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(is_migration).collect();
    files.sort();
    let psql = Psql::new(site, port, DATABASE).as_migrator();
    // The real migrator keeps its books here, and a migration may grant rights on them.
    psql.run(
        "create table _sqlx_migrations (version bigint primary key, description text not null, \
         installed_on timestamptz not null default now(), success boolean not null, \
         checksum bytea not null, execution_time bigint not null)",
    )?;
    files.iter().try_for_each(|file| psql.run_file(file, &[]).map(drop))
}

fn read(dir: &Path) -> Result<Descriptions> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    let named = files.map(|path| {
        let text = fs::read_to_string(&path).cannot(|| format!("read {}", path.display()))?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text))
    });
    named.collect()
}

/// One line per query that differs, with the beginning of its SQL: the file's name is a hash.
fn compare(committed: &Descriptions, described: &Descriptions) -> Vec<String> {
    let new = described.iter().filter_map(|(name, text)| match committed.get(name) {
        None => Some(line("missing", name, text)),
        Some(old) if old != text => Some(line("changed", name, text)),
        Some(_) => None,
    });
    let unused = committed
        .iter()
        .filter(|(name, _)| !described.contains_key(*name))
        .map(|(name, text)| line("unused ", name, text));
    new.chain(unused).collect()
}

fn line(what: &str, name: &str, text: &str) -> String {
    let description: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let sql = description["query"].as_str().unwrap_or_default();
    let words: Vec<&str> = sql.split_whitespace().collect();
    format!("{what}  {name}  {}", words.join(" ").chars().take(60).collect::<String>())
}

fn write(dir: &Path, committed: &Descriptions, described: &Descriptions) -> Result<()> {
    fs::create_dir_all(dir).cannot(|| format!("create {}", dir.display()))?;
    for name in committed.keys().filter(|name| !described.contains_key(*name)) {
        let path = dir.join(name);
        fs::remove_file(&path).cannot(|| format!("remove {}", path.display()))?;
    }
    for (name, text) in described {
        let path = dir.join(name);
        fs::write(&path, text).cannot(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Descriptions, compare};

    fn descriptions(of: &[(&str, &str)]) -> Descriptions {
        of.iter()
            .map(|(name, sql)| ((*name).to_owned(), format!(r#"{{"query":"{sql}"}}"#)))
            .collect()
    }

    #[test]
    fn every_kind_of_difference_is_told_with_its_sql() {
        let committed =
            descriptions(&[("same", "select 1"), ("old", "select 2"), ("changed", "select 3")]);
        let described =
            descriptions(&[("same", "select 1"), ("new", "select 4"), ("changed", "select 5")]);
        let differences = compare(&committed, &described);
        assert_eq!(differences.len(), 3, "{differences:?}");
        let tells = |words: &[&str]| {
            differences.iter().any(|line| words.iter().all(|word| line.contains(word)))
        };
        assert!(tells(&["missing", "new", "select 4"]));
        assert!(tells(&["unused", "old", "select 2"]));
        assert!(tells(&["changed", "select 5"]));
    }

    #[test]
    fn equal_sets_have_no_difference() {
        let same = descriptions(&[("a", "select 1")]);
        assert!(compare(&same, &same).is_empty());
    }
}
