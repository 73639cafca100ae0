//! Looks at everything at once, and has it judged.

use std::{future::Future, time::Duration};

use futures::future::join_all;
use secrecy::ExposeSecret;
use url::Url;

use super::{
    Subject,
    bucket::{self, Bucket},
    clock::{self, Look},
    databases::Databases,
    finding::{Finding, Rule, Verdict, judge},
    redis::{self, Place, Redis},
    replies,
    settings::{self, Settings},
    timeouts::{self, Timings},
};
use crate::platform::{
    breaker::Breakers, mail::Mailer, metrics::Metrics, storage::Storage, tokens,
};

pub(super) const REACHABLE_POSTGRES: Rule<Result<(), String>> = Rule {
    id: "postgres.reachable",
    why: "everything that is true is in the primary: without it nothing can be written",
    judge: reachable,
};
pub(super) const REACHABLE_REPLICA: Rule<Result<(), String>> = Rule {
    id: "replica.reachable",
    why: "without it the others, or the primary, have its reads as well",
    judge: reachable,
};
const REACHABLE_REDIS: Rule<Result<(), String>> = Rule {
    id: "redis.reachable",
    why: "limits and sessions are shared by it: without it each replica grants a share of its own",
    judge: reachable,
};
const REACHABLE_S3: Rule<Result<(), String>> = Rule {
    id: "s3.reachable",
    why: "files are kept there, and nowhere in a process",
    judge: reachable,
};
/// Of services of others, which may be left out.
const REACHABLE_PARTNER: Rule<Option<Result<(), String>>> = Rule {
    id: "partners.reachable",
    why: "what needs it waits as jobs while it is away: orders for their payment, mail for its \
          server",
    judge: |seen| match seen {
        Some(reached) => reachable(reached),
        None => {
            Verdict::Skipped("is not configured".to_owned(), "set it, if it is wanted".to_owned())
        }
    },
};

fn reachable(seen: &Result<(), String>) -> Verdict {
    match seen {
        Ok(()) => Verdict::Passed("answers".to_owned()),
        Err(why) => Verdict::Failed(
            why.clone(),
            "look whether it runs, where its URL leads, and whether it lets this one in".to_owned(),
        ),
    }
}

/// Bounds a look; one that takes longer has failed.
pub(super) async fn within<T>(
    patience: Duration,
    look: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(patience, look)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {}", timeouts::shown(patience))))
}

/// Looks at everything that is configured, all at the same time, and judges. Takes hardly longer
/// than `patience`, but for the steps of a bucket or of a lag, each of which may take that long.
///
/// # Errors
/// Nothing could be looked at: this machine has no usable root certificates.
pub async fn audit(subject: &Subject) -> anyhow::Result<Vec<Finding>> {
    let (metrics, patience) = (Metrics::new()?, subject.patience);
    let breakers = Breakers::new(&metrics)?;
    let storage = Storage::new(&subject.storage, breakers.named("s3"), &metrics).await?;
    let mail = subject.mail.as_ref().map(|mail| Mailer::new(mail, breakers.named("smtp")));
    let mail = mail.transpose()?;
    let place = if subject.redis.urls.len() > 1 { Place::Node } else { Place::Alone };

    let caches =
        join_all(subject.redis.urls.iter().map(|url| within(patience, redis::look(url, place))));
    // Each step has a bound of its own, so that the object is deleted in any case.
    let bucket = async {
        if !storage.ping(patience).await {
            return Err("the bucket cannot be reached, or is not to be seen".to_owned());
        }
        Ok(bucket::look(&storage, patience).await)
    };
    let payments = async {
        let url = subject.payments.as_ref().map(|payments| payments.url.clone())?;
        Some(replies::status(&url, patience).await.map(drop))
    };
    let mail = async {
        let mail = mail.as_ref()?;
        Some(within(patience, mail.ping()).await)
    };
    let replicas = join_all(subject.replicas.iter().map(|url| replies::health(url, patience)));
    let (databases, caches, bucket, payments, mail, replicas) = tokio::join!(
        Box::pin(Databases::look(subject)),
        Box::pin(caches),
        Box::pin(bucket),
        Box::pin(payments),
        Box::pin(mail),
        Box::pin(replicas)
    );

    let timings = timings(subject, &databases);
    let mut found = databases.judge(subject);
    for (number, seen) in (1..).zip(&caches) {
        let name = match place {
            Place::Node => format!("node-{number}"),
            Place::Alone => String::new(),
        };
        found.extend(of_redis(&name, seen));
    }
    found.extend(of_bucket(&bucket));
    found.push(REACHABLE_PARTNER.apply("payments", &payments));
    found.push(REACHABLE_PARTNER.apply("mail", &mail));
    found.extend(judge(&timeouts::RULES, "", Ok(&timings)));
    for (role, ending) in timings.endings(&subject.deployment) {
        found.extend(judge(&timeouts::ENDING, role, Ok(&ending)));
    }
    found.extend(judge(&settings::RULES, "", Ok(&of_environment(subject))));
    if replicas.is_empty() {
        found.push(replies::UNASKED.apply("", &()));
    }
    for (url, health) in subject.replicas.iter().zip(&replicas) {
        let authority = url.authority().rsplit('@').next().unwrap_or_default();
        found.extend(judge(&replies::HEALTH, authority, Ok(health)));
    }
    for (role, probes) in replies::described(&subject.deployment) {
        found.extend(judge(&replies::PROBES, role, Ok(probes)));
    }
    Ok(found)
}

fn of_redis(name: &str, seen: &Result<(Option<Redis>, Look), String>) -> Vec<Finding> {
    let mut found =
        vec![REACHABLE_REDIS.apply(name, &seen.as_ref().map(drop).map_err(Clone::clone))];
    let clocks = if name.is_empty() { "redis".to_owned() } else { format!("redis {name}") };
    let why = "it does not answer";
    let (server, clock) = match seen {
        Ok((Some(server), clock)) => (Ok(server), Ok(clock)),
        Ok((None, clock)) => (Err("it tells nothing of itself: let this user run INFO"), Ok(clock)),
        Err(_) => (Err(why), Err(why)),
    };
    found.extend(judge(&redis::RULES, name, server));
    found.extend(judge(&clock::RULES, &clocks, clock));
    found
}

fn of_bucket(seen: &Result<Bucket, String>) -> Vec<Finding> {
    let mut found = vec![REACHABLE_S3.apply("", &seen.as_ref().map(drop).map_err(Clone::clone))];
    found.extend(judge(
        &bucket::RULES,
        "",
        seen.as_ref().map_err(|_| "the bucket does not answer"),
    ));
    found
}

fn timings(subject: &Subject, databases: &Databases) -> Timings {
    Timings {
        request: subject.layers.request_timeout,
        body: subject.layers.body_timeout,
        acquire: subject.database.acquire_timeout,
        look: subject.database.look_timeout,
        redis: subject.redis.timeout,
        s3: subject.storage.timeout,
        lease: subject.jobs.lease,
        drain_delay: subject.drain_delay,
        drain_cap: subject.drain_cap,
        role: databases.role(),
        query_wait: databases.query_wait(),
        proxy: subject.deployment.proxy,
    }
}

fn of_environment(subject: &Subject) -> Settings {
    Settings {
        trusted_proxies: subject.trusted_proxies.clone(),
        has_proxy: subject.deployment.proxy.is_some(),
        keys: tokens::key_ids(&subject.tokens),
        pem_blocks: subject.tokens.private_keys.expose_secret().matches("-----BEGIN").count(),
        token_lifetime: subject.tokens.lifetime,
        pool_size: subject.database.pool_size,
        cache_loads: subject.cache.loads,
        webhooks_reach_everything: subject.webhooks_reach_everything,
        local: local(subject),
        is_spread: subject.deployment.is_described,
    }
}

/// The variables that lead to stores on this machine.
fn local(subject: &Subject) -> Vec<&'static str> {
    let database = &subject.database;
    let postgres = std::iter::once(&database.primary_url).chain(&database.replica_urls);
    let is_here = |host: Option<&str>| {
        host.is_some_and(|host| matches!(host, "localhost" | "[::1]") || host.starts_with("127."))
    };
    let by_url = |url: &str| is_here(Url::parse(url).ok().as_ref().and_then(Url::host_str));
    let stores = [
        ("DATABASE_URL", postgres.clone().take(1).any(|url| by_url(url.expose_secret()))),
        ("DATABASE_REPLICA_URLS", postgres.skip(1).any(|url| by_url(url.expose_secret()))),
        ("REDIS_URL", subject.redis.urls.iter().any(|url| by_url(url.expose_secret()))),
        ("S3_ENDPOINT", subject.storage.endpoint.as_deref().is_some_and(by_url)),
    ];
    stores.into_iter().filter(|(_, is_here)| *is_here).map(|(name, _)| name).collect()
}
