//! What a manifest says of an autoscaler.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Context, Error, Result};

/// `--horizontal-pod-autoscaler-tolerance`, unless the rules of a direction have their own.
const TOLERANCE: f64 = 0.1;

/// A HorizontalPodAutoscaler.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `minReplicas`.
    pub fewest: u32,
    /// `maxReplicas`.
    pub most: u32,
    /// Each asks for replicas; the most counts.
    pub targets: Vec<Target>,
    /// How fast.
    pub behavior: Behavior,
}

/// What a metric is to be, over the pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Of what the pods request of a resource, in percent.
    Utilization {
        /// `cpu` or `memory`.
        resource: String,
        /// 100 is all that is requested.
        percent: u32,
        /// What one pod requests: cores or bytes.
        request: f64,
    },
    /// Of a metric of the pods.
    Average {
        /// As the metrics API names it.
        metric: String,
        /// Per pod.
        value: f64,
    },
}

impl Target {
    /// The metric or resource.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Utilization { resource, .. } => resource,
            Self::Average { metric, .. } => metric,
        }
    }
}

/// The rules of both directions.
#[derive(Clone, Debug)]
pub struct Behavior {
    /// `scaleUp`.
    pub up: Rules,
    /// `scaleDown`.
    pub down: Rules,
}

/// `HPAScalingRules`.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The least (up) or the most (down) that was recommended within it counts.
    pub window: Duration,
    /// Which policy.
    pub select: Select,
    /// At least one, unless disabled.
    pub policies: Vec<Policy>,
    /// A ratio nearer to 1 than this is left alone.
    pub tolerance: f64,
}

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Select {
    /// The one that allows the largest change.
    Max,
    /// The one that allows the smallest.
    Min,
    /// None: no change in this direction.
    Disabled,
}

/// How much may change within a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The change.
    pub size: Size,
    /// The period, up to 30 minutes.
    pub period: Duration,
}

/// The size of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many pods.
    Pods(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl Spec {
    /// Of a manifest `kind: HorizontalPodAutoscaler`, for a pod that requests so much: a resource's name to
    /// a quantity.
    pub fn of(manifest: &Value, requests: &Value) -> Result<Self> {
        let written: Manifest = serde_json::from_value(manifest["spec"].clone())
            .cannot(|| "understand the HorizontalPodAutoscaler".to_owned())?;
        let targets = written.metrics.iter().map(|metric| target(metric, requests));
        let behavior = written.behavior.ok_or_else(|| {
            Error::new("the HorizontalPodAutoscaler says nothing of its behavior")
                .way_out("write down the rules that are meant, the defaults included")
        })?;
        Ok(Self {
            fewest: written.min_replicas,
            most: written.max_replicas,
            targets: targets.collect::<Result<_>>()?,
            behavior: Behavior {
                up: behavior.scale_up.rules()?,
                down: behavior.scale_down.rules()?,
            },
        })
    }

    /// All durations divided.
    #[must_use]
    pub fn faster(mut self, factor: u32) -> Self {
        for rules in [&mut self.behavior.up, &mut self.behavior.down] {
            rules.window /= factor;
            rules.policies.iter_mut().for_each(|policy| policy.period /= factor);
        }
        self
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    #[serde(rename = "scaleTargetRef")]
    _target: Value,
    min_replicas: u32,
    max_replicas: u32,
    metrics: Vec<Value>,
    behavior: Option<WrittenBehavior>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenBehavior {
    scale_up: WrittenRules,
    scale_down: WrittenRules,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRules {
    stabilization_window_seconds: u64,
    #[serde(default = "largest")]
    select_policy: Select,
    #[serde(default)]
    policies: Vec<WrittenPolicy>,
    #[serde(default = "usual_tolerance")]
    tolerance: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPolicy {
    r#type: String,
    value: u32,
    period_seconds: u64,
}

fn largest() -> Select {
    Select::Max
}

fn usual_tolerance() -> f64 {
    TOLERANCE
}

impl WrittenRules {
    fn rules(self) -> Result<Rules> {
        let policies = self.policies.into_iter().map(|policy| {
            let size = match &*policy.r#type {
                "Pods" => Size::Pods(policy.value),
                "Percent" => Size::Percent(policy.value),
                other => return Err(Error::new(format!("there is no policy of type {other}"))),
            };
            Ok(Policy { size, period: Duration::from_secs(policy.period_seconds) })
        });
        Ok(Rules {
            window: Duration::from_secs(self.stabilization_window_seconds),
            select: self.select_policy,
            policies: policies.collect::<Result<_>>()?,
            tolerance: self.tolerance,
        })
    }
}

fn target(metric: &Value, requests: &Value) -> Result<Target> {
    let unknown = || {
        Error::new(format!("cannot simulate the metric {metric}"))
            .way_out("only Resource with Utilization, and Pods with AverageValue, are known")
    };
    match metric["type"].as_str() {
        Some("Resource") => {
            let resource = metric["resource"]["name"].as_str().ok_or_else(unknown)?;
            let percent = metric["resource"]["target"]["averageUtilization"].as_u64();
            let request = requests[resource].as_str().and_then(quantity).ok_or_else(|| {
                Error::new(format!("the pods request no {resource}, so no part of it is used"))
            })?;
            let percent =
                percent.and_then(|percent| percent.try_into().ok()).ok_or_else(unknown)?;
            Ok(Target::Utilization { resource: resource.to_owned(), percent, request })
        }
        Some("Pods") => {
            let name = metric["pods"]["metric"]["name"].as_str().ok_or_else(unknown)?;
            let value = metric["pods"]["target"]["averageValue"].as_str().and_then(quantity);
            Ok(Target::Average { metric: name.to_owned(), value: value.ok_or_else(unknown)? })
        }
        _ => Err(unknown()),
    }
}

/// A quantity as Kubernetes writes them: `500m`, `256Mi`, `2500`.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 7] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
    ];
    let (digits, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1.0));
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Select, Size, Spec, Target, quantity};

    #[test]
    fn quantities_have_their_suffix() {
        for (text, value) in [
            ("500m", Some(0.5)),
            ("256Mi", Some(268_435_456.0)),
            ("2500", Some(2500.0)),
            ("x", None),
        ] {
            assert_eq!(quantity(text), value, "{text}");
        }
    }

    #[test]
    fn a_manifest_is_read_and_what_is_not_known_is_refused() {
        let rules = json!({ "stabilizationWindowSeconds": 300,
            "policies": [{ "type": "Percent", "value": 10, "periodSeconds": 60 }] });
        let cpu = json!({ "type": "Resource", "resource": { "name": "cpu",
            "target": { "type": "Utilization", "averageUtilization": 70 } } });
        let manifest = |metric| {
            json!({ "spec": { "scaleTargetRef": {}, "minReplicas": 3, "maxReplicas": 20,
                "metrics": [metric], "behavior": { "scaleUp": rules, "scaleDown": rules } } })
        };
        let requests = json!({ "cpu": "500m" });
        let spec = Spec::of(&manifest(cpu.clone()), &requests).expect("it is complete").faster(10);
        let resource = "cpu".to_owned();
        assert_eq!(spec.targets, [Target::Utilization { resource, percent: 70, request: 0.5 }]);
        let down = &spec.behavior.down;
        assert_eq!((down.window.as_secs(), down.select), (30, Select::Max));
        assert_eq!(
            (down.policies[0].size, down.policies[0].period.as_secs()),
            (Size::Percent(10), 6)
        );

        assert!(Spec::of(&manifest(json!({ "type": "Object" })), &requests).is_err());
        assert!(Spec::of(&manifest(cpu), &json!({})).is_err(), "nothing is requested");
    }
}
