//! What runs on the control plane's machine: etcd, the API server, the controllers and the scheduler; and the credentials of
//! all that speak to the API server.

use std::{net::SocketAddr, time::Duration};

use crate::{
    certificates::{Authority, Subject},
    command::{eventually, program, run},
    config,
    error::Result,
    machine::{Machine, Service},
    plan::{DOMAIN, Plan},
    record::{Run, write},
    tools::Tools,
};

/// How long the API server may take until it is ready.
const READY: Duration = Duration::from_secs(120);
/// How long one look at it may take.
const LOOK: Duration = Duration::from_secs(10);

/// Makes keys, certificates and kubeconfigs. `near` is where the host reaches the API server.
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

/// Starts everything; the API server is ready when this returns.
pub(crate) async fn start(folder: &Run, plan: &Plan, tools: &Tools) -> Result<Vec<Service>> {
    let machine = Machine::start(&plan.control_plane(), folder, tools).await?;
    let serve = |name: &str, arguments: Vec<String>| machine.serve(name, &tools.program(name), &arguments);
    let mut services = vec![serve("etcd", config::etcd(folder))?];
    services.push(serve("kube-apiserver", config::api_server(folder, plan))?);
    ready(folder, tools, &mut services).await?;
    services.push(serve("kube-controller-manager", config::controller_manager(folder, plan))?);
    if !plan.is_bare() {
        services.push(serve("kube-scheduler", config::scheduler(folder))?);
    }
    Ok(services)
}

async fn ready(folder: &Run, tools: &Tools, services: &mut [Service]) -> Result<()> {
    let mut ended = None;
    let waited = eventually("the API server's readiness", READY, async || {
        ended = services.iter_mut().find_map(|service| service.check().err());
        if ended.is_some() {
            return Ok(());
        }
        let mut look = program(tools.program("kubectl"));
        look.arg("--kubeconfig").arg(folder.kubeconfig()).args(["get", "--raw", "/readyz"]);
        run(look, None, LOOK).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    ended.map_or(waited, Err)
}
