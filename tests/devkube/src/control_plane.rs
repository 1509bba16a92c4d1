//! The programs of the control plane's machine: etcd, the API server, the controllers and the scheduler; and the
//! credentials of all clients of the API server.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::{
    certificates::{Authority, Subject},
    command::{program, run},
    config,
    error::Result,
    machine::{Machine, Service, eventually_served},
    plan::{DOMAIN, Plan},
    record::{Run, write},
    tools::Tools,
};

/// The deadline for each component to become ready.
const READY: Duration = Duration::from_secs(120);
/// The deadline of one check.
const LOOK: Duration = Duration::from_secs(10);

/// Creates keys, certificates and kubeconfigs. `near` is the address of the API server on the host.
pub(crate) fn credentials(folder: &Run, plan: &Plan, near: SocketAddr) -> Result<()> {
    let pki = folder.join("pki");
    let authority = Authority::create(&pki)?;
    authority.token_keys()?;
    let subject = |file, user, group| Subject { file, user, group, hosts: Vec::new() };
    let api_server = plan.control_plane().address;
    let mut hosts: Vec<String> = vec![api_server.to_string(), Plan::KUBERNETES.to_string(), "127.0.0.1".into()];
    hosts.extend(["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from));
    hosts.push(format!("kubernetes.default.svc.{DOMAIN}"));
    authority.sign(&Subject { hosts, ..subject("apiserver", "kube-apiserver", None) })?;
    authority.sign(&subject("admin", "admin", Some("system:masters")))?;
    authority.sign(&subject("controller-manager", "system:kube-controller-manager", None))?;
    authority.sign(&subject("scheduler", "system:kube-scheduler", None))?;
    authority.sign(&subject("proxy", "system:kube-proxy", None))?;
    authority.sign(&subject("apiserver-kubelet", "apiserver-kubelet", Some("system:masters")))?;
    let mut users: Vec<String> = ["controller-manager", "scheduler", "proxy"].map(String::from).into();
    for node in plan.nodes() {
        let user = format!("system:node:{}", node.name);
        let hosts = vec![node.name.clone(), node.address.to_string()];
        authority.sign(&Subject { file: &node.name, user: &user, group: Some("system:nodes"), hosts })?;
        users.push(node.name);
    }
    for user in users {
        let file = folder.join(&format!("{user}.kubeconfig"));
        write(&file, config::kubeconfig(&pki, &config::server(plan), &user))?;
    }
    write(&folder.kubeconfig(), config::kubeconfig(&pki, &format!("https://{near}"), "admin"))
}

/// Starts every component that is not running. When this returns, the API server is ready and the others are healthy.
pub(crate) async fn start(folder: &Run, plan: &Plan, tools: &Tools) -> Result<Vec<Service>> {
    let place = plan.control_plane();
    let machine = match Machine::find(&place, folder) {
        Ok(machine) => machine,
        Err(_) => Machine::start(&place, folder, tools).await?,
    };
    let serve = async |name: &str, arguments: Vec<String>| machine.serve(name, &tools.program(name), &arguments).await;
    let mut services = vec![serve("etcd", config::etcd(folder)).await?];
    services.push(serve("kube-apiserver", config::api_server(folder, plan)).await?);
    let ask = async |arguments: &[&str]| {
        let mut look = program(tools.program("kubectl"));
        look.arg("--kubeconfig").arg(folder.kubeconfig()).args(arguments);
        run(look, None, LOOK).await.map_err(|error| error.to_string())
    };
    eventually_served(&mut services, "the readiness of the API server", READY, async || {
        ask(&["get", "--raw", "/readyz"]).await
    })
    .await?;
    services.push(serve("kube-controller-manager", config::controller_manager(folder, plan)).await?);
    if !plan.is_bare() {
        services.push(serve("kube-scheduler", config::scheduler(folder)).await?);
    }
    // Only the API server can reach the other components, so their health is requested from it.
    let components = ["controller-manager", "scheduler"].into_iter().take(if plan.is_bare() { 1 } else { 2 });
    for component in components {
        eventually_served(&mut services, &format!("the health of the {component}"), READY, async || {
            healthy(&ask(&["get", "componentstatus", component, "--output=json"]).await?)
        })
        .await?;
    }
    Ok(services)
}

/// Fails unless the API server reports that a component of the control plane is healthy.
fn healthy(component: &str) -> Result<(), String> {
    let component: Value = serde_json::from_str(component).map_err(|error| error.to_string())?;
    let conditions = component["conditions"].as_array().into_iter().flatten();
    match conditions.into_iter().find(|condition| condition["type"] == "Healthy") {
        Some(condition) if condition["status"] == "True" => Ok(()),
        Some(condition) => Err(condition["error"].as_str().or(condition["message"].as_str()).unwrap_or("").to_owned()),
        None => Err("its health is not known".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_well_when_the_api_server_says_so() {
        let told = |status: &str| {
            format!(r#"{{"conditions": [{{"type": "Healthy", "status": "{status}", "error": "connection refused"}}]}}"#)
        };
        assert_eq!(healthy(&told("True")), Ok(()));
        assert_eq!(healthy(&told("False")), Err("connection refused".into()));
        assert_eq!(healthy("{}"), Err("its health is not known".into()));
        healthy("").unwrap_err();
    }
}
