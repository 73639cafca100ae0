//! What running replicas, and services of others, answer.

use std::time::Duration;

use reqwest::{Client, redirect};
use url::Url;

use super::{
    deployment::{Deployment, Probes},
    finding::{Rule, Verdict, hold},
};

/// The routes that orchestrators and balancers ask.
const ROUTES: [&str; 3] = ["/health/live", "/health/startup", "/health/ready"];

/// A replica's answers, route by route: the status, or why there is none.
pub(super) struct Health(pub(super) Vec<(&'static str, Result<u16, String>)>);

/// Of a running replica.
pub(super) const HEALTH: [Rule<Health>; 1] = [Rule {
    id: "probes.answers",
    why: "a replica that does not answer its probes gets no requests, or is started anew",
    judge: |seen| {
        let told = seen.0.iter().map(|(route, answer)| match answer {
            Ok(status) => format!("{route} {status}"),
            Err(why) => format!("{route}: {why}"),
        });
        let told = told.collect::<Vec<_>>().join(", ");
        let is_well = seen.0.iter().all(|(_, answer)| *answer == Ok(200));
        hold(is_well, told, "its log says why; with OPS_ADDR the routes are on that address alone")
    },
}];

/// Where nobody said which replica to ask.
pub(super) const UNASKED: Rule<()> = Rule {
    id: HEALTH[0].id,
    why: HEALTH[0].why,
    judge: |()| {
        Verdict::Skipped(
            "no replica was named".to_owned(),
            "name one by --url: the address of its health routes".to_owned(),
        )
    },
};

/// Of the manifests.
pub(super) const PROBES: [Rule<Probes>; 1] = [Rule {
    id: "probes.paths",
    why: "liveness that asks for readiness restarts every replica that drains; none at all \
          leaves a frozen one where it is",
    judge: |seen| {
        let Probes { liveness, readiness, startup } = seen;
        let path = |probe: &Option<String>| probe.clone().unwrap_or_else(|| "none".to_owned());
        let told = format!(
            "liveness {}, readiness {}, startup {}",
            path(liveness),
            path(readiness),
            path(startup)
        );
        let is_live = |path: &String| matches!(path.as_str(), "/health" | "/health/live");
        let is_well = liveness.as_ref().is_some_and(is_live)
            && readiness.as_ref().is_some_and(|path| path.starts_with("/health/"))
            && startup.as_ref().is_some_and(|path| path == "/health/startup");
        hold(is_well, told, "ask /health/live, /health/ready and /health/startup")
    },
}];

/// The probes of the roles whose manifests were read.
pub(super) fn described(deployment: &Deployment) -> impl Iterator<Item = (&'static str, &Probes)> {
    let roles = [("api", &deployment.api), ("worker", &deployment.worker)];
    roles.into_iter().filter_map(|(role, workload)| Some((role, workload.probes.as_ref()?)))
}

/// Asks one replica for its health.
pub(super) async fn health(base: &Url, limit: Duration) -> Health {
    let ask = async |route: &'static str| {
        let mut url = base.clone();
        url.set_path(&format!("{}{route}", base.path().trim_end_matches('/')));
        (route, status(&url, limit).await)
    };
    let [live, startup, ready] = ROUTES;
    let (live, startup, ready) = tokio::join!(ask(live), ask(startup), ask(ready));
    Health(vec![live, startup, ready])
}

/// What a GET is answered with. Where it leads is not followed.
pub(super) async fn status(url: &Url, limit: Duration) -> Result<u16, String> {
    let client = Client::builder().timeout(limit).no_proxy().redirect(redirect::Policy::none());
    let client = client.build().map_err(|error| error.to_string())?;
    match client.get(url.clone()).send().await {
        Ok(response) => Ok(response.status().as_u16()),
        Err(error) if error.is_timeout() => Err("no answer in time".to_owned()),
        Err(error) => {
            let error = anyhow::Error::new(error.without_url());
            Err(error.chain().last().map(ToString::to_string).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liveness_asks_for_nothing_but_life() {
        let judge = |liveness: Option<&str>, readiness: &str| {
            let probes = Probes {
                liveness: liveness.map(str::to_owned),
                readiness: Some(readiness.to_owned()),
                startup: Some("/health/startup".to_owned()),
            };
            let verdict = (PROBES[0].judge)(&probes);
            matches!(verdict, Verdict::Passed(_))
        };
        assert!(judge(Some("/health/live"), "/health/ready"));
        assert!(judge(Some("/health"), "/health/live"));
        assert!(!judge(Some("/health/ready"), "/health/ready"));
        assert!(!judge(None, "/health/ready"));
        assert!(!judge(Some("/health/live"), "/"));
    }
}
