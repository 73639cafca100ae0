//! Room in memory for data directories that live for seconds: making some thousand small files takes a
//! disk longer than everything else that a test of replication does.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use crate::error::{Context, Result};
use crate::site::make_dir;
use crate::state::{Lock, remove};

/// Linux has it everywhere; a container may have little of it.
const MEMORY: &str = "/dev/shm";
/// A primary and two replicas take 150 MB, several tests run at once, and some of them write.
const NEEDED_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// More than run at once on any machine.
const MOST: usize = 256;

/// A directory in memory, emptied when this is dropped, or by the next that looks for one if this process
/// is killed.
#[derive(Debug)]
pub(super) struct InMemory {
    data: PathBuf,
    _lock: Lock,
}

impl InMemory {
    /// Makes `data` a link to a directory in memory. `None`, and nothing made, if there is no room.
    pub(super) fn link(data: &Path) -> Result<Option<Self>> {
        if !has_room() {
            return Ok(None);
        }
        let uid = rustix::process::geteuid().as_raw();
        let Some(claimed) = claim(&Path::new(MEMORY).join(format!("shoal-lab-{uid}")))? else {
            return Ok(None);
        };
        make_dir(&claimed.data)?;
        symlink(&claimed.data, data).cannot(|| format!("make the link {}", data.display()))?;
        Ok(Some(claimed))
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = remove(&self.data);
    }
}

fn has_room() -> bool {
    statvfs(MEMORY).is_ok_and(|memory| memory.f_bavail * memory.f_frsize >= NEEDED_BYTES)
}

/// The first directory that nobody holds. What the killed have left in the others is removed on the way.
fn claim(all: &Path) -> Result<Option<InMemory>> {
    make_dir(all)?;
    let mut claimed = None;
    for number in 0..MOST {
        let dir = all.join(number.to_string());
        let is_last = !dir.exists();
        if is_last && claimed.is_some() {
            break;
        }
        let Some(lock) = Lock::take(&dir)? else {
            continue;
        };
        let free = InMemory { data: dir.join("data"), _lock: lock };
        remove(&free.data)?;
        claimed.get_or_insert(free);
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::claim;
    use crate::state::remove;

    #[test]
    fn what_is_held_is_left_alone_and_what_the_dead_have_left_is_removed() {
        let all = std::env::temp_dir().join(format!("lab-in-memory-{}", std::process::id()));
        let take = || claim(&all).expect("it can be claimed").expect("there is room");
        let held = take();
        let left = ["1/data", "2/data"].map(|data| all.join(data));
        for data in left.iter().chain([&held.data]) {
            fs::create_dir_all(data).expect("it can be made");
        }
        let next = take();
        assert_eq!(next.data, left[0]);
        assert!(held.data.exists() && !left[0].exists() && !left[1].exists());
        let data = held.data.clone();
        drop((held, next));
        assert!(!data.exists());
        remove(&all).expect("it can be removed");
    }
}
