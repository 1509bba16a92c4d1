//! Pools of agents: their role and specializations, their executor, and overrides for their pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, EnvVar, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration,
        TopologySpreadConstraint, Volume,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::KubeSchema;
use robeing_settings::{
    CommandSpec, Contribute, ExecutorSpec, HeaderSource as EnvironmentSource, HeaderSpec, HttpSpec, quantities,
    settings,
};
use robeing_target::{Target, TargetError};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::{
    embedded,
    limits::{
        MAX_ARG, MAX_ARGV, MAX_EXECUTOR_BYTES, MAX_GRACE_SECONDS, MAX_HEADER_NAME, MAX_HEADER_PREFIX, MAX_HEADER_VALUE,
        MAX_HEADERS, MAX_OBJECT_NAME, MAX_POD_LIST, MAX_POOL_NAME, MAX_POOL_REPLICAS, MAX_POOL_STANDBY, MAX_PORT,
        MAX_SLOTS, MAX_SPECIALIZATION_NAME, MAX_SPECIALIZATIONS, MAX_URL,
    },
    messages::Messages,
    role::Role,
    rules,
};

/// A pool of identical agents, with the same role, specializations and executor.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::specialist_has_skill(), validation = rules::resources_in_one_place(),
    validation = rules::handler_fits_executor())]
pub struct Pool {
    /// Name of the pool, unique within the cluster. Its Deployment is named after it.
    #[schemars(length(min = 1, max = MAX_POOL_NAME))]
    #[x_kube(validation = rules::pool_name_form(), validation = rules::pool_name_reserved())]
    pub name: String,

    /// Role of the agents: Worker, Specialist, Messenger or Guardian. Workers take any task. Specialists take the tasks
    /// of their specializations first, then any other. Messengers and Guardians take only tasks that require their
    /// role, or whose kind is one of their specializations. Each role has responsibilities, capabilities and a priority
    /// in a shortage, of which 1 is the highest. Worker: task_execution, data_processing; parallel_processing,
    /// batch_operations; priority 3. Specialist: domain_expertise, deep_analysis; specialized_processing,
    /// expert_knowledge; priority 2. Messenger: communication, data_transfer; protocol_handling, format_conversion;
    /// priority 4. Guardian: security, monitoring, validation; threat_detection, access_control; priority 2.
    #[serde(default)]
    pub role: Role,

    /// Specializations of the agents, such as `data_processing`. A task that requires one goes only to an agent that
    /// has it.
    #[serde(default)]
    #[schemars(schema_with = "specializations")]
    pub specializations: Vec<String>,

    /// Number of active agents. If not set, the pool starts with one agent and its size is left to an autoscaler that
    /// targets its Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_POOL_REPLICAS))]
    pub replicas: Option<u32>,

    /// Number of additional agents that are kept warm as standby. They get work only when the pool lacks an active
    /// agent, for example because one was lost.
    #[serde(default)]
    #[schemars(range(max = MAX_POOL_STANDBY))]
    pub standby: u32,

    /// Number of tasks that each agent runs at once.
    #[serde(default = "default_slots")]
    #[schemars(range(min = settings::SLOTS.least, max = MAX_SLOTS))]
    pub slots: u32,

    /// How the agents run a task. Set exactly one of command, http, worker and echo.
    pub executor: Executor,

    /// What the agents do with the messages that they receive. Set exactly one of inbox, command, http and worker. If
    /// not set, the processes that attach with the worker executor get the messages if they handle any; all other
    /// messages are kept in the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,

    /// The ports that the agent itself uses in its pod, besides those of your container. Change them if they conflict
    /// with yours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_ports: Option<AgentPorts>,

    /// The container that tasks run in, as in a pod but without a name. If not set, the agents' own image is used. With
    /// the command executor, the agent runs inside this container; with http and worker, this container keeps its own
    /// command and runs next to the agent's container.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "embedded::serialize_nameless")]
    #[schemars(schema_with = "embedded::nameless_container")]
    pub container: Option<Container>,

    /// CPU and memory of each agent's container, as for a container in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::resources")]
    pub resources: Option<ResourceRequirements>,

    /// Overrides for the pool's pods: where they may run, their environment, their volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodOverrides>,
}

impl Pool {
    /// Returns what each agent contributes to the fleet's resource pool: the CPU and memory that its container may use,
    /// or, where it has no limit, what it requests. What is not said, or not an exact amount, is left open.
    pub fn contribution(&self) -> Contribute {
        let of_container = self.container.as_ref().and_then(|container| container.resources.as_ref());
        let resources = of_container.or(self.resources.as_ref());
        let amount = |name: &str| {
            let resources = resources?;
            let of =
                |list: &Option<BTreeMap<String, Quantity>>| list.as_ref()?.get(name).map(|amount| amount.0.clone());
            of(&resources.limits).or_else(|| of(&resources.requests))
        };
        Contribute {
            cpu: amount("cpu").and_then(|text| quantities::cpu_millis(&text)),
            memory: amount("memory").and_then(|text| quantities::amount(&text)),
            storage: amount("ephemeral-storage").and_then(|text| quantities::amount(&text)),
            bandwidth: None,
        }
    }
}

fn default_slots() -> u32 {
    settings::SLOTS.default
}

fn specializations(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": MAX_SPECIALIZATIONS,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            "maxLength": MAX_SPECIALIZATION_NAME,
            "x-kubernetes-validations": rules::as_json(&[rules::specialization_form()]),
        },
    })
}

/// The ports of an agent in its pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::agent_ports_differ())]
pub struct AgentPorts {
    /// Port at which the coordinators reach the agent (gRPC).
    #[serde(default = "default_grpc_port")]
    #[schemars(range(min = 1, max = MAX_PORT))]
    pub grpc: u32,

    /// Port for the agent's metrics and probes (HTTP).
    #[serde(default = "default_metrics_port")]
    #[schemars(range(min = 1, max = MAX_PORT))]
    pub metrics: u32,

    /// Port that worker processes attach to, with the worker executor; on the loopback interface only. The environment
    /// variable ROBEING_WORKER_ADDRESS gives them the address.
    #[serde(default = "default_attach_port")]
    #[schemars(range(min = 1, max = MAX_PORT))]
    pub attach: u32,
}

impl Default for AgentPorts {
    fn default() -> Self {
        Self { grpc: default_grpc_port(), metrics: default_metrics_port(), attach: default_attach_port() }
    }
}

fn default_grpc_port() -> u32 {
    17_080
}

fn default_metrics_port() -> u32 {
    17_090
}

fn default_attach_port() -> u32 {
    17_081
}

/// How an agent runs a task.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Executor {
    /// Run a program for each task, with the task's input on its standard input; its standard output is the task's
    /// output.
    Command(CommandExecutor),
    /// POST each task's input to a URL; the body of a 2xx response is the output.
    Http(HttpExecutor),
    /// A process of the user attaches to the agent over local gRPC and gets tasks from it.
    Worker {},
    /// Return the input as the output, for experiments and benchmarks.
    Echo {},
}

impl JsonSchema for Executor {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Executor".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        ExecutorFields::json_schema(generator)
    }
}

/// The schema of an [`Executor`]. A structural schema has no variants, so the choice is a rule over optional fields,
/// which also gives a better message than `oneOf` would.
#[derive(KubeSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_executor())]
struct ExecutorFields {
    /// Run a program for each task. The task's input is on its standard input, and its standard output is the task's
    /// output; any non-zero exit code is a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandExecutor>,

    /// POST each task's input to a URL; the body of a 2xx response is the task's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpExecutor>,

    /// Your own process, in any language, attaches to the agent over local gRPC and gets tasks from it. The environment
    /// variable ROBEING_WORKER_ADDRESS gives it the agent's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<NoSettings>,

    /// Return each task's input as its output, for experiments and benchmarks.
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<NoSettings>,
}

/// A choice without settings, written as `{}`.
#[derive(KubeSchema, Serialize)]
pub(crate) struct NoSettings {}

/// Runs a program for each task.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CommandExecutor {
    /// The program and its arguments. No shell is involved; to use one, write `[/bin/sh, -c, "..."]`.
    #[schemars(length(min = 1, max = MAX_ARGV), inner(length(max = MAX_ARG)))]
    #[x_kube(validation = rules::argv_names_a_program())]
    pub argv: Vec<String>,
}

/// Sends each task to a URL.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpExecutor {
    /// The URL to POST the input to, such as `http://127.0.0.1:9000/run` for a server in the pool's own container.
    #[schemars(length(min = 1, max = MAX_URL))]
    #[x_kube(validation = rules::http_url())]
    pub url: String,

    /// The path to GET from the same server, such as `/healthz`, to find out whether it can take tasks: any status
    /// other than 2xx means that it can't. If not set, the server counts as healthy while it accepts connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_URL))]
    #[x_kube(validation = rules::health_path())]
    pub health_path: Option<String>,

    /// Headers to send with every request, such as Content-Type, whose default is application/octet-stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_HEADERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<HttpHeader>,
}

/// A header of an HTTP request. Set exactly one of value and valueFrom.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_header_value(), validation = rules::header_prefix_has_use())]
pub struct HttpHeader {
    /// Name of the header, such as `Content-Type`.
    #[schemars(length(min = 1, max = MAX_HEADER_NAME))]
    #[x_kube(validation = rules::header_name_form(), validation = rules::header_name_reserved())]
    pub name: String,

    /// Literal value of the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_HEADER_VALUE))]
    #[x_kube(validation = rules::header_value_form())]
    pub value: Option<String>,

    /// Text to put before a value from a Secret, such as `Bearer ` with its trailing space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_HEADER_PREFIX))]
    #[x_kube(validation = rules::header_value_form())]
    pub prefix: Option<String>,

    /// Source of the value, so that the value itself is neither in this resource nor in the pods' specs. A running pod
    /// keeps the value it started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<HeaderSource>,
}

/// The source of a header's value.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeaderSource {
    /// A key of a Secret in the cluster's namespace. A trailing newline in its value is removed.
    pub secret_key_ref: SecretKey,
}

/// A key of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub name: String,

    /// Key within the Secret.
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub key: String,
}

impl HttpExecutor {
    /// Returns the URL to call, parsed as agents parse it.
    ///
    /// # Errors
    /// If the URL can't be called.
    pub fn target(&self) -> Result<Target, TargetError> {
        Target::parse(&self.url)
    }
}

impl Executor {
    /// Returns the first problem that agents would refuse but no schema rule can express: the field, relative to the
    /// executor, and a sentence.
    pub fn problem(&self) -> Option<(String, String)> {
        self.word_problem().or_else(|| self.size_problem())
    }

    fn size_problem(&self) -> Option<(String, String)> {
        let size = self.for_agents().to_json().len();
        let (field, advice) = match self {
            Self::Command(_) => ("command.argv", "put long texts into a file that the command reads"),
            Self::Http(_) => ("http.headers", "shorten the headers"),
            Self::Worker {} | Self::Echo {} => return None,
        };
        let problem = format!(
            "This executor has {size} bytes as JSON, but an agent can be given {MAX_EXECUTOR_BYTES} at most; {advice}."
        );
        (size > MAX_EXECUTOR_BYTES).then(|| (field.to_owned(), problem))
    }

    fn word_problem(&self) -> Option<(String, String)> {
        match self {
            Self::Command(command) => nul_problem(command),
            Self::Http(http) => match (http.target(), &http.health_path) {
                (Err(error), _) => Some(("http.url".into(), format!("This URL can't be called: {error}."))),
                (Ok(target), Some(path)) => {
                    let error = target.at(path).err()?;
                    Some(("http.healthPath".into(), format!("This path can't be requested: {error}.")))
                }
                (Ok(_), None) => None,
            },
            Self::Worker {} | Self::Echo {} => None,
        }
    }

    /// Returns the Secrets of headers, each with the environment variable in which the agent finds the value.
    pub fn secrets(&self) -> Vec<(String, &SecretKey)> {
        let Self::Http(http) = self else { return Vec::new() };
        let sources = http.headers.iter().enumerate();
        let from_secrets = sources.filter_map(|(index, header)| Some((index, header.value_from.as_ref()?)));
        from_secrets.map(|(index, from)| (header_variable(index), &from.secret_key_ref)).collect()
    }

    /// Returns the executor in the form for agents: values from Secrets are replaced by the environment variables of
    /// [`Executor::secrets`].
    pub fn for_agents(&self) -> ExecutorSpec {
        match self {
            Self::Command(command) => ExecutorSpec::Command(CommandSpec { argv: command.argv.clone() }),
            Self::Http(http) => ExecutorSpec::Http(HttpSpec {
                url: http.url.clone(),
                health_path: http.health_path.clone(),
                headers: http.headers.iter().enumerate().map(|(index, header)| header.for_agents(index)).collect(),
            }),
            Self::Worker {} => ExecutorSpec::Worker {},
            Self::Echo {} => ExecutorSpec::Echo {},
        }
    }
}

/// Returns the problem of a command with a NUL character: the field, relative to what has `command`, and a sentence.
pub(crate) fn nul_problem(command: &CommandExecutor) -> Option<(String, String)> {
    let index = command.argv.iter().position(|word| word.contains('\0'))?;
    let problem = "This has a NUL character, which no program can be given; remove it.";
    Some((format!("command.argv[{index}]"), problem.into()))
}

impl HttpHeader {
    fn for_agents(&self, index: usize) -> HeaderSpec {
        let value_from = self.value_from.as_ref().map(|_| EnvironmentSource { env: header_variable(index) });
        HeaderSpec { name: self.name.clone(), value: self.value.clone(), prefix: self.prefix.clone(), value_from }
    }
}

/// Returns the environment variable for the value of the header at this index.
fn header_variable(index: usize) -> String {
    format!("ROBEING_HTTP_HEADER_{index}")
}

/// Overrides for the pods of a pool or of the coordinators. Every field has the same meaning as in a pod's spec.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodOverrides {
    /// Labels to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::string_map")]
    pub labels: BTreeMap<String, String>,

    /// Annotations to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::string_map")]
    pub annotations: BTreeMap<String, String>,

    /// Labels that a node must have for the pods to run on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::string_map")]
    pub node_selector: BTreeMap<String, String>,

    /// Node taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::list_of::<Toleration>", length(max = MAX_POD_LIST))]
    pub tolerations: Vec<Toleration>,

    /// Node and pod affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::slim::<Affinity>")]
    pub affinity: Option<Affinity>,

    /// How the pods are spread across nodes and zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::list_of::<TopologySpreadConstraint>", length(max = MAX_POD_LIST))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// Environment variables to add to the container that tasks run in, or to the coordinators' container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::list_of::<EnvVar>", length(max = MAX_POD_LIST))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,

    /// Volumes to add to the pods; a pool mounts them with `container.volumeMounts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::list_of::<Volume>", length(max = MAX_POD_LIST))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub volumes: Vec<Volume>,

    /// Secrets for pulling the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::list_of::<LocalObjectReference>", length(max = MAX_POD_LIST))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Security settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::slim::<PodSecurityContext>")]
    pub security_context: Option<PodSecurityContext>,

    /// The service account that the pods run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub service_account_name: Option<String>,

    /// The PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub priority_class_name: Option<String>,

    /// The RuntimeClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub runtime_class_name: Option<String>,

    /// Seconds that an agent has, after it is asked to stop, to finish or hand back its tasks, or that a coordinator
    /// has to hand over leadership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_GRACE_SECONDS))]
    pub termination_grace_period_seconds: Option<i64>,
}
