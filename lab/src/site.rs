//! A place where servers run: its directory, their binaries and account, and how they are tuned.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::{Context, Error, Result};
use crate::install::{self, Binaries};
use crate::process::Launch;
use crate::secrets::Secrets;
use crate::template::render;
use crate::topology::Topology;

/// The file of a site's passwords.
const SECRETS: &str = "secrets.json";

/// How the servers are tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// For `cargo lab up`: data survives a power cut.
    Durable,
    /// For `cargo lab test`: data is thrown away, so nothing waits for the disk.
    ThrowAway,
}

/// Where servers run. Everything they write is below `dir`.
#[derive(Clone, Debug)]
pub struct Site {
    dir: PathBuf,
    pub(crate) binaries: Binaries,
    pub(crate) account: Option<Account>,
    pub(crate) secrets: Secrets,
    pub(crate) profile: Profile,
}

impl Site {
    /// A site in `dir`, which is created.
    pub fn new(dir: &Path, binaries: Binaries, profile: Profile) -> Result<Self> {
        for sub in ["", "log", "run", "etc", "data"] {
            make_dir(&dir.join(sub))?;
        }
        let dir = fs::canonicalize(dir).cannot(|| format!("find {}", dir.display()))?;
        let secrets = Secrets::load_or_create(&dir.join(SECRETS), has_data(&dir))?;
        let account = Account::for_servers()?;
        let site = Self { dir, binaries, account, secrets, profile };
        site.own(&site.dir.join("data"))?;
        Ok(site)
    }

    /// A throw-away site for a test that starts servers of its own.
    pub fn scratch(dir: &Path) -> Result<Self> {
        let binaries = install::find().map_err(|_| {
            Error::new("some servers are not installed")
                .way_out("run `cargo lab test`, which installs them")
        })?;
        Self::new(dir, binaries, Profile::ThrowAway)
    }

    /// Like [`Site::scratch`], for servers that lead to the topology's databases: with their passwords.
    pub fn beside(topology: &Topology, test: &str) -> Result<Self> {
        let dir = topology.scratch_dir(test);
        make_dir(&dir)?;
        let (from, to) = (topology.dir.join(SECRETS), dir.join(SECRETS));
        fs::copy(&from, to).cannot(|| format!("copy {}", from.display()))?;
        // The topology's servers run, so their programs need not be looked for again.
        Self::new(&dir, topology.binaries.clone(), Profile::ThrowAway)
    }

    /// The directory that holds everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log of a server.
    #[must_use]
    pub fn log(&self, server: &str) -> PathBuf {
        self.dir.join("log").join(format!("{server}.log"))
    }

    /// The directory of the records of running servers.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where a server keeps its data.
    #[must_use]
    pub fn data(&self, server: &str) -> PathBuf {
        self.dir.join("data").join(server)
    }

    /// A rendered configuration file.
    #[must_use]
    pub fn etc(&self, file: &str) -> PathBuf {
        self.dir.join("etc").join(file)
    }

    /// A directory for a server's data, owned by the servers' account.
    pub(crate) fn make_data_dir(&self, server: &str) -> Result<PathBuf> {
        let dir = self.data(server);
        make_dir(&dir)?;
        self.own(&dir)?;
        Ok(dir)
    }

    /// Renders one of the repository's templates into the configuration file `name`.
    pub(crate) fn configure(
        &self,
        name: &str,
        template: &str,
        values: &[(&str, &str)],
    ) -> Result<PathBuf> {
        let source = repository().join(template);
        let text = fs::read_to_string(&source).cannot(|| format!("read {}", source.display()))?;
        let rendered = render(&text, values)
            .map_err(|error| Error::new(format!("{}: {error}", source.display())))?;
        self.write_config(name, &rendered)
    }

    /// Writes a configuration file that only the servers' account may read: it may hold passwords.
    pub(crate) fn write_config(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.etc(name);
        write_private(&path, text)?;
        self.own(&path)?;
        Ok(path)
    }

    /// The launch of a server in this site, as the servers' account.
    pub(crate) fn launch(&self, name: &str, program: &Path) -> Launch {
        self.launch_as_self(name, program).account(self.account.as_ref())
    }

    /// The launch of a server that runs as whoever runs the lab.
    pub(crate) fn launch_as_self(&self, name: &str, program: &Path) -> Launch {
        Launch::new(name, program, self.log(name)).record_in(&self.run_dir())
    }

    /// The launch of this very program, as one of the lab's own servers.
    pub(crate) fn launch_as_lab(&self, name: &str) -> Result<Launch> {
        let lab = std::env::current_exe().cannot(|| "find the lab's own binary".to_owned())?;
        Ok(self.launch_as_self(name, &lab))
    }

    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        self.account.as_ref().map_or(Ok(()), |account| account.own(path))
    }
}

/// Whether a database was ever finished here.
fn has_data(dir: &Path) -> bool {
    let entries = fs::read_dir(dir.join("data")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|path| path.extension().is_some_and(|kind| kind == "complete"))
}

/// The root of the repository that this lab was built from.
pub(crate) fn repository() -> &'static Path {
    const LAB: &str = env!("CARGO_MANIFEST_DIR");
    Path::new(LAB).parent().unwrap_or(Path::new(LAB))
}

/// Creates a directory that everybody may pass: servers under another account have to.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).cannot(|| format!("create {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .cannot(|| format!("open {} to the servers", dir.display()))
}

/// Writes a file that only its owner may read, in one step, so that a half-written one is never read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, "").cannot(|| format!("write {}", draft.display()))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))
        .cannot(|| format!("protect {}", draft.display()))?;
    fs::write(&draft, text).cannot(|| format!("write {}", draft.display()))?;
    fs::rename(&draft, path).cannot(|| format!("write {}", path.display()))
}
