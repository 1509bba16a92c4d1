//! The operator from start to shutdown: serves probes, acquires the lease, reconciles the fleets, releases the lease.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{Client, client::ClientBuilder};
use kube_runtime::{
    applier,
    controller::{self, Action, ReconcileRequest},
};
use robeing_telemetry::Monitor;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    controller::{Context, coordinators_in, reconcile},
    runtime::{
        fleet_watch::FleetWatches,
        lease::{Elector, Lost},
        metrics::{CountRequests, Metrics},
        settings::Settings,
        stores::{Caches, Pending},
        timeout::{ANSWER_WITHIN, AnswerWithin},
    },
};

/// Changes of one cluster within this period are handled by one reconciliation.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often connections to coordinators that no longer exist are closed.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How long establishing a connection to the API server may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The operator could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a service account nor a kubeconfig was found.
    #[error("no configuration for the API server: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// No client could be created from the configuration.
    #[error("could not create a client for the API server: {0}")]
    Client(#[from] kube::Error),
    /// The listen address could not be bound.
    #[error("{0}; set another --listen")]
    Listen(std::io::Error),
}

/// Why the operator stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to stop.
    Asked,
    /// It lost the lease: another replica is, or will become, the active one.
    LeaseLost(Lost),
}

/// Creates a client that counts its requests and limits the wait for each response, except those of watches, to
/// [`ANSWER_WITHIN`].
pub async fn client(metrics: Metrics) -> Result<Client, Error> {
    let mut config = kube::Config::infer().await?;
    config.connect_timeout = Some(CONNECT_WITHIN);
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&AnswerWithin(ANSWER_WITHIN))
        .with_layer(&CountRequests(metrics))
        .build())
}

/// Runs until `stop` is cancelled or the lease is lost.
pub async fn run(settings: &Settings, stop: CancellationToken) -> Result<End, Error> {
    let metrics = Metrics::default();
    let monitor = Monitor::start_on_tcp(&settings.listen.to_string(), metrics.clone()).await.map_err(Error::Listen)?;
    let client = client(metrics.clone()).await?;
    let end = elected(settings, client, &metrics, stop).await;
    drop(monitor);
    Ok(end)
}

async fn elected(settings: &Settings, client: Client, metrics: &Metrics, stop: CancellationToken) -> End {
    let Ok(timings) = settings.timings() else { return End::Asked };
    let identity = match settings.identity.as_str() {
        "" => format!("robeing-operator-{}", uuid::Uuid::new_v4()),
        // Pod names can be reused; the suffix keeps a new pod from treating an old pod's lease as its own.
        name => format!("{name}_{}", uuid::Uuid::new_v4()),
    };
    let elector = Elector::new(client.clone(), &settings.namespace, &settings.lease_name, identity.clone(), timings);
    let mut held = tokio::select! {
        () = stop.cancelled() => return End::Asked,
        held = elector.acquire() => held,
    };
    metrics.lead(true);
    let (work, tasks) = (stop.child_token(), TaskTracker::new());
    for scope in settings.scopes() {
        let scope =
            keep_fleets(settings.clone(), client.clone(), scope, metrics.clone(), identity.clone(), work.clone());
        tasks.spawn(scope);
    }
    tasks.close();
    tokio::select! {
        // Reconciliations in progress must not run beside another replica: the process exits immediately.
        lost = held.keep() => End::LeaseLost(lost),
        () = tasks.wait() => {
            held.release().await;
            End::Asked
        }
    }
}

/// Reconciles the fleets of one namespace, or of all namespaces, until `stop` is cancelled; then finishes the
/// reconciliations in progress.
async fn keep_fleets(
    settings: Settings,
    client: Client,
    namespace: Option<String>,
    metrics: Metrics,
    instance: String,
    stop: CancellationToken,
) {
    let (caches, changes) = Caches::of(&client, namespace.as_deref());
    let operator_context = settings.operator_context();
    let pending = Arc::new(Pending::default());
    let news = FleetWatches::new(pending.clone());
    let poll = settings.poll_interval;
    let context = Context::new(client, caches.clone(), news, metrics, operator_context, poll, instance);
    let context = Arc::new(context.with_authority_overlap(settings.authority_overlap));
    let filling = TaskTracker::new();
    let caching = filling.spawn(pending.clone().fill(changes));
    let done = caching.abort_handle();
    tokio::select! {
        () = stop.cancelled() => return done.abort(),
        // Until the caches are filled, an object that is missing from them may still exist.
        filled = caches.filled() => if filled.is_err() { return },
    }
    let requests = pending.clusters().map(|cluster| Ok::<_, Infallible>(ReconcileRequest::from(cluster)));
    let queue = Box::pin(requests.take_until(stop.cancelled_owned()));
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(settings.concurrency);
    let rounds = applier(
        |cluster, context| Box::pin(reconcile(cluster, context)),
        |cluster, error, context| {
            tracing::warn!(cluster = cluster.metadata.name, namespace = cluster.metadata.namespace, %error, "reconciliation failed");
            Action::requeue(context.pause(&cluster))
        },
        context.clone(),
        caches.clusters.clone(),
        queue,
        config,
    );
    let mut rounds = std::pin::pin!(rounds);
    let mut tidy = interval(TIDY_EVERY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            round = rounds.next() => match round {
                None => return done.abort(),
                Some(Err(controller::Error::ObjectNotFound(gone))) => {
                    context.forget(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
                }
                Some(_) => {}
            },
            _ = tidy.tick() => {
                let known: HashSet<String> = coordinators_in(&caches).into_iter().collect();
                context.coordinators.keep_only(&known);
            }
        }
    }
}
