//! A site that is removed at the end of a test.

use std::ops::Deref;
use std::path::PathBuf;

use lab::Topology;
use lab::site::Site;

pub(crate) struct Scratch {
    site: Site,
    dir: PathBuf,
}

impl Scratch {
    pub(crate) fn new(test: &str) -> Self {
        let name = format!("lab-{test}-{}", std::process::id());
        // Servers under another account can reach the lab's directory, if there is one.
        let dir = Topology::from_env()
            .map_or_else(|_| std::env::temp_dir().join(&name), |lab| lab.scratch_dir(&name));
        let site = Site::scratch(&dir).unwrap_or_else(|error| panic!("{error}"));
        Self { site, dir }
    }
}

impl Deref for Scratch {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
