//! Where webhooks must not be sent: not one connection is made.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::json;
use shoal::platform::http_client::{Config, Error, HttpClient, Reach, Refusal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use url::Url;

use crate::{
    support::{Fleet, metric, until},
    webhooks::Webhook,
};

/// A server within the network. It counts those who connect.
struct Inside {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Inside {
    async fn start() -> Self {
        let connections = Arc::<AtomicUsize>::default();
        // Any address of the machine, in either family.
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap(),
        };
        let port = listener.local_addr().unwrap().port();
        let counted = connections.clone();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Says what it was told to say, whatever the name.
struct Says(Vec<IpAddr>);

impl Resolve for Says {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Vec<_> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) })
    }
}

async fn post(reach: Reach, resolver: Says, url: &str) -> Result<(), Error> {
    let config = Config { reach, timeout: Duration::from_secs(2) };
    let client = HttpClient::new(config, Arc::new(resolver)).unwrap();
    let url = Url::parse(url).unwrap();
    client.post(url, http::HeaderMap::new(), bytes::Bytes::new()).await.map(drop)
}

/// One's own machine and network, in every spelling.
const HOSTS: [&str; 24] = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.01",
    "0",
    "0.0.0.0",
    "localhost",
    "localhost.",
    "LocalHost",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "169.254.169.254",
    "[fd00:ec2::254]",
    "100.64.0.1",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_within_the_network_is_connected_to() {
    let inside = Inside::start().await;
    let port = inside.port;
    let nothing = || Says(Vec::new());
    for host in HOSTS {
        let refused = post(Reach::Internet, nothing(), &format!("https://{host}:{port}/")).await;
        let is_refused = matches!(refused, Err(Error::Refused(Refusal::NotGlobal)));
        assert!(is_refused, "{host}: {refused:?}");
    }
    // Names that look harmless, and lead inside.
    let url = format!("https://receiver.example:{port}/");
    for addresses in [
        &["127.0.0.1"] as &[&str],
        &["::1"],
        &["::ffff:127.0.0.1", "127.0.0.1"],
        &["10.0.0.1", "169.254.169.254", "100.64.0.1", "127.0.0.1", "::1"],
    ] {
        let says = Says(addresses.iter().map(|address| address.parse().unwrap()).collect());
        let refused = post(Reach::Internet, says, &url).await;
        assert!(matches!(refused, Err(Error::Refused(Refusal::NotGlobal))), "{refused:?}");
    }
    assert_eq!(inside.connections(), 0);

    // It is there: who may reach everything connects.
    let url = format!("http://127.0.0.1:{port}/");
    post(Reach::Everything, nothing(), &url).await.unwrap_err();
    until(async || inside.connections() > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_refuses_an_address_that_got_past_the_api() {
    let fleet = Fleet::of(1).with_workers().set("SHOAL_WEBHOOK_ALLOW_INSECURE", "false");
    let fleet = fleet.start().await;
    let admin = fleet.admin().await;
    let inside = Inside::start().await;
    let mut database = fleet.database.connect().await;
    let addresses =
        ["https://127.0.0.1", "https://localhost.localdomain", "http://127.0.0.1", "https://[::1]"];
    for address in addresses {
        let webhook = Webhook::create(&admin, "https://example.com/", &["user.*"]).await;
        sqlx::query("update webhook_endpoints set url = $2 where id = $1")
            .bind(webhook.id)
            .bind(format!("{address}:{}/", inside.port))
            .execute(&mut database)
            .await
            .unwrap();
        admin.post(&format!("{}/test", webhook.path()), &json!({})).await.expect(202);
        webhook.until_newest_is(&admin, "pending", 1).await;
    }
    let tried =
        |outcome| metric(&fleet, &format!("webhook_deliveries_total{{outcome=\"{outcome}\"}}"));
    // A name may not resolve at all.
    until(async || tried("refused") + tried("unreachable") >= 4.0).await;
    assert!(tried("refused") >= 3.0);
    assert_eq!(inside.connections(), 0);
}

/// More than the kernel keeps for a reader that does not read.
const MUCH: usize = 32 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_not_read_to_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let talking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // An answer that comes before the request is none.
        stream.read_buf(&mut Vec::with_capacity(1024)).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let (mut written, chunk) = (0, vec![b'a'; 64 * 1024]);
        while written < MUCH && stream.write_all(&chunk).await.is_ok() {
            written += chunk.len();
        }
        written
    });
    // The status has been told: that is enough.
    post(Reach::Everything, Says(Vec::new()), &url).await.unwrap();
    assert!(talking.await.unwrap() < MUCH);
}
