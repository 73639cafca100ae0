//! `cargo lab logs NAME`: one server's log.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::up_dir;
use crate::error::{Context, Error, Result};
use crate::interrupt;

/// Prints the log; with `follow`, what is added to it until Ctrl-C.
pub fn run(name: &str, follow: bool) -> Result<()> {
    let dir = up_dir()?.join("log");
    let path = dir.join(format!("{name}.log"));
    let mut log = File::open(&path).map_err(|_| unknown(name, &dir))?;
    if follow {
        interrupt::listen()?;
    }
    loop {
        let copied = print(&mut log).cannot(|| format!("read {}", path.display()))?;
        if !follow || interrupt::requested() {
            return Ok(());
        }
        if copied == 0 {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A reader that has seen enough, as `head` does, is no error.
fn print(log: &mut impl Read) -> io::Result<u64> {
    let mut out = io::stdout().lock();
    match io::copy(log, &mut out).and_then(|copied| out.flush().map(|()| copied)) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

fn unknown(name: &str, dir: &Path) -> Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".log")?.to_owned()))
        .collect();
    names.sort();
    Error::new(format!("there is no log of `{name}`"))
        .way_out(format!("there are: {}", names.join(", ")))
}
