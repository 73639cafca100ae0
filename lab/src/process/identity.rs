//! Who a process is: its number alone is reused by the kernel, so nobody is signalled by number alone.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process, recognisable after it is gone: number, start time and boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process number.
    pub pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    started: u64,
    /// The kernel's random id of this boot: ticks begin anew with each.
    boot: String,
}

impl Identity {
    /// The process that has this number now; `None` if there is none, or it is a zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started: start_time(&stat)?, boot: boot_id() })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Signals that very process, and no other that got its number since. False if it is gone.
    ///
    /// The handle is opened first: from then on it stays the same process's, so what is checked through
    /// `/proc` afterwards is who will get the signal.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        handle.is_some_and(|handle| self.is_alive() && pidfd_send_signal(handle, signal).is_ok())
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// Field 22. The second field, the command's name, may hold blanks and brackets, so fields are
/// counted from the last closing bracket. A zombie has ended and only waits to be collected.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // `state` is field 3, so 18 fields lie between it and field 22.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Identity, Signal, start_time};

    const STAT: &str = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 9 9 9";

    #[test]
    fn the_start_time_is_found_behind_a_name_with_brackets() {
        assert_eq!(start_time(STAT), Some(987_654));
    }

    #[test]
    fn a_zombie_has_no_identity() {
        assert_eq!(start_time(&STAT.replace(") S ", ") Z ")), None);
    }

    #[test]
    fn this_process_is_itself_and_its_number_alone_is_not_enough() {
        let own = Identity::own().expect("this process runs");
        assert!(own.is_alive());
        let impostor = Identity { started: own.started + 1, ..own.clone() };
        assert!(!impostor.is_alive());
        let before_reboot = Identity { boot: "another".to_owned(), ..own };
        assert!(!before_reboot.is_alive());
    }

    #[test]
    fn nobody_is_signalled_in_place_of_a_process_that_is_gone() {
        let mut child = std::process::Command::new("true").spawn().expect("true starts");
        let gone = Identity { pid: child.id(), started: 1, boot: String::new() };
        child.wait().expect("true ends");
        assert!(!gone.signal(Signal::TERM));
    }
}
