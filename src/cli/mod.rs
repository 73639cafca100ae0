//! The subcommands, one function each, or a file where there are many.

mod audit;
mod jobs;
mod plan;

use std::{
    io::{BufRead, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use secrecy::SecretString;
use tokio::net::TcpListener;

use crate::{
    app::{self, Role},
    config::{self, Config, process_environment},
    domain::{auth::Password, orders, products::import, reports, users},
    platform::{
        breaker::Breakers,
        cache::Caches,
        db::{Db, schema},
        metrics::Metrics,
        passwords::{self, Passwords},
        redis::Redis,
        shutdown::{self, Tasks},
        tokens,
    },
    state::{App, catalogue_cache, product_cache},
};

/// A horizontally scalable, stateless HTTP API.
#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API until SIGTERM, then drain and exit
    Serve {
        /// Run jobs as well: for the smallest deployment
        #[arg(long)]
        with_worker: bool,
    },
    /// Run jobs, and pass events on, until SIGTERM
    Worker,
    /// Bring the schema up to date (DATABASE_DIRECT_URL)
    Migrate,
    /// Print the OpenAPI document
    Openapi,
    /// Before scaling out: look at every server and at this configuration; exit code 1 if anything
    /// is not as it should be
    Audit(Box<audit::Audit>),
    /// Ask a URL for its health: exit code 0 for a 2xx answer
    Healthcheck { url: url::Url },
    /// Print every environment variable with its default, as `.env.example` has them
    Env,
    /// Signing keys of access tokens
    #[command(subcommand)]
    Keys(Keys),
    /// Work outside of requests: what waits, what died, and what to do about it
    Jobs(jobs::Jobs),
    /// From requests per second to replicas, pools and the autoscaler's numbers
    Plan(plan::Plan),
    /// Administrators
    #[command(subcommand)]
    Admin(Admin),
    /// Bulk import
    #[command(subcommand)]
    Import(Import),
    /// What happened, and was written down
    #[command(subcommand)]
    Events(Events),
    /// The sums that reports are read from
    #[command(subcommand)]
    Reports(Reports),
}

#[derive(Subcommand)]
enum Keys {
    /// Print a new key as PEM, for JWT_PRIVATE_KEYS
    Generate,
}

#[derive(Subcommand)]
enum Admin {
    /// Make an administrator. The password is read from the first line of the standard input; one
    /// who is an administrator already keeps its own
    Create {
        #[arg(long)]
        email: String,
        #[arg(long)]
        name: String,
    },
}

#[derive(Subcommand)]
enum Import {
    /// Add or update products from CSV: sku,name,description,unit_amount,currency,stock
    Products { file: PathBuf },
}

#[derive(Subcommand)]
enum Events {
    /// Replay the trail of every order and compare it with the order; exit code 1 if any differs
    Verify,
}

#[derive(Subcommand)]
enum Reports {
    /// Make the sums anew from all events, and tell where the old ones were wrong
    Rebuild {
        /// Only compare; exit code 1 if anything differs
        #[arg(long)]
        dry_run: bool,
    },
}

impl Cli {
    /// Whether this subcommand logs; the others print one thing and must print nothing else.
    pub fn logs(&self) -> bool {
        matches!(self.command, Command::Serve { .. } | Command::Worker)
    }

    /// Reads the environment as the subcommand will, so that all that is wrong with it is told at
    /// once.
    ///
    /// # Errors
    /// Every mistake.
    pub fn check_environment(&self) -> Result<(), config::Mistakes> {
        let own = match self.command {
            Command::Serve { .. } | Command::Worker | Command::Audit(_) => {
                Config::read(&process_environment).map(drop)
            }
            _ => Ok(()),
        };
        let telemetry = config::read_telemetry(&process_environment).map(drop);
        config::Mistakes::join([config::refuse_unknown_names(), telemetry, own])
    }

    /// # Errors
    /// For the person who called: what went wrong, and what to do.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            // Boxed, for they hold the whole configuration.
            Command::Serve { with_worker: false } => Box::pin(serve(Role::Api)).await,
            Command::Serve { with_worker: true } => Box::pin(serve(Role::ApiAndWorker)).await,
            Command::Worker => Box::pin(work()).await,
            Command::Migrate => migrate().await,
            Command::Openapi => print(&format!("{}\n", app::openapi().to_pretty_json()?)),
            Command::Audit(audit) => Box::pin(audit.run()).await,
            Command::Healthcheck { url } => healthcheck(&url).await,
            Command::Env => print(&config::example()),
            Command::Keys(Keys::Generate) => print(&tokens::generate_key()?),
            Command::Jobs(jobs) => jobs.run().await,
            Command::Plan(plan) => plan.run(),
            Command::Admin(Admin::Create { email, name }) => create_admin(email, name).await,
            Command::Import(Import::Products { file }) => import_products(file).await,
            Command::Events(Events::Verify) => verify_events().await,
            Command::Reports(Reports::Rebuild { dry_run: true }) => {
                rebuild_reports(reports::Mode::Compare).await
            }
            Command::Reports(Reports::Rebuild { dry_run: false }) => {
                rebuild_reports(reports::Mode::Replace).await
            }
        }
    }
}

async fn serve(role: Role) -> anyhow::Result<()> {
    let config = Config::read(&process_environment)?;
    let http = &config.http;
    let tasks = Tasks::default();
    let shutdown = shutdown::signal(&tasks)?;
    let listener = listen((http.host, http.port).into()).await?;
    let ops = match http.ops_address {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let app = App::new(&config, tasks).await?;
    // Boxed: all the rest of the process is in it.
    Box::pin(app::run((listener, ops), app, &config, role, shutdown)).await
}

async fn work() -> anyhow::Result<()> {
    let config = Config::read(&process_environment)?;
    let http = &config.http;
    let tasks = Tasks::default();
    let shutdown = shutdown::signal(&tasks)?;
    let address = http.ops_address.unwrap_or_else(|| (http.host, http.port).into());
    let listener = listen(address).await?;
    let app = App::new(&config, tasks).await?;
    Box::pin(app::work(listener, app, &config, shutdown)).await
}

async fn listen(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is something else using the port?")
    })?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    Ok(listener)
}

async fn migrate() -> anyhow::Result<()> {
    let url = config::read_direct_url(&process_environment)?;
    schema::migrate(&url).await?;
    print(&format!("the schema is at {}\n", schema::required_version()))
}

/// Plain HTTP, for the health check of a container that has no curl.
async fn healthcheck(url: &url::Url) -> anyhow::Result<()> {
    use http_body_util::Empty;
    anyhow::ensure!(url.scheme() == "http", "only http:// can be checked");
    let host = url.host_str().context("the URL has no host")?;
    let address = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
    let request = http::Request::get(url.path())
        .header(http::header::HOST, &address)
        .body(Empty::<bytes::Bytes>::new())?;
    let ask = async {
        let stream = tokio::net::TcpStream::connect(&address).await?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        // Not until the connection ends: the server keeps it open for another request.
        tokio::select! {
            biased;
            response = sender.send_request(request) => anyhow::Ok(response?.status()),
            ended = connection => {
                ended?;
                anyhow::bail!("the connection was closed without an answer")
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(3), ask)
        .await
        .context("no answer within 3 s")?
        .with_context(|| format!("cannot ask {address}"))?;
    anyhow::ensure!(status.is_success(), "{url} answered {status}");
    Ok(())
}

async fn create_admin(email: String, name: String) -> anyhow::Result<()> {
    let email = users::Email::try_from(email).map_err(|why| anyhow::anyhow!("--email {why}"))?;
    let name = users::Name::try_from(name).map_err(|why| anyhow::anyhow!("--name {why}"))?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let line = line.trim_end_matches(['\r', '\n']).to_owned();
    let passwords = Passwords::new(&passwords::Config { parallel: 1 })?;
    anyhow::ensure!(!passwords.is_common(&line), "the password is among those guessed first");
    let password = Password::try_from(line)
        .map_err(|why| anyhow::anyhow!("the password on the standard input {why}"))?;
    let hash = passwords.hash(SecretString::from(password)).await?;
    let (db, tasks) = connect()?;
    let admin = users::create_admin(&db, &email, &name, &hash).await?;
    tasks.stop().await;
    print(&format!("{} is an administrator, with id {}\n", admin.email, admin.id))
}

async fn import_products(file: PathBuf) -> anyhow::Result<()> {
    let csv =
        std::fs::File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
    let (database, redis, cache) = config::read_stores(&process_environment)?;
    let (metrics, tasks) = (Metrics::new()?, Tasks::default());
    let breakers = Breakers::new(&metrics)?;
    let db = Db::new(&database, &metrics, &breakers, &tasks)?;
    let redis = Redis::new(&redis, &metrics, breakers.named("redis"), &tasks)?;
    let caches = Caches::new(&cache, redis, db.clone(), &metrics, &tasks)?;
    let imported = import::import(&db, &product_cache(&caches), &catalogue_cache(&caches), csv)
        .await
        .with_context(|| format!("{} was not imported", file.display()))?;
    tasks.stop().await;
    print(&format!("{} products imported from {}\n", imported.len(), file.display()))
}

async fn verify_events() -> anyhow::Result<()> {
    let (db, tasks) = connect()?;
    let mut output = Ok(());
    let tell = |line: &str| {
        if output.is_ok() {
            output = print(&format!("{line}\n"));
        }
    };
    let verified = orders::verify(&db, tell).await.context("not everything was compared")?;
    output?;
    tasks.stop().await;
    let orders::Verified { orders, events, differing } = verified;
    anyhow::ensure!(differing == 0, "{differing} of {orders} orders are not what their trails say");
    print(&format!("{orders} orders are what their {events} events say\n"))
}

async fn rebuild_reports(mode: reports::Mode) -> anyhow::Result<()> {
    let (db, tasks) = connect()?;
    let rebuilt = reports::rebuild(&db, mode).await.context("the reports are as they were")?;
    tasks.stop().await;
    for difference in &rebuilt.differences {
        print(&format!("{difference}\n"))?;
    }
    let (events, is_same) = (rebuilt.events, rebuilt.differences.is_empty());
    if mode == reports::Mode::Compare {
        anyhow::ensure!(is_same, "the reports are not what the events come to");
        return print(&format!("the reports are what the events in them come to, of {events}\n"));
    }
    let verdict = if is_same { "the old ones were right" } else { "the old ones were wrong" };
    print(&format!("the reports are made anew of {events} events; {verdict}\n"))
}

/// The database alone, for subcommands that do one thing and end.
fn connect() -> anyhow::Result<(Db, Tasks)> {
    let config = config::read_database(&process_environment)?;
    let (metrics, tasks) = (Metrics::new()?, Tasks::default());
    Ok((Db::new(&config, &metrics, &Breakers::new(&metrics)?, &tasks)?, tasks))
}

/// To the standard output, where a closed pipe is an error and not a panic.
fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}
