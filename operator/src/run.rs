//! The operator from its start to its end: serve probes, wait for the lease, keep the fleets, release the lease.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use futures::{StreamExt, TryFutureExt};
use kube::{Client, client::ClientBuilder};
use kube_runtime::{
    applier,
    controller::{self, Action, ReconcileRequest},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    controller::{Context, coordinators_in, reconcile},
    fleet_watch::FleetWatches,
    lease::{Elector, Lost},
    metrics::{CountRequests, Metrics},
    serve::Server,
    settings::Settings,
    stores::{Caches, Pending},
    timeout::{ANSWER_WITHIN, AnswerWithin},
};

/// Changes of one cluster within this are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often the connections to coordinators that are gone are closed.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How long establishing a connection to the API server may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The operator could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a service account nor a kubeconfig.
    #[error("no way to the API server: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration does not lead to a client.
    #[error("no client for the API server: {0}")]
    Client(#[from] kube::Error),
    /// The port is taken.
    #[error("nothing can be served at {address}: {source}; give another --listen")]
    Listen {
        /// The address of the setting.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// How the operator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As asked.
    Asked,
    /// Another replica is, or will be, the active one.
    LeaseLost(Lost),
}

/// A client whose requests are counted, and given up in time.
pub async fn client(metrics: Metrics) -> Result<Client, Error> {
    let mut config = kube::Config::infer().await?;
    config.connect_timeout = Some(CONNECT_WITHIN);
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&AnswerWithin(ANSWER_WITHIN))
        .with_layer(&CountRequests(metrics))
        .build())
}

/// Runs until `stop`, or until the lease is lost.
pub async fn run(settings: &Settings, stop: CancellationToken) -> Result<End, Error> {
    let metrics = Metrics::default();
    let listening = |source| Error::Listen { address: settings.listen, source };
    let server = Server::start(settings.listen, metrics.clone()).map_err(listening).await?;
    let client = client(metrics.clone()).await?;
    let end = elected(settings, client, &metrics, stop).await;
    server.stop().await;
    Ok(end)
}

async fn elected(settings: &Settings, client: Client, metrics: &Metrics, stop: CancellationToken) -> End {
    let Ok(timings) = settings.timings() else { return End::Asked };
    let identity = match settings.identity.as_str() {
        "" => format!("robeing-operator-{}", uuid::Uuid::new_v4()),
        // A pod's name may come again; what is held under it must not.
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
        // Whatever is under way must not go on beside another replica: the process ends at once.
        lost = held.keep() => End::LeaseLost(lost),
        () = tasks.wait() => {
            held.release().await;
            End::Asked
        }
    }
}

/// Keeps the fleets of one namespace, or of all, until told to stop; then finishes the rounds that run.
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
    let context = Arc::new(Context::new(client, caches.clone(), news, metrics, operator_context, poll, instance));
    let filling = TaskTracker::new();
    let caching = filling.spawn(pending.clone().fill(changes));
    let done = caching.abort_handle();
    tokio::select! {
        () = stop.cancelled() => return done.abort(),
        // Before that, what is not in the caches is not known to be missing.
        filled = caches.filled() => if filled.is_err() { return },
    }
    let requests = pending.clusters().map(|cluster| Ok::<_, Infallible>(ReconcileRequest::from(cluster)));
    let queue = Box::pin(requests.take_until(stop.cancelled_owned()));
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(settings.concurrency);
    let rounds = applier(
        |cluster, context| Box::pin(reconcile(cluster, context)),
        |cluster, error, context| {
            tracing::warn!(cluster = cluster.metadata.name, namespace = cluster.metadata.namespace, %error, "a round failed");
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
