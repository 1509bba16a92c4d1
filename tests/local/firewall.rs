//! Firewalls that reject connections with a TCP reset. By a reset alone, a coordinator can't distinguish them from the
//! kernel of a machine on which the agent's process has ended. They must not make it take away an agent's tasks while
//! the agent has its lease.
//!
//! The test runs in its own network namespace, with agents behind a router. It needs root, and `unshare`, `ip` and
//! `iptables`, as the throwaway Kubernetes of the other tests does.

use std::{env, fs, os::unix::fs::MetadataExt, path::Path, process::Command, time::Duration};

use robeing_proto::v1::{AgentState, AttemptState, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::group_members,
    script::{Gate, answer, overlaps, task},
    wait::{check, eventually},
};

/// Set in the process that has its own network.
const INSIDE: &str = "ROBEING_TEST_NETWORK";
/// The addresses of the coordinators and of the agents behind the router.
const COORDINATORS: &str = "10.77.0.1";
const AGENTS: &str = "10.77.1.1";
/// The number of slots of each agent.
const SLOTS: u32 = 16;
/// The port on which the agent behind the router listens.
const AGENT_PORT: u16 = 7_000;
/// Creates the network: this namespace, a router, and agents behind it. `/run` is private, so that nothing is left
/// behind.
const NETWORK: &str = "
    mount -t tmpfs none /run && ip link set lo up && ip netns add router && ip netns add agents
    ip link add near type veth peer name near0 netns router
    ip -n agents link add far type veth peer name far0 netns router
    ip addr add 10.77.0.1/24 dev near && ip link set near up && ip route add 10.77.1.0/24 via 10.77.0.254
    ip -n router addr add 10.77.0.254/24 dev near0 && ip -n router link set near0 up
    ip -n router addr add 10.77.1.254/24 dev far0 && ip -n router link set far0 up
    ip netns exec router sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
    ip -n agents addr add 10.77.1.1/24 dev far && ip -n agents link set far up && ip -n agents link set lo up
    ip -n agents route add default via 10.77.1.254";

fn run(script: &str) {
    let output = Command::new("/bin/sh").args(["-euc", script]).output().expect("there is a shell");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Changes the firewall of the router.
fn firewall(rule: &str) {
    run(&format!("ip netns exec router iptables {rule}"));
}

/// Runs this test again in its own namespace. Returns true inside it.
fn has_own_network(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        run(NETWORK);
        return true;
    }
    if fs::metadata("/proc/self").map_or(1, |process| process.uid()) != 0 {
        eprintln!("not tested: only root can create a network namespace");
        return false;
    }
    let this = env::current_exe().expect("the path of this program is known");
    let mut inside = Command::new("unshare");
    inside.args(["--net", "--mount"]).arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let status = inside.status().expect("unshare can be started");
    assert!(status.success(), "the test in its own network: {status}");
    false
}

/// Starts a fleet of three coordinators, with one agent behind the router, `far-0`, and one on this side, `near-0`.
async fn fleet(session_timeout: &'static str) -> Fleet {
    let spec = FleetSpec::new(3).session_timeout(session_timeout);
    let pool = |name| PoolSpec::new(name, 1).slots(SLOTS);
    let mut fleet = Fleet::prepare(spec.pool(pool("far")).pool(pool("near")));
    let port = |address: String| address.rsplit_once(':').map(|(_, port)| port.to_owned()).expect("host:port");
    let names = fleet.coordinators();
    let reached: Vec<String> =
        names.iter().map(|name| format!("{COORDINATORS}:{}", port(fleet.address(name)))).collect();
    let members: Vec<String> = names.iter().zip(&reached).map(|(name, address)| format!("{name}={address}")).collect();
    for (name, address) in names.iter().zip(&reached) {
        fleet.set_flag(name, "listen", &format!("0.0.0.0:{}", port(address.clone())));
        fleet.set_flag(name, "advertise", address);
        fleet.set_flag(name, "initial-coordinators", &members.join(","));
    }
    for name in fleet.agent_names() {
        fleet.set_flag(&name, "coordinators", &reached.join(","));
    }
    fleet.set_flag("near-0", "listen", &format!("{COORDINATORS}:0"));
    fleet.set_flag("far-0", "listen", &format!("{AGENTS}:{AGENT_PORT}"));
    fleet.start_within("far-0", &["ip", "netns", "exec", "agents"]);
    fleet.start_all();
    fleet.ready().await;
    fleet
}

/// Gives the agent behind the router a task that waits at a gate; returns the task and the process group of its
/// command.
async fn busy_behind_the_router(fleet: &Fleet, gate: &Gate) -> (String, u32) {
    loop {
        let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
        let group = fleet.executing(&id, 1).await;
        if fleet.task(&id).await.attempts[0].agent == "far-0" {
            return (id, group);
        }
    }
}

fn refuses(address: &str) -> bool {
    let address = address.parse().expect("it is an address");
    let refused = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5));
    refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_firewall_that_resets_everything_takes_no_work_of_an_agent_that_has_its_lease() {
    if !has_own_network("a_firewall_that_resets_everything_takes_no_work_of_an_agent_that_has_its_lease") {
        return;
    }
    let mut fleet = fleet("2s").await;
    let gate = fleet.gate("all");
    let (id, group) = busy_behind_the_router(&fleet, &gate).await;
    let pid = fleet.process("far-0").pid();
    firewall("-I FORWARD -p tcp -j REJECT --reject-with tcp-reset");
    assert!(refuses(&format!("{AGENTS}:{AGENT_PORT}")), "the firewall responds as the agent's machine would");
    // Some of them are assigned to this agent: what is sent to it gets a reset, which the leader notices at once.
    for _ in 0..SLOTS / 2 {
        fleet.submit_one(task(&gate.wait())).await;
    }

    fleet.executing(&id, 2).await;
    // The second attempt looked for processes of the first one when it began.
    assert_eq!(overlaps(&fleet.executions_file()), Vec::<String>::new(), "attempts that ran at the same time");
    assert_eq!(group_members(group), Vec::<u32>::new(), "the agent stopped its command on its own");
    fleet.agent_is("far-0", AgentState::Lost).await;
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the agent ran all the time");

    firewall("-D FORWARD -p tcp -j REJECT --reject-with tcp-reset");
    fleet.agent_is("far-0", AgentState::Live).await;
    gate.open();
    let ended = fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(ended.attempts[0].state(), AttemptState::Lost, "{ended:#?}");
}

#[tokio::test]
async fn behind_a_firewall_that_lets_nobody_connect_to_agents_a_guard_still_reports() {
    if !has_own_network("behind_a_firewall_that_lets_nobody_connect_to_agents_a_guard_still_reports") {
        return;
    }
    // It accepts connections that the agent opens, as stateful firewalls do.
    firewall("-I FORWARD -p tcp -d 10.77.1.1 --syn -j REJECT --reject-with tcp-reset");
    let mut fleet = fleet("600s").await;
    assert!(refuses(&format!("{AGENTS}:{AGENT_PORT}")), "nobody can connect to the agent");
    let gate = fleet.gate("all");
    let (id, group) = busy_behind_the_router(&fleet, &gate).await;
    fleet.kill("far-0");
    fleet.executing(&id, 2).await;
    assert_eq!(group_members(group), Vec::<u32>::new(), "the agent's processes were gone when its end was reported");
    gate.open();
    fleet.finished(&id, TaskState::Succeeded).await;
}

#[tokio::test]
async fn an_agent_that_is_killed_behind_a_router_is_lost_at_once() {
    if !has_own_network("an_agent_that_is_killed_behind_a_router_is_lost_at_once") {
        return;
    }
    // Long enough that no session times out during the test.
    let mut fleet = fleet("600s").await;
    let gate = fleet.gate("all");
    let (id, group) = busy_behind_the_router(&fleet, &gate).await;
    fleet.kill("far-0");
    fleet.executing(&id, 2).await;
    eventually("the end of the dead agent's command", async || {
        let left = group_members(group);
        check(left.is_empty(), (), left)
    })
    .await;
    gate.open();
    fleet.finished(&id, TaskState::Succeeded).await;
}
