//! What the environment says, and nobody has to be asked about.

use std::{collections::HashSet, time::Duration};

use ipnet::IpNet;

use super::finding::{Rule, Verdict, hold};

/// Keys that were published with their private halves, by their thumbprints: those of RFC 8037,
/// appendix A, and of RFC 8410, section 10.3.
const PUBLISHED: [&str; 2] =
    ["kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "3YZxBJ12jO3n_mXt_q-j_Z-TFP1vt-NiI3OCf-fEnHQ"];

/// A token cannot be taken back before its end other than with its session or its key, and a
/// rotation of keys takes as long.
const LONGEST_TOKEN: Duration = Duration::from_secs(60 * 60);

/// The widest networks that one's own proxies can reasonably be in: `10.0.0.0/8`, and a whole site
/// of IPv6.
const WIDEST: (u8, u8) = (8, 32);

pub(super) struct Settings {
    pub(super) trusted_proxies: Vec<IpNet>,
    /// Whether it is known that there is a proxy.
    pub(super) has_proxy: bool,
    /// The id of each key, or what is wrong with it.
    pub(super) keys: Vec<Result<String, String>>,
    /// How many blocks of PEM there are, whatever is in them.
    pub(super) pem_blocks: usize,
    pub(super) token_lifetime: Duration,
    pub(super) pool_size: usize,
    pub(super) cache_loads: usize,
    pub(super) webhooks_reach_everything: bool,
    /// What keeps state on this very machine, by the variable that leads there.
    pub(super) local: Vec<&'static str>,
    /// Whether the replicas are spread by an orchestrator.
    pub(super) is_spread: bool,
}

pub(super) const RULES: [Rule<Settings>; 8] = [
    Rule {
        id: "drivers.shared",
        why: "replicas do not know each other: what one of them keeps for itself, the others miss",
        judge: |seen| {
            if seen.local.is_empty() {
                return Verdict::Passed("every store is reached over the network".to_owned());
            }
            let told = format!("on this machine: {}", seen.local.join(", "));
            if seen.is_spread {
                let mend = "point them at servers that all replicas reach";
                return Verdict::Failed(told, mend.to_owned());
            }
            Verdict::Noted(format!("{told}; the replicas have to be on it, too"))
        },
    },
    Rule {
        id: "proxy.trusted",
        why: "without it all clients behind the proxy count as one address; trusted too widely, \
              anybody chooses his own, past every limit",
        judge: trusted,
    },
    Rule {
        id: "keys.valid",
        why: "a key that cannot be used keeps a replica from starting; a block that is passed \
              over verifies nothing",
        judge: valid,
    },
    Rule {
        id: "keys.unique",
        why: "a key is found by its id: the second of the same name verifies nothing",
        judge: |seen| {
            let ids: Vec<&String> = seen.keys.iter().flatten().collect();
            let different: HashSet<_> = ids.iter().collect();
            hold(
                different.len() == ids.len(),
                format!("{} ids, {} of them different", ids.len(), different.len()),
                "take the repetition out of JWT_PRIVATE_KEYS",
            )
        },
    },
    Rule {
        id: "keys.own",
        why: "who has the private key makes tokens for whomever he likes",
        judge: |seen| {
            let is_published = |id: &&String| PUBLISHED.contains(&id.as_str());
            match seen.keys.iter().flatten().find(is_published) {
                Some(id) => Verdict::Failed(
                    format!("{id} was published"),
                    "make one's own: `shoal keys generate`".to_owned(),
                ),
                None => Verdict::Passed("none of those that were published".to_owned()),
            }
        },
    },
    Rule {
        id: "keys.rotation",
        why: "a key can be taken out once no token of it is good any more",
        judge: |seen| {
            let told = match seen.keys.len() {
                0 | 1 => "the next key goes behind the one that signs".to_owned(),
                keys => format!("the first of {keys} signs, all verify"),
            };
            let secs = seen.token_lifetime.as_secs();
            hold(
                seen.token_lifetime <= LONGEST_TOKEN,
                format!("{told}; tokens are good for {secs} s"),
                format!("lower SHOAL_ACCESS_TOKEN_SECS to {} or less", LONGEST_TOKEN.as_secs()),
            )
        },
    },
    Rule {
        id: "connections.cache_loads",
        why: "misses of the caches must leave connections to those who were not asking for it",
        judge: |seen| {
            let (loads, size) = (seen.cache_loads, seen.pool_size);
            let told = format!("SHOAL_CACHE_LOADS {loads}, SHOAL_DB_POOL_SIZE {size}");
            hold(loads < size, told, "lower SHOAL_CACHE_LOADS below SHOAL_DB_POOL_SIZE")
        },
    },
    Rule {
        id: "webhooks.reach",
        why: "a webhook's address is chosen by users: within one's own network it reaches what \
              they cannot",
        judge: |seen| {
            if seen.webhooks_reach_everything {
                let told = "SHOAL_WEBHOOK_ALLOW_INSECURE is set: for development only";
                return Verdict::Noted(told.to_owned());
            }
            Verdict::Passed("the internet alone, by HTTPS".to_owned())
        },
    },
];

fn trusted(seen: &Settings) -> Verdict {
    let networks: Vec<String> = seen.trusted_proxies.iter().map(IpNet::to_string).collect();
    let is_wide = |network: &&IpNet| match network {
        IpNet::V4(network) => network.prefix_len() < WIDEST.0,
        IpNet::V6(network) => network.prefix_len() < WIDEST.1,
    };
    if let Some(wide) = seen.trusted_proxies.iter().find(is_wide) {
        return Verdict::Failed(
            format!("{wide} is trusted"),
            "name the networks of the proxies alone in TRUSTED_PROXIES".to_owned(),
        );
    }
    match (networks.is_empty(), seen.has_proxy) {
        (false, _) => Verdict::Passed(networks.join(", ")),
        (true, true) => Verdict::Failed(
            "there is a proxy, and none is trusted".to_owned(),
            "name its network in TRUSTED_PROXIES".to_owned(),
        ),
        (true, false) => Verdict::Skipped(
            "none is trusted, and whether there is a proxy is not known".to_owned(),
            "say so by --proxy-timeout, --nginx or --manifest; set TRUSTED_PROXIES if there is"
                .to_owned(),
        ),
    }
}

fn valid(seen: &Settings) -> Verdict {
    const MEND: &str = "JWT_PRIVATE_KEYS takes PKCS#8 PEM of Ed25519: `shoal keys generate`";
    let usable = seen.keys.iter().flatten().count();
    if let Some((index, why)) =
        seen.keys.iter().enumerate().find_map(|(index, key)| Some((index, key.as_ref().err()?)))
    {
        return Verdict::Failed(format!("key {} is not usable: {why}", index + 1), MEND.to_owned());
    }
    let told = format!("{usable} of {} blocks are keys", seen.pem_blocks);
    hold(usable > 0 && usable == seen.pem_blocks, told, MEND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Settings {
        Settings {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            has_proxy: true,
            keys: vec![Ok("a".to_owned()), Ok("b".to_owned())],
            pem_blocks: 2,
            token_lifetime: Duration::from_secs(600),
            pool_size: 10,
            cache_loads: 6,
            webhooks_reach_everything: false,
            local: Vec::new(),
            is_spread: true,
        }
    }

    fn failed(change: impl FnOnce(&mut Settings)) -> Vec<&'static str> {
        let mut settings = sound();
        change(&mut settings);
        let fails = |rule: &&Rule<Settings>| matches!((rule.judge)(&settings), Verdict::Failed(..));
        RULES.iter().filter(fails).map(|rule| rule.id).collect()
    }

    #[test]
    fn each_fault_is_told_and_no_other() {
        let trusting = |network: &str| failed(|s| s.trusted_proxies[0] = network.parse().unwrap());
        assert_eq!(failed(|_| {}), [""; 0]);
        for network in ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/7"] {
            assert_eq!(trusting(network), ["proxy.trusted"], "{network}");
        }
        assert_eq!(trusting("2001:db8::/32"), [""; 0]);
        assert_eq!(failed(|s| s.trusted_proxies.clear()), ["proxy.trusted"]);
        let none = |s: &mut Settings| {
            s.trusted_proxies.clear();
            s.has_proxy = false;
        };
        assert_eq!(failed(none), [""; 0]);
        assert_eq!(failed(|s| s.keys[1] = Err("no".to_owned())), ["keys.valid"]);
        assert_eq!(failed(|s| s.pem_blocks = 3), ["keys.valid"]);
        assert_eq!(failed(|s| s.keys[1] = Ok("a".to_owned())), ["keys.unique"]);
        assert_eq!(failed(|s| s.keys[1] = Ok(PUBLISHED[0].to_owned())), ["keys.own"]);
        assert_eq!(failed(|s| s.token_lifetime = Duration::from_secs(3_601)), ["keys.rotation"]);
        assert_eq!(failed(|s| s.cache_loads = 10), ["connections.cache_loads"]);
        assert_eq!(failed(|s| s.local.push("REDIS_URL")), ["drivers.shared"]);
        let together = |s: &mut Settings| (s.local, s.is_spread) = (vec!["REDIS_URL"], false);
        assert_eq!(failed(together), [""; 0]);
    }
}
