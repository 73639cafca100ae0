//! Replicas that come and go, as processes behind nginx.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

use super::hpa::{Moment, Pod, Sample, Samples, State};
use super::rate::Range;
use crate::api::{Api, Shoal};
use crate::bench::metrics::Counters;
use crate::bench::proc::{Memory, cpu_time};
use crate::error::{Error, Result};
use crate::nginx::Nginx;
use crate::ports::Port;
use crate::process::Signal;
use crate::site::Site;

/// What whoever watches asks for: with a clock that is faster, much more often than it would.
const OPS_ROUTES: [&str; 2] = ["route=\"/metrics\"", "route=\"/health"];

/// All replicas that were ever started and have not ended.
#[derive(Debug)]
pub(super) struct Fleet {
    site: Site,
    shoal: Shoal,
    nginx: Nginx,
    replicas: Vec<Replica>,
    leaving: Vec<Api>,
    started: usize,
}

/// One that is wanted.
#[derive(Debug)]
struct Replica {
    name: String,
    started: Moment,
    stage: Stage,
    requests: Range,
    /// The last two looks at the time that it has used a core for.
    cpu: [Option<(Moment, Duration)>; 2],
    memory: Option<(Moment, u64)>,
}

#[derive(Debug)]
enum Stage {
    Starting(Receiver<Result<Api>>),
    Ready { api: Box<Api>, since: Moment },
}

impl Fleet {
    /// With `count` replicas, all of them ready.
    pub(super) fn start(site: &Site, shoal: &Shoal, count: u32) -> Result<Self> {
        let first = Api::start(site, "api-1", Port::free()?, shoal)?;
        let nginx = Nginx::start(site, "nginx", Port::free()?, &[address(&first)])?;
        let first =
            Replica::new("api-1", Stage::Ready { api: Box::new(first), since: Moment::ZERO });
        let mut fleet = Self {
            site: site.clone(),
            shoal: shoal.clone(),
            nginx,
            replicas: vec![first],
            leaving: Vec::new(),
            started: 1,
        };
        fleet.resize(count, Moment::ZERO)?;
        while fleet.ready() < count as usize {
            fleet.look(Moment::ZERO)?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(fleet)
    }

    /// The port of nginx.
    pub(super) fn port(&self) -> u16 {
        self.nginx.port()
    }

    pub(super) fn ready(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.api().is_some()).count()
    }

    /// Replicas that were told to end and have not.
    pub(super) fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// Starts or ends as many as it takes. Does not wait for them.
    pub(super) fn resize(&mut self, wanted: u32, now: Moment) -> Result<()> {
        while self.replicas.len() < wanted as usize {
            self.started += 1;
            let name = format!("api-{}", self.started);
            let (site, shoal, own) = (self.site.clone(), self.shoal.clone(), name.clone());
            let port = Port::free()?;
            let (ready, starting) = mpsc::channel();
            // Nobody hears of one that is not wanted any more: it is dropped there, and so stopped.
            thread::spawn(move || drop(ready.send(Api::start(&site, &own, port, &shoal))));
            let replica = Replica::new(&name, Stage::Starting(starting));
            self.replicas.push(Replica { started: now, ..replica });
        }
        let mut gone = Vec::new();
        while self.replicas.len() > wanted as usize {
            // As a ReplicaSet does: first one that is not ready, else the youngest.
            let at = self.replicas.iter().rposition(|replica| replica.api().is_none());
            let at = at.unwrap_or(self.replicas.len() - 1);
            match self.replicas.remove(at).stage {
                Stage::Ready { api, .. } => gone.push(*api),
                Stage::Starting(starting) => drop(starting),
            }
        }
        // The balancer learns of it as the replica does, not before: what is lost in between is what the
        // drain delay is for. There is no preStop here, which would only make it easier.
        for api in &mut gone {
            api.process().signal(Signal::TERM);
        }
        if !gone.is_empty() {
            self.leaving.extend(gone);
            self.balance()?;
        }
        Ok(())
    }

    /// Looks who has become ready, and who has ended, which has to be in good order.
    pub(super) fn look(&mut self, now: Moment) -> Result<()> {
        let mut is_changed = false;
        for replica in &mut self.replicas {
            is_changed |= replica.look(now)?;
        }
        if is_changed {
            self.balance()?;
        }
        let mut left = Vec::new();
        for mut api in self.leaving.drain(..) {
            match api.process().exit_status() {
                None => left.push(api),
                Some(status) if status.success() => {}
                Some(status) => {
                    return Err(Error::new(format!("a replica ended with {status}"))
                        .way_out(format!("its log is {}", api.process().log().display())));
                }
            }
        }
        self.leaving = left;
        Ok(())
    }

    fn balance(&mut self) -> Result<()> {
        let upstreams: Vec<_> =
            self.replicas.iter().filter_map(Replica::api).map(address).collect();
        self.nginx.set_upstreams(&upstreams)
    }

    /// As Prometheus does: asks each for its counters. One that does not answer is asked again next time.
    pub(super) fn scrape(&mut self, now: Moment, window: Duration) {
        for replica in &mut self.replicas {
            let counters = replica.api().and_then(|api| Counters::scrape(api.port()).ok());
            if let Some(counters) = counters {
                let mut series = counters.series("http_requests_total");
                // In Kubernetes those have a listener of their own (OPS_ADDR), and are not counted.
                series.retain(|name, _| !OPS_ROUTES.iter().any(|route| name.contains(route)));
                replica.requests.keep(now, series, window);
            }
        }
    }

    /// As the metrics server does every `interval`: looks what each has used of CPU and memory. CPU is left as it was
    /// where the last look is less than half of that ago: the kernel's ticks make a rate of it that is anything.
    pub(super) fn look_at_resources(&mut self, now: Moment, interval: Duration) {
        for replica in &mut self.replicas {
            if let Stage::Ready { api, .. } = &mut replica.stage {
                let pid = api.process().pid();
                if replica.cpu[1].is_none_or(|(last, _)| last + interval / 2 <= now) {
                    replica.cpu = [replica.cpu[1], cpu_time(pid).ok().map(|used| (now, used))];
                }
                replica.memory = Memory::of(pid).ok().map(|memory| (now, memory.resident));
            }
        }
    }

    pub(super) fn pods(&self) -> Vec<Pod> {
        let pod = |replica: &Replica| Pod {
            name: replica.name.clone(),
            started: replica.started,
            state: match replica.stage {
                Stage::Starting(_) => State::Unready(replica.started),
                Stage::Ready { since, .. } => State::Ready(since),
            },
        };
        self.replicas.iter().map(pod).collect()
    }

    /// Requests per second of each.
    pub(super) fn rates(&self, now: Moment, window: Duration) -> Samples {
        self.samples(|replica| {
            Some(Sample { value: replica.requests.rate(now, window)?, at: now, window })
        })
    }

    /// Cores that each has used between the last two looks.
    pub(super) fn cpu(&self) -> Samples {
        self.samples(|replica| {
            let [Some((from, before)), Some((at, after))] = replica.cpu else {
                return None;
            };
            let window = at.saturating_sub(from);
            let value = after.saturating_sub(before).as_secs_f64() / window.as_secs_f64();
            Some(Sample { value, at, window }).filter(|sample| sample.value.is_finite())
        })
    }

    /// Bytes that each holds.
    pub(super) fn memory(&self) -> Samples {
        self.samples(|replica| {
            let (at, bytes) = replica.memory?;
            Some(Sample { value: bytes as f64, at, window: Duration::ZERO })
        })
    }

    fn samples(&self, sample: impl Fn(&Replica) -> Option<Sample>) -> Samples {
        self.replicas
            .iter()
            .filter_map(|replica| Some((replica.name.clone(), sample(replica)?)))
            .collect()
    }
}

impl Replica {
    fn new(name: &str, stage: Stage) -> Self {
        Self {
            name: name.to_owned(),
            started: Moment::ZERO,
            stage,
            requests: Range::default(),
            cpu: [None; 2],
            memory: None,
        }
    }

    /// Only if it is ready.
    fn api(&self) -> Option<&Api> {
        match &self.stage {
            Stage::Ready { api, .. } => Some(api),
            Stage::Starting(_) => None,
        }
    }

    /// Whether it has become ready just now.
    fn look(&mut self, now: Moment) -> Result<bool> {
        let Stage::Starting(starting) = &self.stage else {
            return Ok(false);
        };
        match starting.try_recv() {
            Ok(api) => self.stage = Stage::Ready { api: Box::new(api?), since: now },
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => {
                return Err(Error::new("the thread that started a replica panicked"));
            }
        }
        Ok(true)
    }
}

fn address(api: &Api) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, api.port()))
}
