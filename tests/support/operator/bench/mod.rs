//! What the operator costs: many fleets made at once, at rest, and deleted, before a real API server without nodes. With
//! [`BenchOptions::running`] their pods are stood in for, and their coordinators answer.

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

/// Fleets that are made unless told otherwise.
pub const FLEETS: usize = 1_000;
/// How long a window of rest is unless told otherwise.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Objects of each fleet: seven of the coordinators, and an account and a Deployment of the pool.
pub const OBJECTS: usize = 9;
/// The most fleets that can be asked for: their stand-ins have an address each in a /16.
pub const MOST_FLEETS: usize = 10_000;
/// How many are made or deleted at the same time.
const AT_ONCE: usize = 50;
/// How long any phase may take until the benchmark gives up.
const PHASE: Duration = Duration::from_secs(900);
/// Time without a call but for the lease and watches after which the operator counts as at rest.
const QUIET: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const NAMESPACE: &str = "bench";
/// What every namespace has, which is nobody's fleet's.
const EVERYWHERE: [(&str, &str); 2] = [("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")];

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Fleets that are made at once.
    pub fleets: usize,
    /// How long rest is measured.
    pub window: Duration,
    /// The operator's program.
    pub operator: PathBuf,
    /// Whether their pods are stood in for, and their coordinators answer.
    pub running: bool,
}

/// Processor, memory and calls over a window of rest.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// Of one core, percent.
    pub core: f64,
    /// Memory held at its end, MiB.
    pub memory: f64,
    /// Calls but for the lease and the beginning of watches.
    pub calls: Calls,
    /// Rounds for a fleet.
    pub rounds: u64,
}

struct Bench<'a> {
    options: &'a BenchOptions,
    client: Client,
    operator: Process,
    metrics: u16,
}

/// Measures. `tell` is given a line whenever a part is done. Everything that was started is ended when this returns or is dropped.
///
/// # Errors
/// When a phase takes longer than a quarter of an hour, the operator ends, or the API server does not answer.
///
/// # Panics
/// When no control plane comes up.
pub async fn run(options: &BenchOptions, tell: &dyn Fn(String)) -> Result<Report> {
    ensure!((1..=MOST_FLEETS).contains(&options.fleets), "fleets are 1 to {MOST_FLEETS}");
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
    tell(format!("without fleets the operator holds {:.0} MiB", report.without));

    let (began, before) = (Instant::now(), bench.calls().await?);
    let used = processes::cpu_ticks(bench.operator.pid());
    report.objects_after = limited("all objects", bench.create(began, tell)).await?;
    tell(format!("all objects are there after {:.1} s", report.objects_after.as_secs_f64()));
    let stand_ins = match options.running {
        true => {
            Some(limited("the stand-ins of all pods", StandIns::start(&bench.client, NAMESPACE, options.fleets)).await?)
        }
        false => None,
    };
    bench.quiet().await?;
    report.made_with = bench.calls().await?.since(&before);
    report.made_core_seconds = seconds(processes::cpu_ticks(bench.operator.pid()) - used);
    tell(format!(
        "at rest; {} calls and {:.1} s of a core until then",
        report.made_with.total(),
        report.made_core_seconds
    ));
    report.rest = bench.rest().await?;
    report.peak = peak(&bench.operator);
    tell(format!("rest was measured for {:.0} s: {:.2} % of a core", options.window.as_secs_f64(), report.rest.core));
    if let Some(stand_ins) = &stand_ins {
        report.shown_after = Some(limited("a changed queue in a status", bench.shown(stand_ins)).await?);
    }

    limited("the end of all objects", bench.delete()).await?;
    drop(stand_ins);
    bench.quiet().await?;
    report.after = bench.rest().await?;
    tell(format!("after all are deleted the operator holds {:.0} MiB", report.after.memory));
    Ok(report)
}

async fn limited<T>(what: &str, phase: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PHASE, phase).await.with_context(|| format!("within {PHASE:?} not seen: {what}"))?
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

/// As its chart starts it, with its own way to the API server.
fn start(stage: &ControlPlane, program: &Path, metrics: u16) -> Result<Process> {
    ensure!(program.is_file(), "there is no operator at {}; `make bench-operator` builds it", program.display());
    let arguments = [
        format!("KUBECONFIG={}", stage.kubeconfig().display()),
        "RUST_LOG=warn".to_owned(),
        program.display().to_string(),
        "--image=robeing:one".to_owned(),
        format!("--listen=127.0.0.1:{metrics}"),
    ];
    // `env` becomes the operator: the process keeps its id.
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

    /// That it runs.
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

    /// Makes all fleets at once; how long after `began` all their objects were there.
    async fn create(&mut self, began: Instant, tell: &dyn Fn(String)) -> Result<Duration> {
        let (api, fleets) = (self.fleets(), self.options.fleets);
        let objects = (0..fleets).map(|number| {
            let object = json!({
                "apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": {"name": name(number)},
                "spec": {
                    "coordinators": {"replicas": 1},
                    "pools": [{"name": "data", "role": "Worker", "replicas": 2, "executor": {"echo": {}}}],
                },
            });
            serde_json::from_value::<DynamicObject>(object)
        });
        let parameters = PostParams::default();
        let made =
            stream::iter(objects).map(async |object| anyhow::Ok(api.create(&parameters, &object?).await.map(drop)?));
        made.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        tell(format!("{fleets} fleets were made within {:.1} s", began.elapsed().as_secs_f64()));
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

    /// How many objects there are of the kinds that the operator makes. Asks for one of each, and how many remain.
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
            // It serves from its start on, and works once it holds the lease and knows what there is.
            let Ok(calls) = self.calls().await else { continue };
            let calls = calls.is_started().then_some(calls);
            if calls.as_ref().map(Calls::total) != known.as_ref().map(Calls::total) {
                (known, since) = (calls, Instant::now());
            }
        }
        Ok(())
    }

    /// Measures a window in which nothing happens.
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

    /// How long it takes until the status of a fleet at rest shows a queue.
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
