//! What messengers call outside the fleet.

use kube::KubeSchema;
use robeing_settings::WEBHOOK_SECRET_VARIABLES;
use robeing_target::Target;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    SecretKey,
    limits::{MAX_SPECIALIZATION_NAME, MAX_URL, MAX_WEBHOOK_KINDS, MAX_WEBHOOK_NAME, MAX_WEBHOOKS},
    rules,
};

/// The gateway of messengers, and the webhooks that they call.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Webhooks that messengers call when tasks end. Their names are unique. The fleet needs a pool of the role Messenger
    /// for them; a change restarts the messengers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_WEBHOOKS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub webhooks: Vec<Webhook>,
}

impl Gateway {
    /// Returns whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.webhooks.is_empty()
    }
}

/// A webhook: a server that is told when tasks end.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Name of the webhook, unique in the cluster: lower-case letters, digits and '-'.
    #[schemars(length(min = 1, max = MAX_WEBHOOK_NAME))]
    #[x_kube(validation = rules::webhook_name())]
    pub name: String,

    /// The URL that events are posted to. It contains no user and password.
    #[schemars(length(min = 1, max = MAX_URL))]
    #[x_kube(validation = rules::http_url())]
    #[x_kube(validation = rules::no_credentials())]
    pub url: String,

    /// The key of a Secret in the cluster's namespace with which events are signed: 24 to 64 bytes, as text or as `whsec_`
    /// and base64.
    pub secret_key_ref: SecretKey,

    /// Kinds of tasks that it is called for; all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_WEBHOOK_KINDS), inner(length(min = 1, max = MAX_SPECIALIZATION_NAME)))]
    pub kinds: Vec<String>,

    /// Ends of tasks that it is called for; all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub states: Vec<WebhookState>,
}

/// How a task ended.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum WebhookState {
    /// It has an output.
    Succeeded,
    /// It failed, and is not tried again.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// All of its attempts failed.
    DeadLettered,
}

impl WebhookState {
    /// Returns the name that agents read.
    fn for_agents(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

/// Returns the environment variable in which a messenger finds the secret of the webhook with this index.
fn variable(index: usize) -> String {
    format!("{WEBHOOK_SECRET_VARIABLES}{}", index + 1)
}

impl Gateway {
    /// Returns the first problem that messengers would refuse but no schema rule can express: the field, relative to this,
    /// and a sentence.
    pub fn problem(&self) -> Option<(String, String)> {
        let mut webhooks = self.webhooks.iter().enumerate();
        let (index, error) = webhooks.find_map(|(index, webhook)| Some((index, Target::parse(&webhook.url).err()?)))?;
        Some((format!("webhooks[{index}].url"), format!("This URL can't be called: {error}.")))
    }

    /// Returns the Secrets of the webhooks, each with the environment variable in which messengers find the value.
    pub fn secrets(&self) -> impl Iterator<Item = (String, &SecretKey)> {
        self.webhooks.iter().enumerate().map(|(index, webhook)| (variable(index), &webhook.secret_key_ref))
    }

    /// Returns the list of webhooks as messengers read it, JSON. Instead of secrets, it has the variables of
    /// [`Gateway::secrets`].
    pub fn for_agents(&self) -> String {
        let webhook = |(index, webhook): (usize, &Webhook)| {
            let states: Vec<_> = webhook.states.iter().map(|state| state.for_agents()).collect();
            json!({
                "name": webhook.name,
                "url": webhook.url,
                "secret": {"env": variable(index)},
                "kinds": webhook.kinds,
                "states": states,
            })
        };
        json!(self.webhooks.iter().enumerate().map(webhook).collect::<Vec<_>>()).to_string()
    }
}
