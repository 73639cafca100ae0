//! How a server is to be started.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::account::Account;
use crate::error::{Context, Result};

/// Variables that servers get from the lab's own environment; everything else would let a developer's
/// shell change what the lab does.
const PASSED_ON: [&str; 3] = ["PATH", "HOME", "RUST_BACKTRACE"];

/// How a server is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
}

impl StopSignal {
    /// As `setpriv` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
        }
    }

    pub(super) fn number(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Quit => Signal::QUIT,
        }
    }
}

/// Everything needed to start a server, once or again.
#[derive(Clone, Debug)]
pub struct Launch {
    pub(super) name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    account: Option<Account>,
    cores: Option<String>,
    pub(super) log: PathBuf,
    pub(super) record: Option<PathBuf>,
    pub(super) stop_signal: StopSignal,
    pub(super) grace: Duration,
}

impl Launch {
    /// Starts `program` under `name`, with standard output and error going to the file `log`.
    pub fn new(name: &str, program: &Path, log: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            account: None,
            cores: None,
            log,
            record: None,
            stop_signal: StopSignal::Terminate,
            // Servers here end within a second; ten mean that something hangs.
            grace: Duration::from_secs(10),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds environment variables to the few that are passed on.
    #[must_use]
    pub fn env(mut self, env: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env.extend(env);
        self
    }

    /// Runs it as this account instead of the lab's own.
    #[must_use]
    pub fn account(mut self, account: Option<&Account>) -> Self {
        self.account = account.cloned();
        self
    }

    /// Keeps it on these cores, given as `taskset --cpu-list` wants them.
    #[must_use]
    pub fn on_cores(mut self, cores: Option<&str>) -> Self {
        self.cores = cores.map(str::to_owned);
        self
    }

    /// Leaves a record in this directory while it runs, by which a later lab finds it.
    #[must_use]
    pub fn record_in(mut self, dir: &Path) -> Self {
        self.record = Some(dir.join(format!("{}.json", self.name)));
        self
    }

    /// How to ask it to end, when that is not SIGTERM.
    #[must_use]
    pub fn stop_signal(mut self, signal: StopSignal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// How long it may take to end before it is killed.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Keeps the log of the run before as `NAME.log.1`, so that the log begins with this run.
    pub(super) fn rotate_log(&self) {
        // There is none the first time.
        let _ = fs::rename(&self.log, self.log.with_extension("log.1"));
    }

    /// `setpriv` asks the kernel to end the server when the lab dies, however it dies, drops to the
    /// account, and becomes the server: same process, same number. It spares `unsafe` code here.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(self.stop_signal.name());
        if let Some(account) = &self.account {
            command.arg("--reuid").arg(&account.name);
            command.arg("--regid").arg(&account.name).arg("--init-groups");
        }
        command.arg("--");
        if let Some(cores) = &self.cores {
            // Becomes the server as well. Set from without, it would come too late: a server counts its
            // cores when it starts.
            command.args(["taskset", "--cpu-list", cores]);
        }
        command.arg(&self.program).args(&self.args);
        command.env_clear().env("LC_ALL", "C.UTF-8");
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let log = self.open_log()?;
        let error_log = log.try_clone().cannot(|| format!("share {}", self.log.display()))?;
        command.stdin(Stdio::null()).stdout(log).stderr(error_log);
        // Ctrl-C goes to the whole foreground group; servers are to be stopped in order instead.
        command.process_group(0).current_dir("/");
        Ok(command)
    }

    fn open_log(&self) -> Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .cannot(|| format!("write the log {}", self.log.display()))
    }
}
