//! The queries of Grafana's panels as rules of Prometheus, so that `promtool` can read them.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};

/// A rule file, in JSON, which is YAML too, with one rule per query.
pub(super) fn as_rules(dashboards: &[PathBuf]) -> Result<String> {
    let mut groups = Vec::new();
    for path in dashboards {
        let text = fs::read_to_string(path).cannot(|| format!("read {}", path.display()))?;
        let dashboard =
            serde_json::from_str(&text).cannot(|| format!("read {}", path.display()))?;
        let rules: Vec<Value> = queries(&dashboard).map(|query| rule(&query)).collect();
        if rules.is_empty() {
            return Err(Error::new(format!("{} asks for nothing", path.display())));
        }
        groups.push(
            json!({ "name": path.file_stem().map(|name| name.to_string_lossy()), "rules": rules }),
        );
    }
    Ok(json!({ "groups": groups }).to_string())
}

fn rule(query: &str) -> Value {
    json!({ "alert": "Panel", "expr": query, "labels": { "query": query } })
}

/// The queries, with Grafana's own variables filled in.
fn queries(dashboard: &Value) -> impl Iterator<Item = String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .filter_map(|target| target["expr"].as_str())
        .map(|query| query.replace("$__rate_interval", "1m").replace("$instance", ".*"))
}

#[cfg(test)]
mod tests {
    use super::queries;

    #[test]
    fn every_query_of_every_panel_is_found_and_filled_in() {
        let dashboard = serde_json::json!({ "panels": [
            { "type": "row" },
            { "targets": [{ "expr": "rate(a{instance=~\"$instance\"}[$__rate_interval])" }, { "expr": "b" }] },
        ] });
        let found: Vec<String> = queries(&dashboard).collect();
        assert_eq!(found, ["rate(a{instance=~\".*\"}[1m])", "b"]);
    }
}
