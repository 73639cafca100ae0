//! The S3 server: s3s-fs over a directory, as a process of its own or inside a test.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};
use crate::net::accepts_connections;
use crate::ports::Port;
use crate::process::Process;
use crate::site::{Site, make_dir};

/// The bucket that exists from the start.
pub const BUCKET: &str = "shoal";
/// The access key id; its secret is the site's.
pub const ACCESS_KEY: &str = "shoal-lab";
/// Both sides sign with it.
pub const REGION: &str = "us-east-1";

const READY_WITHIN: Duration = Duration::from_secs(10);

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One directory per bucket in here.
    pub dir: PathBuf,
    /// The port on loopback; 0 takes a free one.
    pub port: u16,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

/// Serves until SIGINT or SIGTERM: the command `lab s3`.
pub fn run(settings: &Settings) -> Result<()> {
    let service = service(settings)?;
    let runtime = tokio::runtime::Runtime::new().cannot(|| "start the S3 server".to_owned())?;
    runtime.block_on(async {
        let listener = listen(settings.port).await?;
        let mut terminate =
            signal(SignalKind::terminate()).cannot(|| "listen for signals".to_owned())?;
        let stop = async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        };
        serve(listener, service, stop).await;
        Ok(())
    })
}

/// Serves until `stop` ends.
async fn serve(listener: TcpListener, service: S3Service, stop: impl Future<Output = ()>) {
    let serve = async {
        loop {
            // A connection that cannot be accepted is the client's trouble; out of files, say, passes.
            let Ok((connection, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(connection), service.clone());
            tokio::spawn(connection);
        }
    };
    tokio::select! {
        () = serve => {}
        () = stop => {}
    }
}

/// The service over a directory, with the bucket [`BUCKET`] in it.
fn service(settings: &Settings) -> Result<S3Service> {
    make_dir(&settings.dir.join(BUCKET))?;
    let files = FileSystem::new(&settings.dir).map_err(|error| {
        Error::new(format!("cannot serve {}: {error:?}", settings.dir.display()))
    })?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(
        settings.access_key.as_str(),
        settings.secret_key.as_str(),
    ));
    Ok(builder.build())
}

/// Listens on loopback.
async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.cannot(|| format!("listen on port {port}"))
}

/// `lab s3` as a process, stopped when this is dropped.
#[derive(Debug)]
pub struct S3Process {
    process: Process,
    port: Port,
}

impl S3Process {
    /// Starts the lab's own binary again, as the S3 server.
    pub fn start(site: &Site, name: &str, port: Port) -> Result<Self> {
        let dir = site.dir().join("s3");
        make_dir(&dir)?;
        let launch = site.launch_as_lab(name)?.arg("s3");
        let launch = launch.arg("--port").arg(port.number().to_string());
        let launch = launch.arg("--dir").arg(dir);
        // Not as an argument: those are visible to every user of the machine.
        let launch = launch.env([
            ("LAB_S3_ACCESS_KEY".to_owned(), ACCESS_KEY.to_owned()),
            ("LAB_S3_SECRET_KEY".to_owned(), site.secrets.s3.clone()),
        ]);
        let mut s3 = Self { process: Process::start(launch)?, port };
        let number = s3.port();
        s3.process.wait_until(READY_WITHIN, || accepts_connections(number))?;
        Ok(s3)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process, to freeze, kill or restart it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// An S3 server inside this process, for a test; ended when this is dropped.
#[derive(Debug)]
pub struct S3 {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3 {
    /// Starts one on a thread of its own, which outlives no drop.
    pub fn start(settings: &Settings) -> Result<Self> {
        let service = service(settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .cannot(|| "start the S3 server".to_owned())?;
        let (stop, stopped) = oneshot::channel::<()>();
        let wanted = settings.port;
        let (announce, announced) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async move {
                let listener = match listen(wanted).await {
                    Ok(listener) => listener,
                    Err(error) => return drop(announce.send(Err(error))),
                };
                let port = listener
                    .local_addr()
                    .map(|address| address.port())
                    .cannot(|| "read the S3 server's address".to_owned());
                if announce.send(port).is_ok() {
                    serve(listener, service, async { drop(stopped.await) }).await;
                }
            });
            // Open connections are cut, as a server that ends does.
            runtime.shutdown_background();
        });
        let port = announced
            .recv()
            .map_err(|_| Error::new("the S3 server ended before it was ready"))??;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
