//! What is shipped of it: the autoscaler of the API, what its pods request, and over which time the metrics are
//! taken.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::hpa::Spec;
use crate::error::{Context, Error, Result};
use crate::site::repository;

const AUTOSCALER: &str = "k8s/base/api-scaling.yaml";
const DEPLOYMENT: &str = "k8s/base/api.yaml";
const ADAPTER: &str = "k8s/prometheus-adapter.yaml";
const MONITORS: &str = "k8s/components/prometheus-operator/monitors.yaml";
/// What the metric of requests per second is called.
pub(super) const RATE: &str = "http_requests_per_second";

/// The parts of the manifests that decide how many replicas there are.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The autoscaler.
    pub spec: Spec,
    /// The range of the query behind [`RATE`].
    pub rate_window: Duration,
    /// How often Prometheus asks a replica.
    pub scrape_interval: Duration,
}

impl Manifest {
    /// As an overlay of the repository has it.
    pub fn shipped(overlay: &str) -> Result<Self> {
        Self::patched(&read(&format!("k8s/overlays/{overlay}/kustomization.yaml"))?)
    }

    /// As it is with these kustomizations.
    pub fn patched(kustomizations: &[Value]) -> Result<Self> {
        let mut autoscaler = of_kind(&read(AUTOSCALER)?, "HorizontalPodAutoscaler")?;
        for kustomization in kustomizations {
            patch(&mut autoscaler, kustomization)?;
        }
        let deployment = of_kind(&read(DEPLOYMENT)?, "Deployment")?;
        let requests =
            &deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"];
        Ok(Self {
            spec: Spec::of(&autoscaler, requests)?,
            rate_window: rate_window()?,
            scrape_interval: scrape_interval()?,
        })
    }

    /// All durations divided.
    #[must_use]
    pub fn faster(self, factor: u32) -> Self {
        Self {
            spec: self.spec.faster(factor),
            rate_window: self.rate_window / factor,
            scrape_interval: self.scrape_interval / factor,
        }
    }
}

/// The documents of a file of the repository.
fn read(path: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(repository().join(path)).cannot(|| format!("read {path}"))?;
    documents(&text).map_err(|error| Error::new(format!("{path} is no YAML: {error}")))
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(text).map_err(|error| Error::new(error.to_string()))
}

fn of_kind(documents: &[Value], kind: &str) -> Result<Value> {
    let found = documents.iter().find(|document| document["kind"] == kind);
    found.cloned().ok_or_else(|| Error::new(format!("there is no {kind} in the manifest")))
}

/// What the kustomization replaces in autoscalers.
fn patch(autoscaler: &mut Value, kustomization: &Value) -> Result<()> {
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        let target = &patch["target"];
        let is_another =
            target["name"].as_str().is_some_and(|name| autoscaler["metadata"]["name"] != name);
        if target["kind"] != "HorizontalPodAutoscaler" || is_another {
            continue;
        }
        for operation in documents(patch["patch"].as_str().unwrap_or_default())?
            .iter()
            .flat_map(|document| document.as_array().into_iter().flatten())
        {
            let path = operation["path"].as_str().unwrap_or_default();
            match autoscaler.pointer_mut(path) {
                Some(place) if operation["op"] == "test" && *place == operation["value"] => {}
                Some(place) if operation["op"] == "replace" => {
                    *place = operation["value"].clone();
                }
                _ => return Err(Error::new(format!("cannot apply the patch {operation}"))),
            }
        }
    }
    Ok(())
}

/// The adapter's query has to be the one that is simulated: a rate by pod, summed over the series.
fn rate_window() -> Result<Duration> {
    let config = of_kind(&read(ADAPTER)?, "ConfigMap")?;
    let rules = documents(config["data"]["config.yaml"].as_str().unwrap_or_default())?;
    let rules = rules.iter().flat_map(|config| config["rules"].as_array().into_iter().flatten());
    let mut queries = rules.filter(|rule| rule["name"]["as"] == RATE);
    let query = queries.next().and_then(|rule| rule["metricsQuery"].as_str()).unwrap_or_default();
    let (before, after) = ("sum(rate(<<.Series>>{<<.LabelMatchers>>}[", "])) by (<<.GroupBy>>)");
    let window = query.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    window.and_then(duration).ok_or_else(|| {
        Error::new(format!("{ADAPTER} asks for {RATE} in a way that is not simulated: {query}"))
    })
}

fn scrape_interval() -> Result<Duration> {
    let monitors = read(MONITORS)?;
    let interval = monitors.iter().find_map(|monitor| {
        monitor["spec"]["endpoints"][0]["interval"].as_str().and_then(duration)
    });
    interval.ok_or_else(|| Error::new(format!("{MONITORS} says no interval")))
}

/// A duration as Prometheus writes them, of one unit.
fn duration(text: &str) -> Option<Duration> {
    let at = text.len().checked_sub(1)?;
    let seconds = match text.get(at..)? {
        "s" => 1,
        "m" => 60,
        _ => return None,
    };
    Some(Duration::from_secs(text.get(..at)?.parse::<u64>().ok()? * seconds))
}

/// Where the autoscaler is, for a report.
#[must_use]
pub fn path() -> &'static Path {
    Path::new(AUTOSCALER)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Manifest, duration};
    use crate::autoscale::hpa::{Size, Target};

    #[test]
    fn what_is_shipped_is_understood() {
        let shipped = Manifest::shipped("production").expect("it is a manifest");
        assert_eq!((shipped.spec.fewest, shipped.spec.most), (3, 20));
        let names: Vec<_> = shipped.spec.targets.iter().map(Target::name).collect();
        assert_eq!(names, ["cpu", "memory", super::RATE]);
        assert_eq!(shipped.spec.behavior.down.policies[0].size, Size::Percent(10));
        assert_eq!(shipped.rate_window, Duration::from_secs(60));
        assert_eq!(shipped.scrape_interval, Duration::from_secs(10));
    }

    #[test]
    fn an_overlay_replaces_its_numbers() {
        let dev = Manifest::shipped("dev").expect("it is a manifest");
        assert_eq!((dev.spec.fewest, dev.spec.most), (1, 3));
        assert!(Manifest::shipped("nowhere").is_err());
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("1m"), Some(Duration::from_secs(60)));
        assert_eq!(duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(duration("10"), None);
        assert_eq!(duration(""), None);
    }
}
