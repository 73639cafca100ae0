//! The units of systemd: valid, and confined.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{files, work_dir};
use crate::error::{Context, Result};
use crate::progress::Progress;
use crate::run::run_logged;
use crate::site::{make_dir, repository};

/// Where the units expect the program, which need not be on this machine.
const PROGRAM: &str = "/usr/local/bin/shoal";
/// What is on every machine.
const STAND_IN: &str = "/bin/true";
/// Of what systemd calls exposure, in tenths: 100 is a unit without any confinement.
const MOST_EXPOSED: &str = "20";

/// The units have no mistake, and may do little.
pub(crate) fn units(tool: &Path, progress: &Progress) -> Result<()> {
    let step = progress.step("Units of systemd");
    let dir = work_dir()?.join("units");
    make_dir(&dir)?;
    for file in files(&repository().join("systemd"))? {
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
        if !name.ends_with(".service") {
            continue;
        }
        let unit = fs::read_to_string(&file).cannot(|| format!("read {}", file.display()))?;
        let draft = dir.join(name);
        fs::write(&draft, unit.replace(PROGRAM, STAND_IN))
            .cannot(|| format!("write {}", draft.display()))?;
        // Of a template some instance is looked at.
        let instance = name.replace('@', "@3001");
        let mut verify = Command::new(tool);
        verify.args(["verify", "--man=no", "--recursive-errors=no", &instance]);
        run_logged(verify.current_dir(&dir), &step, &format!("accept {name}"))?;
        let mut security = Command::new(tool);
        security.args(["security", "--no-pager", "--offline=true", "--threshold", MOST_EXPOSED]);
        security.arg(&instance);
        run_logged(security.current_dir(&dir), &step, &format!("find {name} confined enough"))?;
    }
    step.done();
    Ok(())
}
