//! What the kernel counts: the time a process and a core were busy, and the memory a process holds.

use std::fs;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use serde::Serialize;

use crate::error::{Context, Error, Result};

/// The time a process has used a core for, its ended threads included.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).cannot(|| format!("read {path}"))?;
    // The kernel scales both so that their sum is exact to a tick of 10 ms, not sampled.
    process_ticks(&text).map(ticks).ok_or_else(|| Error::new(format!("cannot understand {path}")))
}

/// The time that a core was busy with anything at all, the host's other guests included.
pub(super) fn core_busy(core: usize) -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").cannot(|| "read /proc/stat".to_owned())?;
    core_ticks(&text, core)
        .map(ticks)
        .ok_or_else(|| Error::new(format!("/proc/stat tells nothing of core {core}")))
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident: u64,
    /// The most there ever was.
    pub(crate) peak: u64,
}

impl Memory {
    /// Of a process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).cannot(|| format!("read {path}"))?;
        memory(&text).ok_or_else(|| Error::new(format!("cannot understand {path}")))
    }
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / clock_ticks_per_second() as f64)
}

/// The fields `utime` and `stime`, counted from behind the name, which may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Everything but idle, waiting for a disk, and guests of this machine, which are counted twice.
fn core_ticks(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&*name))?;
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, interrupts, soft, steal, ..] = fields[..] else {
        return None;
    };
    Some(user + nice + system + interrupts + soft + steal)
}

fn memory(status: &str) -> Option<Memory> {
    let kilobytes = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Memory { resident: kilobytes("VmRSS:")? * 1024, peak: kilobytes("VmHWM:")? * 1024 })
}

#[cfg(test)]
mod tests {
    use super::{Memory, core_ticks, cpu_time, memory, process_ticks};

    #[test]
    fn a_name_with_blanks_and_brackets_is_skipped() {
        let stat = "7 (a ) (b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 3 0 100 1 1";
        assert_eq!(process_ticks(stat), Some(300));
        assert_eq!(process_ticks("7 (short) S 1"), None);
    }

    #[test]
    fn the_core_asked_for_is_counted_without_its_idle_time() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 3 1000 1000 4 5 6 77 7\ncpu10 9 9 9 9 9 9 9 9\n";
        assert_eq!(core_ticks(stat, 1), Some(21));
        assert_eq!(core_ticks(stat, 2), None);
    }

    #[test]
    fn memory_is_told_in_bytes() {
        let status = "Name:\tshoal\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(memory(status), Some(Memory { resident: 1 << 20, peak: 2 << 20 }));
        assert_eq!(memory("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn the_time_of_this_process_grows_with_its_work() {
        let own = std::process::id();
        let before = cpu_time(own).expect("it runs");
        let mut sum = 0_u64;
        while cpu_time(own).expect("it runs") == before {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        assert!(Memory::of(own).expect("it runs").resident > 0);
    }
}
