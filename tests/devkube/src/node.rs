//! The programs of a node: containerd with its images, then the kubelet and kube-proxy.

use std::{path::Path, time::Duration};

use crate::{
    cgroup,
    command::run,
    config::{self, CONTAINERD_SOCKET, cni_config, containerd_config, kubelet_config, proxy_config},
    cri,
    error::Result,
    machine::{Machine, Service, eventually_served},
    network,
    plan::Place,
    record::{Run, create_folder, read, write},
    tools::Tools,
};

/// The deadline for containerd to be able to run containers.
const CONTAINERD: Duration = Duration::from_secs(60);
/// The deadline for importing an image.
const IMPORT: Duration = Duration::from_secs(120);

/// Writes the initial files of a node's disk.
pub(crate) fn prepare(place: &Place, folder: &Run, volumes: usize) -> Result<()> {
    let disk = folder.disk(&place.name).join("lib/devkube");
    for index in 1..=volumes {
        create_folder(&disk.join("volumes").join(index.to_string()))?;
    }
    if let Some(pods) = place.pods {
        write(&disk.join("cni/10-devkube.conflist"), cni_config(pods))?;
    }
    write(&disk.join("containerd.toml"), containerd_config())?;
    write(&disk.join("kubelet.json"), kubelet_config(folder, place))?;
    write(&disk.join("kube-proxy.json"), proxy_config(folder, place))?;
    // Empty: pods use no name server except the cluster's own.
    write(&disk.join("resolv.conf"), "")
}

/// Powers a node on if it is off. When this returns, its containerd can run containers, so that a kubelet can start.
pub(crate) async fn boot(place: &Place, folder: &Run, tools: &Tools) -> Result<(Machine, Service)> {
    let machine = match Machine::find(place, folder) {
        Ok(machine) => machine,
        Err(_) => {
            cgroup::create(&place.namespace)?;
            let machine = Machine::start(place, folder, tools).await?;
            network::forget_pods(place).await?;
            machine
        }
    };
    let arguments = [format!("--config={}/containerd.toml", config::OWN)];
    let mut containerd = machine.serve("containerd", Path::new("containerd"), &arguments).await?;
    let what = format!("the readiness of containerd on {}", place.name);
    let services = std::slice::from_mut(&mut containerd);
    eventually_served(services, &what, CONTAINERD, async || cri::ready(machine.path(CONTAINERD_SOCKET)).await).await?;
    Ok((machine, containerd))
}

/// Joins a node to the cluster: starts its kubelet and kube-proxy, unless they are running.
pub(crate) async fn join(machine: &Machine, place: &Place, folder: &Run, tools: &Tools) -> Result<Vec<Service>> {
    let kubelet = machine.serve("kubelet", &tools.program("kubelet"), &config::kubelet(folder, place)).await?;
    let arguments = [format!("--config={}/kube-proxy.json", config::OWN)];
    let proxy = machine.serve("kube-proxy", &tools.program("kube-proxy"), &arguments).await?;
    Ok(vec![kubelet, proxy])
}

/// Imports an image on a node. The archive is piped, because the node may not see the file.
pub(crate) async fn import(machine: &Machine, archive: &Path) -> Result<()> {
    let bytes = read(archive)?;
    let mut command = ctr(machine);
    command.kill_on_drop(true).args(["--namespace", "k8s.io", "images", "import", "-"]);
    run(command, Some(&bytes), IMPORT).await.map(drop)
}

fn ctr(machine: &Machine) -> tokio::process::Command {
    let mut command = machine.enter("ctr");
    command.args(["--address", CONTAINERD_SOCKET]);
    command
}
