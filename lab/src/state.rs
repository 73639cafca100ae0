//! The directories that the lab keeps, and who may use them: one lab at a time.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use crate::account::Account;
use crate::error::{Context, Error, Result};
use crate::process::{self, Identity};
use crate::progress::Progress;
use crate::site::make_dir;

/// Three Postgres with their WAL take some 400 MB, and tests write to them.
const NEEDED_BYTES: u64 = 1024 * 1024 * 1024;
const FALLBACK: &str = "/var/lib/shoal-lab";

/// A directory under the target directory, or, where the servers' account cannot reach that, one it can.
pub(crate) fn dir(
    target: &Path,
    name: &str,
    account: Option<&Account>,
    progress: &Progress,
) -> PathBuf {
    let wanted = target.join(name);
    match account {
        Some(account) if !account.can_reach(&wanted) => {
            let instead = fallback(target).join(name);
            progress.say(&format!(
                "the account `{}`, under which servers run, cannot reach {}: using {} instead",
                account.name,
                wanted.display(),
                instead.display()
            ));
            instead
        }
        _ => wanted,
    }
}

/// The existing directory of that name, without a word: for the commands that only look.
pub(crate) fn existing_dir(target: &Path, name: &str) -> Option<PathBuf> {
    [target.join(name), fallback(target).join(name)]
        .into_iter()
        .find(|dir| dir.join("lock").exists())
}

/// One per target directory, so that clones do not share.
fn fallback(target: &Path) -> PathBuf {
    Path::new(FALLBACK).join(format!("{:016x}", fnv1a(target.to_string_lossy().as_bytes())))
}

/// The hash has to be the same in every version of the lab, which the standard library does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Refuses to begin on a disk that is nearly full: Postgres would stop in the middle.
pub(crate) fn check_free_space(dir: &Path) -> Result<()> {
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
    let disk =
        statvfs(existing).cannot(|| format!("look up the free space of {}", existing.display()))?;
    enough_space(dir, disk.f_bavail * disk.f_frsize)
}

fn enough_space(dir: &Path, free: u64) -> Result<()> {
    const MEGABYTE: u64 = 1024 * 1024;
    if free >= NEEDED_BYTES {
        return Ok(());
    }
    let (free, needed) = (free / MEGABYTE, NEEDED_BYTES / MEGABYTE);
    Err(Error::new(format!(
        "the disk of {} is full: {free} MB are free, and the servers need {needed} MB",
        dir.display()
    ))
    .way_out("free some space, or set CARGO_TARGET_DIR to a directory on another disk"))
}

/// A directory held by this process until the value is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the directory, which is created. `None` if another process has it.
    pub(crate) fn take(dir: &Path) -> Result<Option<Self>> {
        make_dir(dir)?;
        let path = dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .cannot(|| format!("open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                let mut lock = Self { file };
                lock.sign().cannot(|| format!("write {}", path.display()))?;
                Ok(Some(lock))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).cannot(|| format!("lock {}", path.display()))
            }
        }
    }

    /// Leaves the owner's identity, for `status`, `down` and whoever is refused.
    fn sign(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(serde_json::to_string(&Identity::own())?.as_bytes())
    }
}

/// The process that holds the directory.
pub(crate) fn holder(dir: &Path) -> Option<Identity> {
    let mut text = String::new();
    File::open(dir.join("lock")).ok()?.read_to_string(&mut text).ok()?;
    let identity: Option<Identity> = serde_json::from_str(&text).ok()?;
    identity.filter(Identity::is_alive)
}

/// Ends the servers that a lab which died has left in `dir`, saying so. Only for the holder of the lock.
pub(crate) fn stop_orphans(dir: &Path, progress: &Progress) {
    let stopped = process::stop_recorded(&dir.join("run"));
    if !stopped.is_empty() {
        progress.say(&format!(
            "a lab that was killed had left servers running; stopped: {}",
            stopped.join(", ")
        ));
    }
}

/// Removes a directory with everything in it.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).cannot(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Lock, NEEDED_BYTES, enough_space, fnv1a, holder};
    use crate::process::Identity;

    #[test]
    fn a_full_disk_is_named_with_what_is_missing() {
        assert!(enough_space(Path::new("/a/lab"), NEEDED_BYTES).is_ok());
        let message =
            enough_space(Path::new("/a/lab"), 7 * 1024 * 1024).expect_err("it is full").to_string();
        for part in ["/a/lab", "7 MB", "1024 MB", "CARGO_TARGET_DIR"] {
            assert!(message.contains(part), "{part:?} is missing in: {message}");
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_directory_has_one_holder() {
        let dir = std::env::temp_dir().join(format!("lab-lock-{}", std::process::id()));
        let lock = Lock::take(&dir).expect("it can be locked").expect("nobody has it");
        assert!(Lock::take(&dir).expect("it can be tried").is_none());
        assert_eq!(holder(&dir), Identity::own());
        drop(lock);
        assert!(Lock::take(&dir).expect("it can be locked").is_some());
        std::fs::remove_dir_all(&dir).expect("it can be removed");
    }
}
