//! The specification of a fleet of real processes.

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
    /// Creates a pool of `agents` workers, which run the tasks' inputs as shell scripts.
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

    /// Adds standby agents.
    pub fn standby(mut self, standby: u32) -> Self {
        self.standby = standby;
        self
    }

    /// Sets the number of tasks that an agent runs at once.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Makes the agents specialists instead of workers.
    pub fn specialists(mut self, specialization: &str) -> Self {
        self.role = "Specialist";
        self.specializations = vec![specialization.into()];
        self
    }

    /// Gives the agents another role, as in manifests.
    pub fn role(mut self, role: &'static str) -> Self {
        self.role = role;
        self
    }

    /// Sets another executor, in the form that manifests use.
    pub fn executor(mut self, executor: Value) -> Self {
        self.executor = Some(executor);
        self
    }

    /// Adds a flag to the agents' command line, without its dashes; it replaces one of the same name.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push((name.into(), value.into()));
        self
    }
}

/// The specification of a fleet.
#[derive(Clone, Debug)]
pub struct FleetSpec {
    pub(super) coordinators: u32,
    pub(super) pools: Vec<PoolSpec>,
    session_timeout: &'static str,
    pub(super) flags: Vec<(String, String)>,
    pub(super) environment: Vec<String>,
    pub(super) tls: bool,
}

impl FleetSpec {
    /// Creates a fleet of `coordinators` coordinators and no agents.
    pub fn new(coordinators: u32) -> Self {
        Self {
            coordinators,
            pools: Vec::new(),
            session_timeout: "2s",
            flags: Vec::new(),
            environment: Vec::new(),
            tls: false,
        }
    }

    /// Runs the fleet with TLS and certificates, as `robeing dev` does.
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Adds a pool.
    pub fn pool(mut self, pool: PoolSpec) -> Self {
        self.pools.push(pool);
        self
    }

    /// Sets the session timeout, for tests in which only one certain loss may happen.
    pub fn session_timeout(mut self, timeout: &'static str) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// Adds a flag to the coordinators' command line, without its dashes; it replaces one of the same name.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push((name.into(), value.into()));
        self
    }

    /// Adds a variable to the environment of all processes.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Returns the manifest; its tasks record their executions in this file.
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
        // JSON is valid YAML.
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
