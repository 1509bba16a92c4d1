//! Connections to each coordinator from outside: `kubectl port-forward`, restarted whenever it ends or the pod is
//! replaced.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use devkube::Clients;
use robeing::kubernetes::{Access, Credentials, Location, credentials};
use robeing_client::{FleetClient, Settings};
use robeing_proto::v1::Consistency;
use serde_json::Value;
use tokio::{
    process::Command,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::deployed::{CLUSTER, NAMESPACE};
use crate::{ports::Ports, wait::eventually};

/// The pause between two checks of the pods.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The timeout of a call, retries included: longer than a fleet is without a leader on a busy machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The UID of each coordinator's pod that runs, by name.
type Pods = BTreeMap<String, String>;

/// Local ports that are forwarded to the coordinators. They close when this is dropped.
#[derive(Debug)]
pub struct Forwards {
    ports: Ports,
    place: Location,
    /// Those of all clients, whose tokens are renewed as long as this exists.
    credentials: Mutex<Vec<Credentials>>,
    // Dropping it ends the forwards.
    _tasks: JoinSet<()>,
}

impl Forwards {
    /// Starts forwards to this many coordinators, which need not run yet.
    pub fn start(clients: &Clients, coordinators: usize) -> Self {
        let ports = Ports::take(coordinators);
        let mut tasks = JoinSet::new();
        let (tell, pods) = watch::channel(Pods::new());
        tasks.spawn(look(clients.clone(), tell));
        for (ordinal, port) in ports.numbers().iter().enumerate() {
            let pod = format!("{CLUSTER}-coordinators-{ordinal}");
            tasks.spawn(keep(clients.clone(), pod, *port, pods.clone()));
        }
        let place = Location {
            kubeconfig: Some(clients.kubeconfig().to_owned()),
            namespace: Some(NAMESPACE.into()),
            cluster: Some(CLUSTER.into()),
            ..Location::default()
        };
        Self { ports, place, credentials: Mutex::default(), _tasks: tasks }
    }

    /// Waits until a coordinator responds, and returns a client of all of them, with the credentials of people who use
    /// the fleet. A fleet that was made again has other authorities, so each client gets its own.
    ///
    /// # Panics
    /// If none does in time.
    pub async fn client(&self) -> FleetClient {
        let endpoints: Vec<String> = self.ports.numbers().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let settings =
            Settings { connect_timeout: REQUEST_TIMEOUT, request_timeout: REQUEST_TIMEOUT, ..Settings::default() };
        let reach = async || {
            let obtained = credentials(&self.place, Access::Use, &settings).await.map_err(|error| error.to_string())?;
            let settings = Settings { security: obtained.security().clone(), ..settings.clone() };
            let client = FleetClient::new(&endpoints, settings).map_err(|error| error.to_string())?;
            client.status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((client, obtained))
        };
        let (client, obtained) = eventually("a coordinator that responds", reach).await;
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner).push(obtained);
        client
    }
}

/// Publishes which pods run, until there are no receivers.
async fn look(clients: Clients, tell: watch::Sender<Pods>) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let selector = format!("app.kubernetes.io/instance={CLUSTER},app.kubernetes.io/component=coordinator");
    while !tell.is_closed() {
        tick.tick().await;
        let listed =
            clients.kubectl(&["get", "pods", "--namespace", NAMESPACE, "--selector", &selector, "-o=json"]).await;
        let Some(list) = listed.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()) else { continue };
        tell.send_if_modified(|known| {
            let now = running(&list);
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

fn running(list: &Value) -> Pods {
    let pods = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null());
    let text = |pod: &Value, field: &str| pod["metadata"][field].as_str().map(ToOwned::to_owned);
    pods.filter_map(|pod| Some((text(pod, "name")?, text(pod, "uid")?))).collect()
}

/// Forwards a port to a pod, restarting the forward as needed, until the pods are no longer published.
async fn keep(clients: Clients, pod: String, port: u16, mut pods: watch::Receiver<Pods>) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Limits the rate of restarts if the forward ends at once.
        tick.tick().await;
        let Ok(uid) = pods.wait_for(|pods| pods.contains_key(&pod)).await.map(|pods| pods[&pod].clone()) else {
            return;
        };
        let mut command = Command::new(clients.path().join("kubectl"));
        command.env("KUBECONFIG", clients.kubeconfig()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ports = format!("{port}:8080");
        command.args(["port-forward", "--namespace", NAMESPACE, "--address=127.0.0.1", &format!("pod/{pod}"), &ports]);
        let Ok(mut forward) = command.spawn() else { continue };
        let over = tokio::select! {
            _ = forward.wait() => false,
            gone = pods.wait_for(|pods| pods.get(&pod) != Some(&uid)) => gone.is_err(),
        };
        // Fails if it has already ended.
        let _ = forward.kill().await;
        if over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_end_or_have_not_begun_are_not_forwarded_to() {
        let pod = |name: &str, phase: &str, deleted: Value| json!({"metadata": {"name": name, "uid": "u", "deletionTimestamp": deleted}, "status": {"phase": phase}});
        let list = json!({"items": [
            pod("a", "Running", Value::Null),
            pod("b", "Pending", Value::Null),
            pod("c", "Running", json!("2026-01-01T00:00:00Z")),
        ]});
        assert_eq!(running(&list), Pods::from([("a".into(), "u".into())]));
    }
}
