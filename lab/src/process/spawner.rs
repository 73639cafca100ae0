//! Spawns every child from one thread that lives as long as the process.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

struct Order {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// Spawns `command` as a child of this process.
///
/// The kernel sends a child its parent-death signal when the *thread* that spawned it ends. Servers are
/// started in parallel by short-lived threads, and by tests, so the spawning itself is handed to one that
/// stays.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for mut order in inbox {
                // Nobody waiting any more is no reason to stop serving the others.
                let _ = order.answer.send(order.command.spawn());
            }
        });
        orders
    });
    let (answer, result) = channel();
    let lost = || io::Error::other("the thread that spawns processes has ended");
    orders.send(Order { command, answer }).map_err(|_| lost())?;
    result.recv().map_err(|_| lost())?
}
