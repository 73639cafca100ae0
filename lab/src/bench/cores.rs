//! Which core is measured on, and which carry everything else.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use crate::error::{Context, Error, Result};

/// One core for what is measured, the others for the load and the servers behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cores {
    /// What is measured runs here, and nothing else of the bench.
    pub(super) subject: usize,
    /// Load generators, Redis, Postgres, PgBouncer.
    pub(super) others: Vec<usize>,
}

impl Cores {
    /// Of those that this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).cannot(|| "ask for the cores".to_owned())?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        choose_from(&allowed, siblings).ok_or_else(|| {
            Error::new("bench needs two cores: one for what is measured, one for everything else")
                .way_out("give this machine, container or `taskset` another core")
                .exit_code(2)
        })
    }

    /// Keeps this thread, and whatever is started from it later, off the measured core.
    pub(crate) fn keep_clear(&self) -> Result<()> {
        let mut set = CpuSet::new();
        self.others.iter().for_each(|cpu| set.set(*cpu));
        sched_setaffinity(None, &set).cannot(|| format!("keep off core {}", self.subject))
    }

    /// The measured core, as `taskset --cpu-list` wants it.
    pub(super) fn subject_list(&self) -> String {
        self.subject.to_string()
    }

    /// The others, in the same way.
    pub(super) fn others_list(&self) -> String {
        self.others.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }

    /// The threads that a load generator gets: half of the other cores serve what it asks for.
    pub(super) fn load_threads(&self) -> usize {
        (self.others.len() / 2).clamp(1, 4)
    }
}

/// The last core is measured on, since the first gets most interrupts. Its hardware threads stay idle where
/// there are cores enough.
fn choose_from(allowed: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Option<Cores> {
    let (subject, rest) = allowed.split_last()?;
    let twins = siblings(*subject);
    let apart: Vec<usize> = rest.iter().copied().filter(|cpu| !twins.contains(cpu)).collect();
    let others = if apart.is_empty() { rest.to_vec() } else { apart };
    (!others.is_empty()).then_some(Cores { subject: *subject, others })
}

/// The hardware threads of the core that `cpu` is one of; only itself where the kernel does not tell.
fn siblings(cpu: usize) -> Vec<usize> {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    std::fs::read_to_string(file).map_or_else(|_| vec![cpu], |text| parse_list(&text))
}

/// `0,4-6` as numbers.
fn parse_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::{choose_from, parse_list};

    #[test]
    fn the_last_core_is_measured_and_its_twin_left_idle() {
        let twins = |cpu: usize| vec![cpu % 2, cpu % 2 + 2];
        let cores = choose_from(&[0, 1, 2, 3], twins).expect("there are four");
        assert_eq!((cores.subject, cores.others), (3, vec![0, 2]));
    }

    #[test]
    fn two_threads_of_one_core_have_to_do_and_a_single_one_does_not() {
        let cores = choose_from(&[0, 1], |_| vec![0, 1]).expect("there are two");
        assert_eq!((cores.subject, cores.others), (1, vec![0]));
        assert_eq!(choose_from(&[5], |cpu| vec![cpu]), None);
    }

    #[test]
    fn lists_of_the_kernel_are_understood() {
        assert_eq!(parse_list("0,4-6\n"), [0, 4, 5, 6]);
        assert!(parse_list("").is_empty());
    }
}
