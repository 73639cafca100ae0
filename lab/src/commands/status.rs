//! `cargo lab status`: what runs where.

use super::{table, up_dir};
use crate::error::{Error, Result};
use crate::process::recorded;
use crate::state::holder;

/// Prints the table. Ends with an error when no lab runs, as scripts like to know.
pub fn run() -> Result<()> {
    let dir = up_dir()?;
    let rows = table::load(&dir);
    match holder(&dir) {
        Some(lab) if rows.is_empty() => println!("The lab is starting as process {}.", lab.pid),
        Some(lab) => println!("The lab runs as process {}.\n\n{}", lab.pid, table::render(&rows)),
        None => return Err(not_running(&recorded(&dir.join("run")))),
    }
    Ok(())
}

fn not_running<T>(orphans: &[(String, T)]) -> Error {
    if orphans.is_empty() {
        return Error::new("no lab is running").way_out("`cargo lab up` starts one");
    }
    let names: Vec<&str> = orphans.iter().map(|(name, _)| name.as_str()).collect();
    Error::new(format!("the lab was killed, and has left servers running: {}", names.join(", ")))
        .way_out("`cargo lab down` stops them")
}
