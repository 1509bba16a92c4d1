//! The cluster's network, created with `ip`: a bridge in its own namespace, and a namespace for each machine, connected
//! to the bridge by a veth pair. All links are created inside these namespaces, so the host's network is never changed.

use std::{path::PathBuf, time::Duration};

use crate::{
    command::{program, run},
    error::Result,
    plan::{Place, Plan},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Returns the file by which `ip netns` refers to a namespace.
pub(crate) fn namespace_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Creates the namespaces and connects them.
pub(crate) async fn create(plan: &Plan) -> Result<()> {
    let lan = plan.lan();
    ip(&["netns", "add", &lan]).await?;
    batch(&lan, "link add br0 type bridge\nlink set br0 up\n").await?;
    for place in plan.places() {
        ip(&["netns", "add", &place.namespace]).await?;
        batch(&lan, &join(&place)).await?;
        batch(&place.namespace, &configure(plan, &place)).await?;
        let mut forward = program("nsenter");
        forward.arg(format!("--net={}", namespace_path(&place.namespace).display()));
        forward.args(["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        run(forward, None, DEADLINE).await?;
    }
    Ok(())
}

/// Returns the `ip -batch` lines that connect a machine to the LAN.
fn join(place: &Place) -> String {
    let (port, namespace) = (place.port(), &place.namespace);
    format!("link add {port} type veth peer name eth0 netns {namespace}\nlink set {port} master br0 up\n")
}

/// Returns the `ip -batch` lines for a machine's addresses and routes. The default route leads to the LAN, where no
/// host answers for outside addresses.
fn configure(plan: &Plan, place: &Place) -> String {
    let mut lines = format!(
        "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute add default dev eth0\n",
        place.address
    );
    for other in plan.nodes().iter().filter(|other| *other != place) {
        if let Some(pods) = other.pods {
            lines.push_str(&format!("route add {pods}/24 via {}\n", other.address));
        }
    }
    lines
}

/// Connects a machine's port to the LAN, or disconnects it.
pub(crate) async fn plug(plan: &Plan, place: &Place, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    ip(&["-n", &plan.lan(), "link", "set", &place.port(), state]).await
}

/// Deletes the pod bridge of a machine whose pods are gone.
pub(crate) async fn forget_pods(place: &Place) -> Result<()> {
    let bridge = namespace_path(&place.namespace);
    let mut command = program("nsenter");
    // The bridge does not exist before the first pod.
    command.arg(format!("--net={}", bridge.display())).args(["sh", "-c", "ip link del cni0 2>/dev/null || true"]);
    run(command, None, DEADLINE).await.map(drop)
}

async fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = program("ip");
    command.args(arguments);
    run(command, None, DEADLINE).await.map(drop)
}

async fn batch(namespace: &str, lines: &str) -> Result<()> {
    let mut command = program("ip");
    command.args(["-n", namespace, "-batch", "-"]);
    run(command, Some(lines.as_bytes()), DEADLINE).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_knows_the_way_to_the_others_pods() {
        let plan = Plan::new("ab", 3).unwrap();
        let lines = configure(&plan, &plan.machine("n2").unwrap());
        insta::assert_snapshot!("node_network", lines);
        insta::assert_snapshot!("control_plane_port", join(&plan.control_plane()));
    }
}
