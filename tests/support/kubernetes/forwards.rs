//! A way to each coordinator from outside: `kubectl port-forward`, begun anew whenever it ends or the pod is another one.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use devkube::Clients;
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

/// Pause between two looks at the pods.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a call is tried: longer than a fleet is without a leader, on a machine that is busy.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Uid of each coordinator's pod that runs.
type Pods = BTreeMap<String, String>;

/// Local ports that lead to the coordinators. They close when this is dropped.
#[derive(Debug)]
pub struct Forwards {
    ports: Ports,
    // Ends the forwards when it is dropped.
    _tasks: JoinSet<()>,
}

impl Forwards {
    /// To so many coordinators. They need not run yet.
    pub fn start(clients: &Clients, coordinators: usize) -> Self {
        let ports = Ports::take(coordinators);
        let mut tasks = JoinSet::new();
        let (tell, pods) = watch::channel(Pods::new());
        tasks.spawn(look(clients.clone(), tell));
        for (ordinal, port) in ports.numbers().iter().enumerate() {
            let pod = format!("{CLUSTER}-coordinators-{ordinal}");
            tasks.spawn(keep(clients.clone(), pod, *port, pods.clone()));
        }
        Self { ports, _tasks: tasks }
    }

    /// A client that asks whichever of them answers, once one does.
    ///
    /// # Panics
    /// When none does in time.
    pub async fn client(&self) -> FleetClient {
        let endpoints: Vec<String> = self.ports.numbers().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let settings = Settings { connect_timeout: REQUEST_TIMEOUT, request_timeout: REQUEST_TIMEOUT };
        let client = FleetClient::new(&endpoints, settings).expect("these are addresses");
        eventually("a way to a coordinator", async || client.status(Consistency::Linearizable).await).await;
        client
    }
}

/// Tells which pods run, until nobody listens.
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

/// Forwards a port to a pod for as long as somebody tells of it.
async fn keep(clients: Clients, pod: String, port: u16, mut pods: watch::Receiver<Pods>) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Not faster, also where the forward ends at once.
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
        // It may have ended by itself.
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
