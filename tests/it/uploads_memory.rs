//! What large uploads take of a replica's memory, as the kernel counts it.

use std::{fs, time::Duration};

use bytes::Bytes;
use lab::{
    api::{Api, Shoal},
    ports::Port,
    site::Site,
};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use tokio::task::JoinSet;

use crate::support::{Client, Database, Reply, topology, unique};

const MIB: u64 = 1 << 20;

/// Of a client, while all the others of the machine are busy as well.
const PATIENCE: Duration = Duration::from_secs(120);

/// Kilobytes of a line of `/proc/{pid}/status`, in bytes.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Half of them come raw and half as forms, all at once and as fast as they can.
#[tokio::test]
async fn twenty_large_pictures_at_once_take_little_memory() {
    let database = Database::create().await;
    let site = Site::beside(topology(), &unique("memory")).unwrap();
    let shoal = Shoal::new(topology(), &database.name, env!("CARGO_BIN_EXE_shoal").as_ref())
        .with_signing_key(&site)
        .unwrap()
        .with_setting("SHOAL_REDIS_PREFIX", &database.name)
        .with_setting("SHOAL_S3_PREFIX", &database.name)
        .with_setting("SHOAL_S3_TIMEOUT_MS", "30000")
        .with_setting("SHOAL_REQUEST_TIMEOUT_MS", "60000")
        .with_setting("SHOAL_RATE_LIMIT_LOGIN_IP", "1000000/60")
        // The machine that runs all tests at once is slower than any that serves.
        .with_setting("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "15000")
        .with_setting("SHOAL_DB_LOOK_TIMEOUT_MS", "10000")
        .with_setting("SHOAL_REDIS_TIMEOUT_MS", "2000")
        .with_setting("SHOAL_CONCURRENCY_MIN", "1024");
    let start = |name| Api::start(&site, name, Port::free().unwrap(), &shoal).unwrap();
    // Passwords take memory as well: another replica hashes them.
    let (mut api, other) = (start("api"), start("other"));
    let address = |api: &Api| vec![([127, 0, 0, 1], api.port()).into()];
    let client = Client::new(address(&other));
    let picture = Bytes::from(lab::picture::png(1_860, 3));
    assert!((10_000_000..10 * MIB).contains(&(picture.len() as u64)), "{}", picture.len());

    let mut customers = Vec::new();
    for _ in 0..20 {
        customers.push(client.register().await.with_addresses(address(&api)));
    }
    // Whatever is made once is there.
    send(&customers[0], lab::picture::png(100, 1).into(), 0).await;
    let pid = api.process().pid();
    let before = memory(pid, "VmRSS:");
    // The peak of what was before does not count (proc(5), clear_refs).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();

    let mut uploads = JoinSet::new();
    for (number, customer) in customers.into_iter().enumerate() {
        let picture = picture.clone();
        uploads.spawn(async move { send(&customer, picture, number).await });
    }
    uploads.join_all().await;
    let peak = memory(pid, "VmHWM:");
    let grown = peak.saturating_sub(before);
    assert!(grown <= 64 * MIB, "{} MiB on top of {} MiB", grown / MIB, before / MIB);
    // Or nothing of this has been measured.
    assert!(grown > 5 * MIB, "{grown}");
}

/// Comes back as often as it is told to, when the machine is busy.
async fn send(customer: &Client, picture: Bytes, number: usize) {
    loop {
        let request = customer.request(Method::PUT, "/v1/users/me/avatar");
        let request = if number.is_multiple_of(2) {
            request.header("content-type", "image/png").body(picture.clone())
        } else {
            let part = Part::stream(picture.clone()).mime_str("image/png").unwrap();
            request.multipart(Form::new().part("file", part))
        };
        let reply = Reply::of(request.timeout(PATIENCE)).await;
        if reply.status != 503 {
            reply.expect(200);
            return;
        }
    }
}
