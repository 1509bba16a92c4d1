//! Which processes a cluster's fleet is made of, and how each is called. Pure.

use std::path::Path;

use robeing_crds::{Executor, Pool, RobeingClusterSpec, Role};

use super::DRAIN_TIMEOUT;

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessKind {
    /// A coordinator.
    Coordinator,
    /// An agent of a pool.
    Agent {
        /// The pool's name.
        pool: String,
    },
}

/// A process of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Name of the coordinator or agent, the same after a restart.
    pub name: String,
    /// What it is.
    pub kind: ProcessKind,
    /// Its command line, without the program.
    pub arguments: Vec<String>,
}

/// The processes of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The fleet's name.
    pub name: String,
    /// The coordinators' addresses, host:port, in the order of their names.
    pub coordinators: Vec<String>,
    /// Agents that work and agents that stand by, as the manifest asks for.
    pub agents: (u32, u32),
    /// The agents to which processes of the user's attach, and where, host:port.
    pub attachable: Vec<(String, String)>,
    /// The manifest asks for no agents for the time being.
    pub suspended: bool,
    /// All processes, coordinators first.
    pub processes: Vec<Process>,
}

impl Plan {
    /// The processes of a cluster whose coordinators listen on these ports of the loopback address, and whose agents let
    /// processes attach at those of `attach`, as many as [`attachable_agents`] says.
    pub fn of(spec: &RobeingClusterSpec, name: &str, ports: &[u16], attach: &[u16], data: &Path) -> Self {
        let coordinators: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut processes: Vec<Process> =
            (0..ports.len()).map(|index| coordinator(spec, name, index, &coordinators, data)).collect();
        let pools = running_pools(spec);
        let mut attach = attach.iter().map(|port| format!("127.0.0.1:{port}"));
        let mut attachable = Vec::new();
        for pool in pools {
            for index in 0..replicas(pool) + pool.standby {
                let at = if is_attachable(pool) { attach.next() } else { None };
                let agent = agent(pool, name, index, &coordinators, at.as_deref());
                attachable.extend(at.map(|at| (agent.name.clone(), at)));
                processes.push(agent);
            }
        }
        let agents =
            pools.iter().fold((0, 0), |(working, standby), pool| (working + replicas(pool), standby + pool.standby));
        Self { name: name.into(), coordinators, agents, attachable, suspended: spec.suspend, processes }
    }

    /// The coordinators' addresses as URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.coordinators.iter().map(|address| format!("http://{address}")).collect()
    }
}

fn running_pools(spec: &RobeingClusterSpec) -> &[Pool] {
    if spec.suspend { &[] } else { &spec.pools }
}

/// How many agents of a cluster have processes of the user's attached to them.
pub fn attachable_agents(spec: &RobeingClusterSpec) -> usize {
    let pools = running_pools(spec).iter().filter(|pool| is_attachable(pool));
    pools.map(|pool| (replicas(pool) + pool.standby) as usize).sum()
}

fn is_attachable(pool: &Pool) -> bool {
    matches!(pool.executor, Executor::Worker {})
}

/// A pool that is left to an autoscaler has one agent here.
fn replicas(pool: &Pool) -> u32 {
    pool.replicas.unwrap_or(1)
}

fn coordinator(
    spec: &RobeingClusterSpec,
    cluster: &str,
    index: usize,
    coordinators: &[String],
    data: &Path,
) -> Process {
    let name = coordinator_name(index);
    let weights = &spec.scheduling.weights;
    let members: Vec<String> = coordinators
        .iter()
        .enumerate()
        .map(|(index, address)| format!("{}={address}", coordinator_name(index)))
        .collect();
    let arguments = flags([
        ("role", "coordinator".into()),
        ("name", name.clone()),
        ("cluster-id", cluster.into()),
        ("listen", coordinators[index].clone()),
        ("data", data.join(&name).display().to_string()),
        ("initial-coordinators", members.join(",")),
        ("metrics-listen", "127.0.0.1:0".into()),
        ("heartbeat-interval", spec.recovery.heartbeat_interval.to_string()),
        ("session-timeout", spec.recovery.session_timeout.to_string()),
        ("health-check-interval", spec.recovery.health_check_interval.to_string()),
        ("max-attempts", spec.recovery.max_attempts.to_string()),
        (
            "weights",
            format!(
                "specialization={},load={},performance={}",
                weights.specialization, weights.load, weights.performance
            ),
        ),
    ]);
    Process { name, kind: ProcessKind::Coordinator, arguments }
}

fn coordinator_name(index: usize) -> String {
    format!("coordinator-{index}")
}

fn agent(pool: &Pool, cluster: &str, index: u32, coordinators: &[String], attach: Option<&str>) -> Process {
    let name = format!("{}-{index}", pool.name);
    let executor = serde_json::to_string(&pool.executor).unwrap_or_else(|error| {
        unreachable!("an executor is strings and lists of strings, which have a JSON form: {error}")
    });
    let mut given = vec![
        ("role", role_flag(pool.role).into()),
        ("name", name.clone()),
        ("cluster-id", cluster.into()),
        ("coordinators", coordinators.join(",")),
        ("listen", "127.0.0.1:0".into()),
        ("pool", pool.name.clone()),
        ("pool-replicas", replicas(pool).to_string()),
        ("pool-standby", pool.standby.to_string()),
        ("slots", pool.slots.to_string()),
        ("executor", executor),
        ("drain-timeout", format!("{}s", DRAIN_TIMEOUT.as_secs())),
    ];
    if !pool.specializations.is_empty() {
        given.push(("specializations", pool.specializations.join(",")));
    }
    if let Some(address) = attach {
        given.push(("worker-listen", address.into()));
    }
    Process { name, kind: ProcessKind::Agent { pool: pool.name.clone() }, arguments: flags(given) }
}

fn role_flag(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Specialist => "specialist",
        Role::Messenger => "messenger",
        Role::Guardian => "guardian",
    }
}

/// Every flag is one word, so that a value that begins with a dash is no flag.
fn flags(given: impl IntoIterator<Item = (&'static str, String)>) -> Vec<String> {
    let mut flags: Vec<String> = given.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
    flags.push("--exit-with-parent".into());
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: example}
spec:
  coordinators: {replicas: 3}
  pools:
  - name: data
    role: Specialist
    specializations: [data_processing, text]
    replicas: 2
    standby: 1
    slots: 4
    executor: {command: {argv: [/bin/sh, -c, "wc -w"]}}
  - name: free
    executor: {echo: {}}
  - name: mine
    standby: 1
    executor: {worker: {}}
  recovery: {heartbeatInterval: 250ms, sessionTimeout: 1s, maxAttempts: 3}
"#;

    fn plan(manifest: &str) -> Plan {
        let cluster = robeing_crds::parse_manifest(manifest).unwrap_or_else(|error| panic!("{error}"));
        let attach: Vec<u16> = (5001..).take(attachable_agents(&cluster.spec)).collect();
        Plan::of(&cluster.spec, "example", &[4001, 4002, 4003], &attach, Path::new("/data"))
    }

    #[test]
    fn every_process_has_its_command_line() {
        let plan = plan(MANIFEST);
        assert_eq!(plan.agents, (4, 2));
        let at = |name: &str, port: u16| (name.to_owned(), format!("127.0.0.1:{port}"));
        assert_eq!(plan.attachable, [at("mine-0", 5001), at("mine-1", 5002)]);
        let lines: Vec<_> = plan.processes.iter().map(|process| process.arguments.join("\n  ")).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_suspended_cluster_has_coordinators_alone() {
        let plan = plan(&format!("{MANIFEST}  suspend: true\n"));
        assert!(plan.suspended);
        assert_eq!(plan.processes.len(), 3);
        assert!(plan.processes.iter().all(|process| process.kind == ProcessKind::Coordinator));
    }
}
