//! Webhooks: how many signed deliveries a worker makes to a receiver that answers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use super::http;
use super::stage::Stage;
use super::targets::{Bound, Target};
use crate::api::Worker;
use crate::error::{Error, Result};
use crate::in_thread::InThread;
use crate::interrupt;
use crate::ports::Port;
use crate::psql::Psql;
use crate::topology::DATABASE;

/// Events, each of which is one delivery.
const EVENTS: usize = 10_000;
/// Of which the first are not counted: connections are made, plans are found.
const WARM_UP: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(2);

const ADMIN: (&str, &str) = ("admin@bench.test", "lantern-keeper-41");

/// The worker has the measured core, the receiver is on the others.
pub(super) fn run(stage: &Stage<'_>) -> Result<Vec<Target>> {
    let (received, unsigned) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let receiver = receiver(received.clone(), unsigned.clone())?;
    subscribe(stage, receiver.port())?;
    let psql = Psql::new(stage.site, stage.topology.primary.port, DATABASE);
    let shoal = stage.shoal.clone().on_cores(&stage.cores.subject_list());
    let _worker = Worker::start(stage.site, "webhook-worker", Port::free()?, &shoal)?;
    write_events(&psql)?;

    wait(&received, WARM_UP)?;
    let (began, first) = (Instant::now(), received.load(Ordering::Relaxed));
    wait(&received, EVENTS)?;
    let rate = (EVENTS - first) as f64 / began.elapsed().as_secs_f64();
    if unsigned.load(Ordering::Relaxed) > 0 {
        return Err(Error::new("some deliveries came without a signature"));
    }
    Ok(vec![Target {
        what: "signed webhook deliveries per second of one worker on one core",
        bound: Bound::AtLeast(1_000.0),
        value: Some(rate),
        unit: "/s",
    }])
}

fn receiver(received: Arc<AtomicUsize>, unsigned: Arc<AtomicUsize>) -> Result<InThread> {
    let take = move |headers: HeaderMap| {
        let signature = headers.get("webhook-signature").and_then(|value| value.to_str().ok());
        if !signature.is_some_and(|signature| signature.starts_with("v1,")) {
            unsigned.fetch_add(1, Ordering::Relaxed);
        }
        received.fetch_add(1, Ordering::Relaxed);
        async { StatusCode::NO_CONTENT }
    };
    InThread::start(0, async move |listener| {
        // It ends with the thread.
        let _ = axum::serve(listener, Router::new().route("/hook", post(take))).await;
    })
}

fn subscribe(stage: &Stage<'_>, port: u16) -> Result<()> {
    let (email, password) = ADMIN;
    let create = ["admin", "create", "--email", email, "--name", "Admin"];
    stage.shoal.run(&create, &format!("{password}\n"), "make an administrator")?;
    let body = format!(r#"{{"email":"{email}","password":"{password}"}}"#);
    let answer = http::post(stage.api.port(), "/v1/auth/login", &body)?;
    let tokens: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let token = format!("Bearer {}", tokens["access_token"].as_str().unwrap_or_default());
    let body = format!(r#"{{"url":"http://127.0.0.1:{port}/hook","events":["order.shipped"]}}"#);
    let headers = [("Authorization", &*token)];
    let answer = http::post_with(stage.api.port(), "/v1/webhooks", &headers, &body)?;
    match answer.status {
        201 => Ok(()),
        status => Err(Error::new(format!(
            "cannot subscribe: the API answered {status}: {}",
            answer.text()
        ))),
    }
}

/// As if as many orders had been shipped at once.
fn write_events(psql: &Psql<'_>) -> Result<()> {
    let sql = format!(
        "with written as ( \
             insert into events (id, type, subject_id, sequence, customer_id, data) \
             select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint), 12, '0') \
                     || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid, \
                    'order.shipped', gen_random_uuid(), 1, gen_random_uuid(), '{{\"status\":\"shipped\"}}' \
             from generate_series(1, {EVENTS}) n returning id) \
         insert into outbox select id from written"
    );
    psql.run(&sql).map(drop)
}

fn wait(received: &AtomicUsize, count: usize) -> Result<()> {
    let began = Instant::now();
    while received.load(Ordering::Relaxed) < count {
        if interrupt::requested() {
            return Err(Error::interrupted());
        }
        if began.elapsed() > PATIENCE {
            let there = received.load(Ordering::Relaxed);
            return Err(Error::new(format!("only {there} of {count} deliveries arrived"))
                .way_out("the log of the worker may tell why"));
        }
        sleep(LOOK);
    }
    Ok(())
}
