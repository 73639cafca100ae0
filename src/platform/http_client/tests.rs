use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::HeaderValue;
use reqwest::dns::{Addrs, Name, Resolving};
use time::macros::datetime;

use super::*;

fn client(reach: Reach) -> HttpClient {
    let config = Config { reach, timeout: Duration::from_secs(1) };
    HttpClient::new(config, Arc::new(SystemResolver)).unwrap()
}

#[test]
fn every_spelling_of_an_address_is_one() {
    let client = client(Reach::Internet);
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
        "127。0。0。1",
        "0",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "169.254.169.254",
        "2852039166",
        "100.64.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:0:0:1]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "[2001:0:7f00:1::]",
        "[fe80::1]",
    ] {
        let url = Url::parse(&format!("https://{host}/hook")).unwrap();
        assert_eq!(client.check(&url), Err(Refusal::NotGlobal), "{host} is {url}");
    }
    for (url, refusal) in [
        ("http://example.com/", Refusal::NotHttps),
        ("ftp://example.com/", Refusal::NotHttps),
        ("https://a@example.com/", Refusal::NotPlain),
        ("https://:b@example.com/", Refusal::NotPlain),
        ("https://example.com/#a", Refusal::NotPlain),
    ] {
        assert_eq!(client.check(&Url::parse(url).unwrap()), Err(refusal), "{url}");
    }
    for url in ["https://example.com:8443/a?b=c", "https://1.1.1.1/", "https://[2606:4700::1]/"] {
        assert_eq!(client.check(&Url::parse(url).unwrap()), Ok(()), "{url}");
    }
}

#[test]
fn development_reaches_everything_but_not_by_every_means() {
    let client = client(Reach::Everything);
    assert_eq!(client.check(&Url::parse("http://127.0.0.1:1/").unwrap()), Ok(()));
    let file = Url::parse("file:///etc/passwd").unwrap();
    assert_eq!(client.check(&file), Err(Refusal::NotHttps));
}

#[test]
fn a_wait_is_given_in_seconds_or_as_a_date() {
    let now = datetime!(2026-11-21 08:00:00 UTC);
    let parse = |value: &'static str| {
        let headers =
            HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(value))]);
        retry_after(&headers, now)
    };
    assert_eq!(parse("120"), Some(Duration::from_secs(120)));
    assert_eq!(parse("Sat, 21 Nov 2026 08:01:00 GMT"), Some(Duration::from_secs(60)));
    assert_eq!(parse("Fri, 20 Nov 2026 08:01:00 GMT"), Some(Duration::ZERO));
    assert_eq!(parse("soon"), None);
    assert_eq!(parse("-1"), None);
}

/// Answers one after the other, as a name does that rebinds.
struct Rebinding(Vec<Vec<SocketAddr>>, AtomicUsize);

impl Resolve for Rebinding {
    fn resolve(&self, _: Name) -> Resolving {
        let turn = self.1.fetch_add(1, Ordering::Relaxed);
        let answer = self.0[turn].clone();
        Box::pin(async move { Ok(Box::new(answer.into_iter()) as Addrs) })
    }
}

#[tokio::test]
async fn of_what_a_name_resolves_to_only_the_internet_is_left() {
    let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
    let good = address("1.1.1.1");
    let answers = vec![
        vec![good],
        vec![address("127.0.0.1")],
        vec![address("::1"), address("10.0.0.1"), good, address("::ffff:127.0.0.1")],
        vec![],
    ];
    let resolver = GlobalOnly(Arc::new(Rebinding(answers, AtomicUsize::new(0))));
    let resolve = async || {
        let found = resolver.resolve("rebinding.test".parse().unwrap()).await;
        found.map(Iterator::collect::<Vec<_>>).map_err(|error| *error.downcast().unwrap())
    };
    assert_eq!(resolve().await, Ok(vec![good]));
    assert_eq!(resolve().await, Err(Refusal::NotGlobal));
    assert_eq!(resolve().await, Ok(vec![good]));
    assert_eq!(resolve().await, Err(Refusal::NotGlobal));
}
