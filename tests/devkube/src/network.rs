//! The cluster's network, made with `ip`: a bridge in a namespace of its own, and a namespace for each machine, joined to
//! it by a veth pair. All links are made inside these namespaces, so the host's own network is never touched.

use std::{path::PathBuf, time::Duration};

use crate::{
    command::{program, run},
    error::Result,
    plan::{Place, Plan},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Where `ip netns` keeps a namespace.
pub(crate) fn namespace_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Makes the namespaces and joins them.
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

/// Plugs a machine into the LAN, in the words of `ip -batch`.
fn join(place: &Place) -> String {
    let (port, namespace) = (place.port(), &place.namespace);
    format!("link add {port} type veth peer name eth0 netns {namespace}\nlink set {port} master br0 up\n")
}

/// Addresses and routes of a machine. The default route leads to the LAN, where nobody answers for the outside.
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

/// Cuts a machine off the others, or lets it back.
pub(crate) async fn plug(plan: &Plan, place: &Place, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    ip(&["-n", &plan.lan(), "link", "set", &place.port(), state]).await
}

/// Forgets the pods' bridge of a machine whose pods are gone.
pub(crate) async fn forget_pods(place: &Place) -> Result<()> {
    let bridge = namespace_path(&place.namespace);
    let mut command = program("nsenter");
    // There is none before the first pod.
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
