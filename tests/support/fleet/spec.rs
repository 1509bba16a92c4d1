//! What a fleet of real processes is made of.

use std::path::Path;

use serde_json::{Value, json};

use crate::script::shell_executor;

/// A pool of agents.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    pub(super) name: String,
    agents: u32,
    standby: u32,
    slots: u32,
    role: &'static str,
    specializations: Vec<String>,
    executor: Option<Value>,
    pub(super) flags: Vec<(String, String)>,
}

impl PoolSpec {
    /// So many workers, which run the tasks' inputs as shell scripts.
    pub fn new(name: &str, agents: u32) -> Self {
        Self {
            name: name.into(),
            agents,
            standby: 0,
            slots: 4,
            role: "Worker",
            specializations: Vec::new(),
            executor: None,
            flags: Vec::new(),
        }
    }

    /// Further agents that wait as standby.
    pub fn standby(mut self, standby: u32) -> Self {
        self.standby = standby;
        self
    }

    /// Tasks an agent runs at once.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Specialists instead of workers.
    pub fn specialists(mut self, specialization: &str) -> Self {
        self.role = "Specialist";
        self.specializations = vec![specialization.into()];
        self
    }

    /// Another executor, in the form of a manifest.
    pub fn executor(mut self, executor: Value) -> Self {
        self.executor = Some(executor);
        self
    }

    /// A flag of the agents' command line, without the dashes; replaces one of the same name.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push((name.into(), value.into()));
        self
    }
}

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct FleetSpec {
    pub(super) coordinators: u32,
    pub(super) pools: Vec<PoolSpec>,
    session_timeout: &'static str,
    pub(super) flags: Vec<(String, String)>,
    pub(super) environment: Vec<String>,
}

impl FleetSpec {
    /// So many coordinators and no agents.
    pub fn new(coordinators: u32) -> Self {
        Self { coordinators, pools: Vec::new(), session_timeout: "2s", flags: Vec::new(), environment: Vec::new() }
    }

    /// With a pool.
    pub fn pool(mut self, pool: PoolSpec) -> Self {
        self.pools.push(pool);
        self
    }

    /// With another session timeout, for tests in which no loss but a certain one may be seen.
    pub fn session_timeout(mut self, timeout: &'static str) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// A flag of the coordinators' command line, without the dashes; replaces one of the same name.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push((name.into(), value.into()));
        self
    }

    /// A variable in the environment of all processes.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// As a manifest whose tasks note their executions in this file.
    pub(super) fn manifest(&self, executions: &Path) -> String {
        let pool = |pool: &PoolSpec| {
            json!({
                "name": pool.name,
                "role": pool.role,
                "specializations": pool.specializations,
                "replicas": pool.agents,
                "standby": pool.standby,
                "slots": pool.slots,
                "executor": pool.executor.clone().unwrap_or_else(|| shell_executor(executions)),
            })
        };
        let pools: Vec<Value> = self.pools.iter().map(pool).collect();
        // JSON is YAML.
        json!({
            "apiVersion": "robeing.io/v1alpha1",
            "kind": "RobeingCluster",
            "metadata": {"name": "tested"},
            "spec": {
                "coordinators": {"replicas": self.coordinators},
                "pools": pools,
                "recovery": {"heartbeatInterval": "500ms", "sessionTimeout": self.session_timeout},
            },
        })
        .to_string()
    }
}
