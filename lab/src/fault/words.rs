//! The words of `cargo lab fault`: which targets there are, what each takes, and what was asked for.

use std::fmt;
use std::time::Duration;

use super::Fault;
use crate::error::{Error, Result};

/// Something to break, by its name in `cargo lab status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What a target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A process that is reached through a proxy, or whose PgBouncer is.
    Proxied,
    /// A Postgres that replays what another writes; its PgBouncer is reached through a proxy.
    Replica,
    /// A process.
    Plain,
}

/// One line that somebody typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Tell what there is.
    List,
    /// Heal everything.
    ClearAll,
    /// Break or heal one target.
    On(Target, Wish),
}

/// What a target is to suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Clear,
    Way(Fault),
    Reset,
    Lag(Duration),
    Pause,
    Kill,
    Stop,
    Continue,
    Terminate,
    Restart,
}

const OF_A_PROCESS: [&str; 6] = ["kill", "stop", "cont", "term", "restart", "clear"];
const OF_A_WAY: [&str; 5] = ["down", "latency TIME", "drop", "drop-replies", "reset"];
const OF_A_REPLICA: [&str; 2] = ["lag TIME", "pause"];

impl Kind {
    /// The faults it takes, as one types them.
    pub(crate) fn faults(self) -> Vec<&'static str> {
        let of_a_replica: &[&str] = if self == Self::Replica { &OF_A_REPLICA } else { &[] };
        let of_a_way: &[&str] = if self == Self::Plain { &[] } else { &OF_A_WAY };
        [of_a_replica, of_a_way, &OF_A_PROCESS].concat()
    }
}

/// Understands a line; `targets` are those that run.
pub(crate) fn parse(words: &[String], targets: &[Target]) -> Result<Order> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (name, rest) = match &words[..] {
        [] => return Ok(Order::List),
        ["clear"] => return Ok(Order::ClearAll),
        [name, rest @ ..] => (*name, rest),
    };
    let target = find(name, targets)?;
    let [fault, time @ ..] = rest else {
        return Err(Error::new(format!("what shall {} suffer?", target.name))
            .way_out(format!("it takes: {}", target.kind.faults().join(", "))));
    };
    let wish = wish(fault, time, target)?;
    Ok(Order::On(target.clone(), wish))
}

/// By its name in `cargo lab status`, or by the short one.
fn find<'a>(name: &str, targets: &'a [Target]) -> Result<&'a Target> {
    let full = match name {
        "pgbouncer" => "pgbouncer-primary".to_owned(),
        _ => name
            .strip_prefix("pg-")
            .map_or_else(|| name.to_owned(), |rest| format!("postgres-{rest}")),
    };
    targets.iter().find(|target| target.name == full).ok_or_else(|| {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        Error::new(format!("there is no target `{name}`"))
            .way_out(format!("there are: {}", names.join(", ")))
    })
}

fn wish(fault: &str, time: &[&str], target: &Target) -> Result<Wish> {
    let faults = target.kind.faults();
    let Some(known) = faults.iter().find(|known| known.split(' ').next() == Some(fault)) else {
        return Err(Error::new(format!("{} takes no fault `{fault}`", target.name))
            .way_out(format!("it takes: {}", faults.join(", "))));
    };
    let example = || format!("for example `cargo lab fault {} {fault} 2s`", target.name);
    let duration = match (known.contains(' '), time) {
        (true, [time]) => parse_duration(time)?,
        (true, _) => return Err(Error::new(format!("{fault} needs a time")).way_out(example())),
        (false, []) => Duration::ZERO,
        (false, _) => {
            return Err(Error::new(format!("{fault} takes nothing more"))
                .way_out(format!("it lasts until `cargo lab fault {} clear`", target.name)));
        }
    };
    Ok(match fault {
        "lag" => Wish::Lag(duration),
        "pause" => Wish::Pause,
        "down" => Wish::Way(Fault::Down),
        "latency" => Wish::Way(Fault::Latency(duration)),
        "drop" => Wish::Way(Fault::Drop),
        "drop-replies" => Wish::Way(Fault::DropReplies),
        "reset" => Wish::Reset,
        "kill" => Wish::Kill,
        "stop" => Wish::Stop,
        "cont" => Wish::Continue,
        "term" => Wish::Terminate,
        "restart" => Wish::Restart,
        _ => Wish::Clear,
    })
}

/// `250ms`, `2s`, `1m`; at most an hour, so that no sum of times can overflow.
fn parse_duration(text: &str) -> Result<Duration> {
    const UNITS: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    const MOST: u64 = 3_600_000;
    let milliseconds = UNITS.iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*factor)
    });
    match milliseconds {
        Some(milliseconds) if (1..=MOST).contains(&milliseconds) => {
            Ok(Duration::from_millis(milliseconds))
        }
        Some(_) => Err(Error::new(format!("`{text}` is not between 1ms and 60m"))),
        None => Err(Error::new(format!("`{text}` is no time"))
            .way_out("a number with its unit, such as 250ms, 2s or 1m")),
    }
}

/// As one types it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("fine"),
            Self::Down => f.write_str("down"),
            Self::Latency(time) => write!(f, "latency {time:?}"),
            Self::Drop => f.write_str("drop"),
            Self::DropReplies => f.write_str("drop-replies"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Kind, Order, Target, Wish, parse};
    use crate::fault::Fault;

    fn targets() -> Vec<Target> {
        let target = |name: &str, kind| Target { name: name.to_owned(), kind };
        vec![
            target("postgres-replica-1", Kind::Replica),
            target("pgbouncer-primary", Kind::Proxied),
            target("redis", Kind::Proxied),
            target("api-2", Kind::Plain),
        ]
    }

    fn order(line: &str) -> Result<Order, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, &targets()).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn asks(line: &str, target: usize, wish: Wish) {
        assert_eq!(order(line), Ok(Order::On(targets().remove(target), wish)));
    }

    #[test]
    fn what_is_typed_is_understood() {
        assert_eq!(order(""), Ok(Order::List));
        assert_eq!(order("clear"), Ok(Order::ClearAll));
        asks("redis down", 2, Wish::Way(Fault::Down));
        asks("redis latency 250ms", 2, Wish::Way(Fault::Latency(Duration::from_millis(250))));
        asks("redis clear", 2, Wish::Clear);
        asks("pg-replica-1 lag 10s", 0, Wish::Lag(Duration::from_secs(10)));
        asks("postgres-replica-1 pause", 0, Wish::Pause);
        asks("pgbouncer restart", 1, Wish::Restart);
        asks("api-2 kill", 3, Wish::Kill);
    }

    #[test]
    fn every_fault_that_is_offered_is_understood() {
        for target in targets() {
            for fault in target.kind.faults() {
                let line = format!("{} {}", target.name, fault.replace("TIME", "1m"));
                let order = order(&line);
                assert!(matches!(order, Ok(Order::On(..))), "{line}: {order:?}");
                assert_eq!(
                    line.ends_with(" clear"),
                    matches!(order, Ok(Order::On(_, Wish::Clear)))
                );
            }
        }
    }

    #[test]
    fn a_mistake_is_told_with_the_way_out() {
        for (line, parts) in [
            ("rediss down", &["rediss", "redis, api-2"] as &[&str]),
            ("redis", &["redis", "latency TIME"]),
            ("redis lag 1s", &["no fault `lag`", "drop-replies"]),
            ("api-2 down", &["no fault `down`", "kill, stop, cont"]),
            ("redis latency", &["needs a time", "cargo lab fault redis latency 2s"]),
            ("redis latency soon", &["`soon`", "250ms"]),
            ("redis latency 0s", &["between"]),
            ("redis latency 2h", &["`2h`", "unit"]),
            ("redis latency 99999999999999999999s", &["no time"]),
            ("redis latency 9999999999999999999s", &["no time"]),
            ("redis drop 2s", &["nothing more", "redis clear"]),
        ] {
            let message = order(line).expect_err(line);
            for part in parts {
                assert!(message.contains(part), "{line}: {part:?} is missing in: {message}");
            }
        }
    }
}
