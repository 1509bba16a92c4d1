//! What the agents of a pool do with the messages that they receive.

use kube::KubeSchema;
use robeing_settings::{CommandSpec, MessagesHttpSpec, MessagesSpec};
use robeing_target::{Target, TargetError};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::{
    limits::{MAX_EXECUTOR_BYTES, MAX_URL},
    pool::{CommandExecutor, NoSettings, nul_problem},
    rules,
};

/// What an agent does with the messages that it receives.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Messages {
    /// Keep messages in the agent until somebody reads them.
    Inbox {},
    /// Run a program for each message.
    Command(CommandExecutor),
    /// POST each message's payload to a URL.
    Http(MessagesHttp),
    /// Hand messages to the processes that attach to the agent.
    Worker {},
}

impl JsonSchema for Messages {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Messages".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        MessagesFields::json_schema(generator)
    }
}

/// The schema of [`Messages`]; see [`crate::Executor`] for why it is a rule over optional fields.
#[derive(KubeSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_handler())]
struct MessagesFields {
    /// Keep messages in the agent's memory until somebody reads them, for example with `robeing inbox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    inbox: Option<NoSettings>,

    /// Run a program for each message, in the container that the agent runs in. The message's payload is on its
    /// standard input; if it exits with 0, its standard output is the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandExecutor>,

    /// POST each message's payload to a URL. A 2xx response accepts the message, and its body is the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<MessagesHttp>,

    /// Hand messages to your own process, which attaches to the agent over local gRPC. It needs the worker executor.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<NoSettings>,
}

/// Sends each message to a URL.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MessagesHttp {
    /// The URL to POST the payload to, such as `http://127.0.0.1:9000/messages` for a server in the pool's own
    /// container.
    #[schemars(length(min = 1, max = MAX_URL))]
    #[x_kube(validation = rules::http_url())]
    pub url: String,
}

impl MessagesHttp {
    /// Returns the URL to call, parsed as agents parse it.
    ///
    /// # Errors
    /// If the URL can't be called.
    pub fn target(&self) -> Result<Target, TargetError> {
        Target::parse(&self.url)
    }
}

impl Messages {
    /// Returns the first problem that agents would refuse but no schema rule can express: the field, relative to
    /// `messages`, and a sentence.
    pub fn problem(&self) -> Option<(String, String)> {
        match self {
            Self::Command(command) => nul_problem(command).or_else(|| self.size_problem()),
            Self::Http(http) => {
                let error = http.target().err()?;
                Some(("http.url".into(), format!("This URL can't be called: {error}.")))
            }
            Self::Inbox {} | Self::Worker {} => None,
        }
    }

    fn size_problem(&self) -> Option<(String, String)> {
        let size = self.for_agents().to_json().len();
        let problem = format!(
            "This has {size} bytes as JSON, but an agent can be given {MAX_EXECUTOR_BYTES} at most; put long texts into a \
             file that the command reads."
        );
        (size > MAX_EXECUTOR_BYTES).then(|| ("command.argv".to_owned(), problem))
    }

    /// Returns it in the form for agents.
    pub fn for_agents(&self) -> MessagesSpec {
        match self {
            Self::Inbox {} => MessagesSpec::Inbox {},
            Self::Command(command) => MessagesSpec::Command(CommandSpec { argv: command.argv.clone() }),
            Self::Http(http) => MessagesSpec::Http(MessagesHttpSpec { url: http.url.clone() }),
            Self::Worker {} => MessagesSpec::Worker {},
        }
    }
}
