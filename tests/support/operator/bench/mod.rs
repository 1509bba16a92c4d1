//! What the operator costs: many fleets created at once, at rest, and deleted, with a real API server without nodes.
//! With [`BenchOptions::running`], their pods are simulated, with coordinators that respond.

mod metrics;
mod pods;
mod report;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
};
pub(super) use metrics::rounds;
pub use report::Report;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::{metrics::Calls, pods::StandIns};
use super::{ControlPlane, control_plane::OWNED};
use crate::{
    ports::Ports,
    processes::{self, Process},
};

/// The default number of fleets.
pub const FLEETS: usize = 1_000;
/// The default duration of the measurement at rest.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The number of objects of each fleet: seven for the coordinators, four for the identity of the members, three for
/// each of the two accounts for people, and a ServiceAccount and a Deployment for the pool.
pub const OBJECTS: usize = 19;
/// The largest number of fleets: each simulated coordinator has an address in a /16.
pub const MOST_FLEETS: usize = 10_000;
/// The number of fleets that are created or deleted concurrently.
const AT_ONCE: usize = 50;
/// The time after which the benchmark gives up on any phase.
const PHASE: Duration = Duration::from_secs(900);
/// The time without requests, except for the lease and watches, after which the operator counts as at rest.
const QUIET: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const NAMESPACE: &str = "bench";
/// The objects that exist in every namespace and belong to no fleet.
const EVERYWHERE: [(&str, &str); 2] = [("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")];

/// The options of the benchmark.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The number of fleets, created at once.
    pub fleets: usize,
    /// The duration of the measurement at rest.
    pub window: Duration,
    /// The operator's program.
    pub operator: PathBuf,
    /// Whether pods are simulated, with coordinators that respond.
    pub running: bool,
}

/// CPU time, memory and requests during a time at rest.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// The percentage of one core.
    pub core: f64,
    /// The resident memory at the end, in MiB.
    pub memory: f64,
    /// Requests, except for the lease and the start of watches.
    pub calls: Calls,
    /// The number of reconciles.
    pub rounds: u64,
}

struct Bench<'a> {
    options: &'a BenchOptions,
    client: Client,
    operator: Process,
    metrics: u16,
}

/// Runs the benchmark. `tell` receives a line when each part is done. Everything that was started has ended when this
/// returns or is dropped.
///
/// # Errors
/// If a phase takes longer than a quarter of an hour, the operator ends, or the API server does not answer.
///
/// # Panics
/// If no control plane comes up.
pub async fn run(options: &BenchOptions, tell: &dyn Fn(String)) -> Result<Report> {
    ensure!((1..=MOST_FLEETS).contains(&options.fleets), "the number of fleets must be 1 to {MOST_FLEETS}");
    let stage = ControlPlane::up().await;
    let measured = on_stage(&stage, options, tell).await;
    stage.down().await;
    measured
}

async fn on_stage(stage: &ControlPlane, options: &BenchOptions, tell: &dyn Fn(String)) -> Result<Report> {
    let client = stage.client().await;
    ControlPlane::namespace(&client, NAMESPACE).await;
    let ports = Ports::take(1);
    let metrics = ports.numbers()[0];
    let operator = start(stage, &options.operator, metrics)?;
    let mut bench = Bench { options, client, operator, metrics };
    let mut report = Report { fleets: options.fleets, running: options.running, ..Report::default() };
    bench.quiet().await?;
    report.without = bench.memory();
    tell(format!("without fleets, the operator uses {:.0} MiB", report.without));

    let (began, before) = (Instant::now(), bench.calls().await?);
    let used = processes::cpu_ticks(bench.operator.pid());
    report.objects_after = limited("creating all objects", bench.create(began, tell)).await?;
    tell(format!("all objects existed after {:.1} s", report.objects_after.as_secs_f64()));
    let stand_ins = match options.running {
        true => {
            Some(limited("the simulation of pods", StandIns::start(&bench.client, NAMESPACE, options.fleets)).await?)
        }
        false => None,
    };
    bench.quiet().await?;
    report.made_with = bench.calls().await?.since(&before);
    report.made_core_seconds = seconds(processes::cpu_ticks(bench.operator.pid()) - used);
    tell(format!(
        "at rest; {} requests and {:.1} s of CPU time until then",
        report.made_with.total(),
        report.made_core_seconds
    ));
    report.rest = bench.rest().await?;
    report.peak = peak(&bench.operator);
    tell(format!("measured {:.0} s at rest: {:.2} % of a core", options.window.as_secs_f64(), report.rest.core));
    if let Some(stand_ins) = &stand_ins {
        report.shown_after = Some(limited("showing a queue in a status", bench.shown(stand_ins)).await?);
    }

    limited("deleting all objects", bench.delete()).await?;
    drop(stand_ins);
    bench.quiet().await?;
    report.after = bench.rest().await?;
    tell(format!("after all fleets were deleted, the operator uses {:.0} MiB", report.after.memory));
    Ok(report)
}

async fn limited<T>(what: &str, phase: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PHASE, phase).await.with_context(|| format!("{what} took longer than {PHASE:?}"))?
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / processes::TICKS_PER_SECOND as f64
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn peak(operator: &Process) -> f64 {
    mib(operator.peak_memory())
}

/// Starts the operator as its chart does, but with this kubeconfig.
fn start(stage: &ControlPlane, program: &Path, metrics: u16) -> Result<Process> {
    ensure!(program.is_file(), "there is no operator at {}; `make bench-operator` builds it", program.display());
    let arguments = [
        format!("KUBECONFIG={}", stage.kubeconfig().display()),
        "RUST_LOG=warn".to_owned(),
        program.display().to_string(),
        "--image=robeing:one".to_owned(),
        format!("--listen=127.0.0.1:{metrics}"),
    ];
    // `env` execs the operator, so the process id is the operator's.
    Ok(Process::start("operator", Path::new("/usr/bin/env"), &arguments, &stage.folder().join("operator.log")))
}

fn name(number: usize) -> String {
    format!("fleet-{number:05}")
}

impl Bench<'_> {
    fn fleets(&self) -> Api<DynamicObject> {
        ControlPlane::api(&self.client, NAMESPACE, "robeingclusters")
    }

    fn memory(&self) -> f64 {
        mib(processes::memory(self.operator.pid()))
    }

    /// Returns an error if the operator does not run.
    fn runs(&mut self) -> Result<()> {
        match self.operator.ended() {
            Some(status) => bail!("the operator ended with {status}: {}", self.operator.log()),
            None => Ok(()),
        }
    }

    async fn calls(&mut self) -> Result<Calls> {
        self.runs()?;
        metrics::calls(self.metrics).await
    }

    /// Creates all fleets at once, and returns the time from `began` until all their objects existed.
    async fn create(&mut self, began: Instant, tell: &dyn Fn(String)) -> Result<Duration> {
        let (api, fleets) = (self.fleets(), self.options.fleets);
        let objects = (0..fleets).map(|number| {
            let object = json!({
                "apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": {"name": name(number)},
                "spec": {
                    "coordinators": {"replicas": 1},
                    // The stand-ins of coordinators speak no TLS.
                    "identity": {"transport": "Permissive"},
                    "pools": [{"name": "data", "role": "Worker", "replicas": 2, "executor": {"echo": {}}}],
                },
            });
            serde_json::from_value::<DynamicObject>(object)
        });
        let parameters = PostParams::default();
        let made =
            stream::iter(objects).map(async |object| anyhow::Ok(api.create(&parameters, &object?).await.map(drop)?));
        made.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        tell(format!("{fleets} fleets were created within {:.1} s", began.elapsed().as_secs_f64()));
        loop {
            let seen = self.count().await?;
            if seen >= fleets * OBJECTS {
                return Ok(began.elapsed());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn delete(&mut self) -> Result<()> {
        let (api, parameters) = (self.fleets(), DeleteParams::background());
        let deleted = stream::iter((0..self.options.fleets).map(name));
        let deleted = deleted.map(async |name| anyhow::Ok(api.delete(&name, &parameters).await.map(drop)?));
        deleted.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        while self.count().await? > 0 {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Returns the number of objects of the kinds that the operator creates. It lists one object of each kind and reads
    /// how many remain.
    async fn count(&self) -> Result<usize> {
        let one = ListParams::default().limit(1);
        let mut count = 0;
        for (_, _, _, plural) in OWNED {
            let list = ControlPlane::api(&self.client, NAMESPACE, plural).list_metadata(&one).await?;
            let remain = usize::try_from(list.metadata.remaining_item_count.unwrap_or(0))?;
            count += list.items.len() + remain;
        }
        for (plural, name) in EVERYWHERE {
            let there = ControlPlane::api(&self.client, NAMESPACE, plural).get_metadata_opt(name).await?;
            count -= usize::from(there.is_some()).min(count);
        }
        Ok(count)
    }

    /// Waits until the operator is at rest.
    async fn quiet(&mut self) -> Result<()> {
        let end = Instant::now() + PHASE;
        let (mut known, mut since) = (None, Instant::now());
        let mut looks = interval(Duration::from_secs(1));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while known.is_none() || since.elapsed() < QUIET {
            ensure!(Instant::now() < end, "the operator was not at rest within {PHASE:?}: {known:?}");
            looks.tick().await;
            self.runs()?;
            // The operator serves metrics from its start, but works only once it holds the lease and has filled its
            // caches.
            let Ok(calls) = self.calls().await else { continue };
            let calls = calls.is_started().then_some(calls);
            if calls.as_ref().map(Calls::total) != known.as_ref().map(Calls::total) {
                (known, since) = (calls, Instant::now());
            }
        }
        Ok(())
    }

    /// Measures a time in which nothing happens.
    async fn rest(&mut self) -> Result<Rest> {
        let pid = self.operator.pid();
        let (before, rounds, ticks, began) =
            (self.calls().await?, metrics::rounds(self.metrics).await?, processes::cpu_ticks(pid), Instant::now());
        sleep(self.options.window).await;
        let (used, took) = (seconds(processes::cpu_ticks(pid) - ticks), began.elapsed().as_secs_f64());
        let calls = self.calls().await?.since(&before);
        let rounds = metrics::rounds(self.metrics).await? - rounds;
        Ok(Rest { core: used / took * 100.0, memory: self.memory(), calls, rounds })
    }

    /// Measures how long it takes until the status of a fleet at rest shows a queue.
    async fn shown(&self, stand_ins: &StandIns) -> Result<Duration> {
        const QUEUED: u64 = 4_711;
        let (api, number) = (self.fleets(), self.options.fleets / 2);
        let began = Instant::now();
        stand_ins.queue(number, QUEUED);
        loop {
            let fleet = api.get(&name(number)).await?;
            if fleet.data.pointer("/status/tasks/queued").and_then(serde_json::Value::as_u64) == Some(QUEUED) {
                return Ok(began.elapsed());
            }
            sleep(LOOK_EVERY / 5).await;
        }
    }
}
