//! The algorithm of Kubernetes' horizontal pod autoscaler (autoscaling/v2), as its documentation and its
//! controller have it: how many replicas each metric asks for (`metric`), and how much of that the behaviour
//! allows (`behavior`). Pure: what is observed goes in, with the time it is, and a number of replicas comes out.

mod behavior;
mod metric;
mod spec;

use std::time::Duration;

pub use metric::{Pod, Sample, Samples, State};
pub use spec::{Behavior, Policy, Rules, Select, Size, Spec, Target};

use behavior::History;

/// Time since anything began. The algorithm has no clock of its own.
pub type Moment = Duration;

/// Flags of the controller manager, by their default values, and the resolution of the metrics server.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often replicas are decided on: `--horizontal-pod-autoscaler-sync-period`.
    pub sync: Duration,
    /// For so long after its start a pod's CPU counts only if it was measured while the pod was ready:
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`.
    pub cpu_initialization: Duration,
    /// One that was never ready may become so for this long:
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`.
    pub initial_readiness: Duration,
    /// How often the metrics server looks at CPU and memory: its `--metric-resolution`.
    pub resources: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            sync: Duration::from_secs(15),
            cpu_initialization: Duration::from_secs(300),
            initial_readiness: Duration::from_secs(30),
            resources: Duration::from_secs(15),
        }
    }
}

impl Timing {
    /// All of it in less time.
    #[must_use]
    pub fn faster(self, factor: u32) -> Self {
        Self {
            sync: self.sync / factor,
            cpu_initialization: self.cpu_initialization / factor,
            initial_readiness: self.initial_readiness / factor,
            resources: self.resources / factor,
        }
    }
}

/// What a metric has been observed to be: one for each of [`Spec::targets`].
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// By pod; what a pod requests of it is the target's.
    pub samples: &'a Samples,
}

/// What was decided, and what each metric had asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// From now on.
    pub replicas: u32,
    /// In the order of [`Spec::targets`]; `None` where nothing was known.
    pub proposals: Vec<Option<u32>>,
}

/// One autoscaler, which remembers what it has recommended and done.
#[derive(Debug)]
pub struct Autoscaler {
    spec: Spec,
    timing: Timing,
    history: History,
}

impl Autoscaler {
    /// With nothing done so far.
    #[must_use]
    pub fn new(spec: Spec, timing: Timing) -> Self {
        Self { spec, timing, history: History::default() }
    }

    /// Decides once. `replicas` is what was decided last.
    pub fn decide(
        &mut self,
        now: Moment,
        replicas: u32,
        pods: &[Pod],
        observed: &[Observed<'_>],
    ) -> Decision {
        let spec = &self.spec;
        let proposals: Vec<_> = spec
            .targets
            .iter()
            .zip(observed)
            .map(|(target, observed)| {
                let bounds = (spec.behavior.down.tolerance, spec.behavior.up.tolerance);
                metric::replicas(
                    target,
                    bounds,
                    replicas,
                    pods,
                    observed.samples,
                    now,
                    &self.timing,
                )
            })
            .collect();
        let replicas = match desired(replicas, &proposals) {
            // Out of bounds: back into them at once, whatever the metrics say.
            _ if replicas > spec.most => spec.most,
            _ if replicas < spec.fewest => spec.fewest,
            None => replicas,
            Some(wanted) => self.history.limit(now, replicas, wanted, spec),
        };
        Decision { replicas, proposals }
    }

    /// Notes that there are other replicas now, which limits how soon there are others again.
    pub fn scaled(&mut self, now: Moment, from: u32, to: u32) {
        self.history.scaled(now, from, to, &self.spec.behavior);
    }
}

/// The most that a metric asks for. Where one is unknown there may be more replicas, never fewer.
fn desired(replicas: u32, proposals: &[Option<u32>]) -> Option<u32> {
    let most = proposals.iter().flatten().copied().max()?;
    let all_are_known = proposals.iter().all(Option::is_some);
    (all_are_known || most >= replicas).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::desired;

    #[test]
    fn the_largest_proposal_counts_and_what_is_unknown_holds_back() {
        for (replicas, proposals, expected) in [
            (3, vec![Some(2), Some(5), Some(4)], Some(5)),
            (3, vec![Some(2), Some(1)], Some(2)),
            (3, vec![Some(5), None], Some(5)),
            (3, vec![Some(2), None], None),
            (3, vec![None, None], None),
            (3, vec![], None),
        ] {
            assert_eq!(desired(replicas, &proposals), expected, "{proposals:?}");
        }
    }
}
