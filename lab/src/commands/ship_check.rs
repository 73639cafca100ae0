//! `cargo lab ship-check`: what is shipped beside the program, checked by the tools of those who will read it.

use crate::error::Result;
use crate::install::ShipTools;
use crate::interrupt;
use crate::progress::Progress;
use crate::ship;

/// Installs the tools that are missing, and runs them over manifests, images and rules.
pub fn run() -> Result<()> {
    interrupt::listen()?;
    let progress = Progress::new();
    let tools = ShipTools::find_or_install(&progress)?;
    ship::rules(&tools, &progress)?;
    ship::images(&tools, &progress)?;
    let overlays = ship::overlays()?;
    for overlay in &overlays {
        ship::overlay(&tools, overlay, &progress)?;
    }
    println!("rules, images and {} overlays are what their tools want", overlays.len());
    Ok(())
}
