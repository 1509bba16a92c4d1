//! Detects ports that both the agent and the container that runs its tasks would use, since a pod has one network. The
//! API server rejects some of these conflicts; with others, one of the two would not start, or the agent would call
//! itself. Pure.

use k8s_openapi::api::core::v1::Container;
use robeing_crds::{AgentPorts, Executor, Messages, Pool, Role};
use robeing_settings::settings::WORKER_ADDRESS;

use crate::{controller::validate::Work, names};

/// Refuses a pool whose ports conflict. Returns the reason and the message for a condition.
pub(crate) fn are_free(pool: &Pool, ports: AgentPorts, work: &Work) -> Result<(), (&'static str, String)> {
    let container = match work {
        Work::InAgent => None,
        Work::InUserContainer(container) | Work::BesideAgent { container, .. } => Some(container.as_ref()),
    };
    let attach = attaches_at(work).and_then(of_local_address).map(u32::from);
    let has_gateway = pool.role == Role::Messenger;
    let taken = |number: u32| what_takes(ports, number, attach);
    let clash = has_gateway
        .then(|| of_gateway(container, &taken))
        .flatten()
        .or_else(|| container.and_then(|container| of_container(container, &taken)))
        .or_else(|| of_urls(pool, &taken))
        .or_else(|| of_address(work, ports));
    match clash {
        None => Ok(()),
        Some(what) => Err(("PortTaken", format!("Pool {:?} is not built: {what}", pool.name))),
    }
}

/// Returns the setting of the agent's port that has this number.
fn what_takes(ports: AgentPorts, number: u32, attach: Option<u32>) -> Option<&'static str> {
    // An attach port other than `agentPorts.attach` was set by the variable.
    let name = if attach == Some(ports.attach) { "agentPorts.attach" } else { WORKER_ADDRESS };
    let own = [("agentPorts.grpc", Some(ports.grpc)), ("agentPorts.metrics", Some(ports.metrics)), (name, attach)];
    own.into_iter().find(|(_, port)| *port == Some(number)).map(|(name, _)| name)
}

/// Returns a message if something else of a messenger's pod has the port of its gateway.
fn of_gateway(container: Option<&Container>, taken: &impl Fn(u32) -> Option<&'static str>) -> Option<String> {
    let port = names::GATEWAY_PORT;
    if let Some(own) = u32::try_from(port).ok().and_then(taken) {
        return Some(format!("{own} is {port}, where messengers serve their gateway; set it to another port."));
    }
    let mut ports = container.into_iter().flat_map(|container| container.ports.iter().flatten());
    let tcp = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
    let clash = ports.any(|of| {
        of.name.as_deref() == Some(names::AGENT_GATEWAY) || of.container_port == port && tcp(of.protocol.as_deref())
    });
    clash.then(|| {
        format!(
            "its container lists port {port}, or a port named {:?}, where messengers serve their gateway; have your \
             server listen elsewhere.",
            names::AGENT_GATEWAY
        )
    })
}

/// Returns the address at which worker processes attach to the agent.
fn attaches_at(work: &Work) -> Option<&str> {
    let Work::BesideAgent { attaches_at, .. } = work else { return None };
    attaches_at.as_deref()
}

/// Returns the port of a host:port of the loopback interface, as agents accept it. `None` if it is not such an address,
/// or if the port is 0, which no process could find.
pub(crate) fn of_local_address(text: &str) -> Option<u16> {
    robeing_settings::local_port(text).filter(|port| *port > 0)
}

fn of_container(container: &Container, taken: &impl Fn(u32) -> Option<&'static str>) -> Option<String> {
    for port in container.ports.iter().flatten() {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u32::try_from(port.container_port).unwrap_or(0);
        if let Some(own) = taken(number).filter(|_| tcp) {
            return Some(format!(
                "its container lists port {number}, where the agent in the same pod listens; set {own} to another port."
            ));
        }
        if let Some(name) = port.name.as_deref().filter(|name| [names::AGENT_GRPC, names::AGENT_METRICS].contains(name))
        {
            return Some(format!("its container has a port named {name:?}, the name of an agent's port; rename it."));
        }
    }
    None
}

/// Returns a message if the agent would post tasks or messages to itself.
fn of_urls(pool: &Pool, taken: &impl Fn(u32) -> Option<&'static str>) -> Option<String> {
    let tasks = match &pool.executor {
        Executor::Http(http) => http.target().ok().map(|target| ("executor.http.url", target.address())),
        _ => None,
    };
    let messages = match &pool.messages {
        Some(Messages::Http(http)) => http.target().ok().map(|target| ("messages.http.url", target.address())),
        _ => None,
    };
    let mut urls = tasks.into_iter().chain(messages);
    urls.find_map(|(field, (host, port))| of_url(field, &host, port, taken))
}

fn of_url(field: &str, host: &str, port: u16, taken: &impl Fn(u32) -> Option<&'static str>) -> Option<String> {
    let address = host.parse::<std::net::IpAddr>();
    let local = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    let own = taken(u32::from(port)).filter(|_| local)?;
    Some(format!(
        "{field} names port {port} of its own pod, where the agent itself listens; set {own} to another port, or have your \
         server listen elsewhere."
    ))
}

/// Returns a message if the variable that sets the address to attach to has the port of another listener of the agent.
fn of_address(work: &Work, ports: AgentPorts) -> Option<String> {
    let address = attaches_at(work)?;
    let own = what_takes(ports, of_local_address(address)?.into(), None)?;
    Some(format!(
        "{} is {address:?}, where the agent listens already; set {own} to another port, or leave the variable out.",
        WORKER_ADDRESS
    ))
}
