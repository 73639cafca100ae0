//! How a process makes itself known to the others.

use std::time::Duration;

use url::Url;

use super::{HOUR_MS, partners::http_url};
use crate::platform::{
    env::{Env, list, millis, secret, text},
    fleet, remote_api,
};

/// An agent is near. Below what leaving the fleet may take.
const AGENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of its answers: a kilobyte for each process that it lists.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

pub(super) fn declare_fleet(env: &mut Env<'_>) -> Option<fleet::Config> {
    let lease = env.or_default(
        "SHOAL_FLEET_LEASE_MS",
        "15000",
        "a process that was not heard of for this long is no longer listed as one of the fleet",
        millis(500..=HOUR_MS),
    );
    let host = env.optional(
        "SHOAL_ADVERTISE_HOST",
        "the name or IP address at which others reach this process; otherwise HOST, or the \
         machine's own name where that is 0.0.0.0",
        host,
    );
    let consul = declare_consul(env);
    Some(fleet::Config { lease: lease?, host: host?, consul: consul? })
}

fn declare_consul(env: &mut Env<'_>) -> Option<Option<fleet::ConsulConfig>> {
    let url = env.optional(
        "CONSUL_HTTP_ADDR",
        "the Consul agent to register with: host:port, or a URL; without it Consul is not used",
        agent_url,
    );
    let key = env.optional("CONSUL_HTTP_TOKEN", "an ACL token for the Consul agent", secret);
    let service = env.or_default(
        "SHOAL_CONSUL_SERVICE",
        "shoal",
        "what replicas are registered with Consul as; workers are this with -worker behind it",
        service_name,
    );
    let tags = env.or_default(
        "SHOAL_CONSUL_TAGS",
        "",
        "tags (comma-separated) of the registration with Consul",
        list(text),
    );
    let (url, key, service, tags) = (url?, key?, service?, tags?);
    Some(url.map(|url| {
        let (timeout, longest_answer) = (AGENT_TIMEOUT, LONGEST_ANSWER);
        let agent = remote_api::Config { url, key, timeout, longest_answer };
        fleet::ConsulConfig { agent, service, tags }
    }))
}

/// As Consul's own programs take it: the scheme may be left out.
fn agent_url(value: &str) -> Result<Url, String> {
    let url =
        if value.contains("://") { http_url(value) } else { http_url(&format!("http://{value}")) };
    url.map_err(|_| format!("`{value}` is not of the form host:port, or http(s)://host:port"))
}

/// A label of DNS, by which Consul answers for it.
fn service_name(value: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    // With `-worker` behind it no longer than a label may be.
    if (1..=56).contains(&value.len()) && value.bytes().all(is_part) {
        Ok(value.to_owned())
    } else {
        Err(format!("`{value}` is not a name of up to 56 ASCII letters, digits and `-`"))
    }
}

/// Without brackets, should it be an IPv6 address.
fn host(value: &str) -> Result<String, String> {
    let is_address = value.parse::<std::net::IpAddr>().is_ok();
    if is_address || (!value.contains(':') && url::Host::parse(value).is_ok()) {
        Ok(value.to_owned())
    } else {
        Err(format!("`{value}` is neither the name of a host nor an IP address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_no_port_and_no_scheme() {
        for good in ["10.0.0.1", "2001:db8::1", "api-1", "api-1.example"] {
            assert_eq!(host(good).unwrap(), good);
        }
        for bad in ["10.0.0.1:3000", "http://api-1", "api 1", "a/b"] {
            assert!(host(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn an_agent_is_named_as_consul_does() {
        for (given, url) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500/"),
            ("consul:8500", "http://consul:8500/"),
            ("https://consul.example", "https://consul.example/"),
        ] {
            assert_eq!(agent_url(given).unwrap().as_str(), url);
        }
        for bad in ["unix:///consul.sock", "ftp://consul:8500", "http://", "consul:port"] {
            assert!(agent_url(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn a_service_has_a_name_that_dns_takes() {
        assert_eq!(service_name("shop-1").unwrap(), "shop-1");
        for bad in ["", "shop_1", "shop.1", &"a".repeat(57)] {
            assert!(service_name(bad).is_err(), "{bad}");
        }
    }
}
