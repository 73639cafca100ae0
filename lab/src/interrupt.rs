//! Ctrl-C and SIGTERM, as a flag that everything that waits looks at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether the user has asked this process to stop. Always false before [`listen`].
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on Ctrl-C and SIGTERM ask for an orderly stop instead of ending the process.
pub(crate) fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .cannot(|| "listen for signals".to_owned())?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _context = runtime.enter();
        let open = |kind| signal(kind).cannot(|| "listen for signals".to_owned());
        (
            open(SignalKind::interrupt())?,
            open(SignalKind::terminate())?,
            open(SignalKind::hangup())?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    // The terminal was closed.
                    _ = hangup.recv() => {}
                }
                REQUESTED.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}
