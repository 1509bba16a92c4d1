//! Ports that an agent and what runs its tasks would both take, in the one network of their pod. The API server refuses some of
//! them, and of others one of the two would not start, or the agent would call itself. Pure.

use k8s_openapi::api::core::v1::Container;
use robeing_crds::{AgentPorts, Executor, Pool};

use crate::{names, validate::Work};

/// Refuses a pool whose ports clash, with a condition's reason and a sentence.
pub(crate) fn are_free(pool: &Pool, ports: AgentPorts, work: &Work) -> Result<(), (&'static str, String)> {
    let container = match work {
        Work::InAgent => None,
        Work::InUserContainer(container) | Work::BesideAgent { container, .. } => Some(container.as_ref()),
    };
    let taken = |number: u32| what_takes(ports, number, matches!(pool.executor, Executor::Worker {}));
    let clash = container
        .and_then(|container| of_container(container, &taken))
        .or_else(|| of_url(&pool.executor, &taken))
        .or_else(|| of_address(work, ports));
    match clash {
        None => Ok(()),
        Some(what) => Err(("PortTaken", format!("Pool {:?} is not built: {what}", pool.name))),
    }
}

/// Which of the agent's ports this is.
fn what_takes(ports: AgentPorts, number: u32, attaches: bool) -> Option<&'static str> {
    let own = [("grpc", ports.grpc, true), ("metrics", ports.metrics, true), ("attach", ports.attach, attaches)];
    own.into_iter().find(|(_, port, used)| *used && *port == number).map(|(name, ..)| name)
}

fn of_container(container: &Container, taken: &impl Fn(u32) -> Option<&'static str>) -> Option<String> {
    for port in container.ports.iter().flatten() {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u32::try_from(port.container_port).unwrap_or(0);
        if let Some(own) = taken(number).filter(|_| tcp) {
            return Some(format!(
                "its container lists port {number}, where the agent in the same pod listens; set agentPorts.{own} to another \
                 port."
            ));
        }
        if let Some(name) = port.name.as_deref().filter(|name| [names::AGENT_GRPC, names::AGENT_METRICS].contains(name))
        {
            return Some(format!("its container calls a port {name:?}, as the agent calls its own; rename it."));
        }
    }
    None
}

/// Whether the agent would post tasks to itself.
fn of_url(executor: &Executor, taken: &impl Fn(u32) -> Option<&'static str>) -> Option<String> {
    let Executor::Http(http) = executor else { return None };
    let (host, port) = http.target().ok()?.address();
    let address = host.parse::<std::net::IpAddr>();
    let local = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    let own = taken(u32::from(port)).filter(|_| local)?;
    Some(format!(
        "executor.http.url names port {port} of its own pod, where the agent itself listens; set agentPorts.{own} to another \
         port, or have your server listen elsewhere."
    ))
}

/// Where processes attach may be said by a variable, too.
fn of_address(work: &Work, ports: AgentPorts) -> Option<String> {
    let Work::BesideAgent { attaches_at: Some(address), .. } = work else { return None };
    let port = address.rsplit_once(':')?.1.parse().ok()?;
    let own = what_takes(ports, port, false)?;
    Some(format!(
        "{} is {address:?}, where the agent listens already; set agentPorts.{own} to another port, or leave the variable out.",
        names::WORKER_ADDRESS
    ))
}
