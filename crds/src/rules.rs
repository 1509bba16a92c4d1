//! The CEL rules of the schema, each with the message for a violation. The API server evaluates them on every write,
//! and [`crate::parse_manifest`] on every manifest. A message states what to change; the code that reports it adds the
//! path of the field.

use std::time::Duration;

use kube::core::{Message, Rule};
use robeing_settings::{Span, settings::HEARTBEATS_PER_SESSION, text};
use serde_json::{Value, json};

use crate::limits::{MAX_CLUSTER_AND_POOL_NAME, MAX_CLUSTER_NAME};

/// The duration format of this schema: digits with an optional fraction and a unit, repeated. The limits on digits keep
/// every accepted value within the API server's 64-bit nanoseconds.
pub(crate) const DURATION_FORM: &str = r"^([0-9]{1,6}([.][0-9]{1,3})?(ms|s|m|h))+$";

fn rule(rule: impl Into<String>, message: impl AsRef<str>) -> Rule {
    Rule::new(rule).message(message.as_ref())
}

/// Returns rules in their JSON schema form, for schemas that are not derived.
pub(crate) fn as_json(rules: &[Rule]) -> Value {
    Value::Array(
        rules
            .iter()
            .map(|rule| {
                let mut entry = json!({ "rule": rule.rule });
                match &rule.message {
                    Some(Message::Message(text)) => entry["message"] = json!(text),
                    Some(Message::Expression(text)) => entry["messageExpression"] = json!(text),
                    None => {}
                }
                entry
            })
            .collect(),
    )
}

pub(crate) fn cluster_name_form() -> Rule {
    rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "The name of a RobeingCluster must be lower-case letters, digits and '-', start with a letter and end with \
         a letter or digit, because its Services are named after it.",
    )
    .field_path(".metadata.name")
}

pub(crate) fn cluster_name_length() -> Rule {
    rule(
        format!("size(self.metadata.name) <= {MAX_CLUSTER_NAME}"),
        format!(
            "The name of a RobeingCluster may have at most {MAX_CLUSTER_NAME} characters, to leave room for the names \
             derived from it; choose a shorter one."
        ),
    )
    .field_path(".metadata.name")
}

// The message does not name the pool: the API server considers a message computed from a list too costly.
pub(crate) fn derived_names() -> Rule {
    rule(
        format!(
            "!has(self.spec.pools) || \
             self.spec.pools.all(p, size(self.metadata.name) + size(p.name) <= {MAX_CLUSTER_AND_POOL_NAME})"
        ),
        format!(
            "The name of the cluster and that of a pool may have at most {MAX_CLUSTER_AND_POOL_NAME} characters \
             together, to leave room for the names of the pool's pods; shorten metadata.name or the longest pool name."
        ),
    )
    .field_path(".spec.pools")
}

pub(crate) fn replicas_of_a_pool() -> Rule {
    rule(
        "!has(self.spec.replicas) || has(self.spec.scaledPool)",
        "This RobeingCluster does not say which pool to scale; name one in spec.scaledPool, or set replicas of the \
         pools themselves, in spec.pools.",
    )
    .field_path(".spec.replicas")
}

pub(crate) fn scaled_pool_has_a_size() -> Rule {
    rule(
        "!has(self.spec.scaledPool) || has(self.spec.replicas)",
        "The pool to scale needs a size to begin with; set spec.replicas.",
    )
    .field_path(".spec.scaledPool")
}

pub(crate) fn scaled_pool_is_a_pool() -> Rule {
    rule(
        "!has(self.spec.scaledPool) || (has(self.spec.pools) && \
         self.spec.pools.exists(p, p.name == self.spec.scaledPool && !has(p.replicas)))",
        "The pool to scale must be one of spec.pools that has no replicas of its own; its size is spec.replicas.",
    )
    .field_path(".spec.scaledPool")
}

/// The name of the Secret in which the operator keeps a cluster's authority is `<cluster>-authority`.
pub(crate) fn authority_is_not_the_operators() -> Rule {
    rule(
        "!has(self.spec.identity) || !has(self.spec.identity.authority) || \
         self.spec.identity.authority.secretName != self.metadata.name + '-authority'",
        "This Secret is the operator's own, for the authority that members are certified by; name a Secret of yours.",
    )
    .field_path(".spec.identity.authority.secretName")
}

pub(crate) fn trust_domain_form() -> Rule {
    rule(
        "self.matches('^[-._a-z0-9]+$')",
        "The trust domain must be lower-case letters, digits, '-', '.' and '_', such as robeing.local.",
    )
}

pub(crate) fn trust_domain_is_kept() -> Rule {
    rule(
        "self == oldSelf",
        "The trust domain is part of the names of all members and cannot be changed after the cluster was made; put it \
         back, or make a new RobeingCluster.",
    )
}

pub(crate) fn agent_ports_differ() -> Rule {
    rule(
        "self.grpc != self.metrics && self.grpc != self.attach && self.metrics != self.attach",
        "An agent needs three different ports; change one of grpc, metrics and attach.",
    )
}

pub(crate) fn odd_coordinators() -> Rule {
    rule(
        "self % 2 != 0",
        "The number of coordinators must be odd (1, 3, 5 or 7): an even one survives no more losses than the odd one \
         below it.",
    )
}

pub(crate) fn storage_is_kept() -> Rule {
    rule(
        "has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || \
         (has(self.storage.storageClassName) == has(oldSelf.storage.storageClassName) && \
         (!has(self.storage.storageClassName) || self.storage.storageClassName == oldSelf.storage.storageClassName)))",
        "The storage of the coordinators cannot be added, removed or given another class after the cluster was made; \
         put it back, or make a new RobeingCluster.",
    )
    .field_path(".storage")
}

pub(crate) fn storage_size() -> Rule {
    rule(
        "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
        "The size must be a Kubernetes quantity above zero, such as 1Gi.",
    )
}

pub(crate) fn resource_quantity() -> Rule {
    rule(
        "isQuantity(string(self)) && !quantity(string(self)).isLessThan(quantity('0'))",
        "The amount must be a Kubernetes quantity that is not negative, such as 500m, 2 or 1Gi.",
    )
}

pub(crate) fn image() -> Rule {
    rule(
        "self.matches('^[^[:space:]]+$')",
        "The image must be a reference without spaces, such as registry.example/robeing:1.0.",
    )
}

pub(crate) fn pool_name_form() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "The name of a pool must be lower-case letters, digits and '-', and start and end with a letter or digit.",
    )
}

pub(crate) fn pool_name_reserved() -> Rule {
    rule(
        "!(self in ['coordinator', 'coordinators'])",
        "This name belongs to the coordinators' own objects; give the pool another.",
    )
}

pub(crate) fn specialization_form() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-_a-z0-9]*[a-z0-9])?$')",
        "A specialization must be lower-case letters, digits, '-' and '_', and start and end with a letter or digit, \
         such as data_processing.",
    )
}

pub(crate) fn specialist_has_skill() -> Rule {
    rule(
        "self.role != 'Specialist' || size(self.specializations) > 0",
        "A pool of specialists must name at least one specialization; add one, or set the role to Worker.",
    )
    .field_path(".specializations")
}

pub(crate) fn resources_in_one_place() -> Rule {
    rule(
        "!(has(self.resources) && has(self.container) && has(self.container.resources))",
        "Resources are set on the pool and on its container; keep one of the two.",
    )
    .field_path(".resources")
}

pub(crate) fn one_executor() -> Rule {
    let set = |name: &str| format!("(has(self.{name}) ? 1 : 0)");
    let count = ["command", "http", "worker", "echo"].map(set).join(" + ");
    rule(format!("{count} == 1"), "An executor must set exactly one of command, http, worker and echo.")
}

pub(crate) fn one_handler() -> Rule {
    let set = |name: &str| format!("(has(self.{name}) ? 1 : 0)");
    let count = ["inbox", "command", "http", "worker"].map(set).join(" + ");
    rule(format!("{count} == 1"), "What is done with messages must set exactly one of inbox, command, http and worker.")
}

pub(crate) fn handler_fits_executor() -> Rule {
    rule(
        "!has(self.messages) || !has(self.messages.worker) || has(self.executor.worker)",
        "Only with the worker executor can processes attach to the agents and get messages; set executor to worker, or \
         messages to inbox, command or http.",
    )
    .field_path(".messages")
}

pub(crate) fn argv_names_a_program() -> Rule {
    rule("size(self) == 0 || size(self[0]) > 0", "The first word of argv is the program to run; it must not be empty.")
}

/// Rejects nearly all URLs that agents can't call; for the rest see [`crate::Executor::problem`].
pub(crate) fn http_url() -> Rule {
    rule(
        "self.matches('^(?i:https?)://[^/?#[:space:][:cntrl:]]+([/?#][^[:space:][:cntrl:]]*)?$')",
        "The URL must start with http:// or https://, name a host and have no blanks, such as \
         http://127.0.0.1:9000/run.",
    )
}

pub(crate) fn no_credentials() -> Rule {
    rule(
        "!self.matches('^[^/?#]*//[^/?#]*@')",
        "The URL must not contain a user and password, since everyone who may read the cluster would see them.",
    )
}

pub(crate) fn webhook_name() -> Rule {
    rule("self.matches('^[-a-z0-9]+$')", "The name of a webhook must be lower-case letters, digits and '-'.")
}

pub(crate) fn team_name() -> Rule {
    rule("self.matches('^[-a-z0-9]+$')", "The name of a team must be lower-case letters, digits and '-'.")
}

pub(crate) fn kind_name() -> Rule {
    rule("!self.matches('[[:cntrl:]]')", "The name of a kind must be one line of text, without control characters.")
}

pub(crate) fn agents_have_splitter() -> Rule {
    rule(
        "!has(self.agents) || self.agents < 2 || has(self.splitter)",
        "Tasks that are split among agents need a splitter, which divides their input; set splitter too, or remove agents.",
    )
    .field_path(".agents")
}

pub(crate) fn command_has_kind() -> Rule {
    rule(
        "(has(self.by) && self.by == 'Command') == has(self.kind)",
        "The kind of the tasks that divide inputs goes with Command, and Command with it; set both, or neither.",
    )
}

pub(crate) fn some_resource() -> Rule {
    let set = ["cpu", "memory", "storage", "bandwidth"].map(|name| format!("has(self.{name})"));
    rule(set.join(" || "), "The resources must set at least one of cpu, memory, storage and bandwidth; or remove them.")
}

/// Rejects what is not a whole number of thousandths of a CPU, which is the unit of the resource pool.
pub(crate) fn cpu_amount() -> Rule {
    rule(
        "self.matches('^([0-9]{1,9}([.][0-9]{1,3})?|[0-9]{1,12}m)$') && self.matches('[1-9]')",
        "The CPU must be above zero and in whole thousandths of a CPU, such as 500m, 2 or 1.5.",
    )
}

/// Rejects what is not a whole number of bytes or bits that the resource pool can hold.
pub(crate) fn whole_amount() -> Rule {
    rule(
        "self.matches('^[1-9][0-9]{0,14}([kMGTP]|[KMGTP]i)?$') && !quantity(self).isGreaterThan(quantity('256Ti'))",
        "The amount must be a whole number above zero, with or without a unit, and at most 256Ti, such as 512Mi or 100M.",
    )
}

pub(crate) fn schedule_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "The name of a schedule must be lower-case letters, digits and '-', and start and end with a letter or digit.",
    )
}

/// Accepts some texts that are no expression; for the rest see [`crate::Schedule::problem`].
pub(crate) fn cron_form() -> Rule {
    rule(
        "self.matches('^(@[a-z]+|([^[:space:]]+ +){4}[^[:space:]]+)$')",
        "When a schedule is due must be five fields with spaces between them: minute, hour, day of the month, month and \
         day of the week, such as 30 4 * * mon-fri; or one of @hourly, @daily, @weekly, @monthly and @yearly.",
    )
}

pub(crate) fn time_zone_form() -> Rule {
    rule(
        "self.matches('^[-+/_A-Za-z0-9]+$')",
        "The time zone must be a name of the IANA database, such as Europe/Berlin or Etc/UTC.",
    )
}

pub(crate) fn missed_limit_has_use() -> Rule {
    rule(
        "!has(self.missedLimit) || self.missedRuns == 'All'",
        "Only if all missed runs start late is their number limited; set missedRuns to All, or remove missedLimit.",
    )
    .field_path(".missedLimit")
}

pub(crate) fn webhooks_have_a_messenger() -> Rule {
    rule(
        "!has(self.spec.gateway) || !has(self.spec.gateway.webhooks) || size(self.spec.gateway.webhooks) == 0 || \
         (has(self.spec.pools) && self.spec.pools.exists(p, has(p.role) && p.role == 'Messenger'))",
        "Messengers call webhooks, and the fleet has none; add a pool of the role Messenger to spec.pools.",
    )
    .field_path(".spec.gateway")
}

/// Accepts what agents accept: a directory would have to be in all of their containers.
pub(crate) fn bucket_url() -> Rule {
    rule(
        "self.matches('^(s3|gs)://[a-z0-9]([-._a-z0-9]*[a-z0-9])?(/[-._A-Za-z0-9]+)*/?$')",
        "The URL must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, where a prefix has letters, digits, '-', '.', '_' and \
         '/', and no '/' follows another.",
    )
}

pub(crate) fn storage_variable_name() -> Rule {
    rule(
        "self.matches('^(AWS|GOOGLE)_[A-Z0-9_]+$')",
        "The name of a setting of the object store must begin with AWS_ or GOOGLE_ and be upper-case letters, digits and \
         '_', such as AWS_REGION.",
    )
}

pub(crate) fn storage_value_form() -> Rule {
    rule("!self.matches('[[:cntrl:]]')", "The value of a setting must be one line of text, without control characters.")
}

pub(crate) fn one_storage_value() -> Rule {
    rule(
        "has(self.value) != has(self.secretKeyRef)",
        "A setting of the object store must set exactly one of value and secretKeyRef.",
    )
}

pub(crate) fn storage_secret_is_in_a_secret() -> Rule {
    rule(
        "!has(self.value) || \
         !self.name.matches('^(AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|AWS_SSE_CUSTOMER_KEY_BASE64|AWS_TOKEN|\
         GOOGLE_SERVICE_ACCOUNT_KEY)$')",
        "This credential must come from a Secret, since everyone who may read the cluster would see it; set secretKeyRef.",
    )
    .field_path(".value")
}

pub(crate) fn health_path() -> Rule {
    rule(
        "self.matches('^/[!-~]*$') && !self.contains('#')",
        "The health path must start with '/' and be plain characters without spaces, such as /healthz.",
    )
}

pub(crate) fn header_name_form() -> Rule {
    rule(
        "self.matches('^[-!#$%&*+.^_`|~A-Za-z0-9]+$')",
        "The name of a header must be letters, digits and '-', such as Content-Type.",
    )
}

pub(crate) fn header_name_reserved() -> Rule {
    rule(
        "!self.matches('(?i)^(robeing-.*|content-length|transfer-encoding|connection|te|trailer|upgrade|expect)$')",
        "The agent sets this header itself; remove it.",
    )
}

pub(crate) fn header_value_form() -> Rule {
    rule("!self.matches('[[:cntrl:]]')", "The value of a header must be one line of text, without control characters.")
}

pub(crate) fn one_header_value() -> Rule {
    rule("has(self.value) != has(self.valueFrom)", "A header must set exactly one of value and valueFrom.")
}

pub(crate) fn header_prefix_has_use() -> Rule {
    rule(
        "!has(self.prefix) || has(self.valueFrom)",
        "The prefix goes before a value from a Secret; put it into value, or remove it.",
    )
    .field_path(".prefix")
}

pub(crate) fn duration_form() -> Rule {
    rule(
        format!("self.matches('{DURATION_FORM}')"),
        "A duration must be numbers with the units ms, s, m or h, such as 500ms, 2s or 1m30s.",
    )
}

/// Requires `field` to lie within the bounds of a setting.
pub(crate) fn duration_of(field: &str, setting: &Span) -> Rule {
    duration_between(field, setting.least, setting.most)
}

/// Requires `field` to lie in `least..=most`. Accepts a text that is not a duration; [`duration_form`] refuses it.
pub(crate) fn duration_between(field: &str, least: Duration, most: Duration) -> Rule {
    let (least, most) = (text::duration(least), text::duration(most));
    rule(
        format!(
            "!self.matches('{DURATION_FORM}') || \
             (duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))"
        ),
        format!("{field} must be at least {least} and at most {most}."),
    )
}

pub(crate) fn heartbeats_within_session() -> Rule {
    let well_formed = |field: &str| format!("self.{field}.matches('{DURATION_FORM}')");
    let heartbeats = ["duration(self.heartbeatInterval)"; HEARTBEATS_PER_SESSION as usize].join(" + ");
    rule(
        format!(
            "!({} && {}) || {heartbeats} <= duration(self.sessionTimeout)",
            well_formed("heartbeatInterval"),
            well_formed("sessionTimeout")
        ),
        "sessionTimeout must be at least twice heartbeatInterval, so that one late heartbeat does not lose an agent; \
         lengthen sessionTimeout or shorten heartbeatInterval.",
    )
    .field_path(".sessionTimeout")
}

pub(crate) fn threshold_form() -> Rule {
    rule(
        "self.matches('^([1-9][0-9]{0,3}/[1-9][0-9]{0,3}|[1-9][0-9]?%|100%)$')",
        "The threshold must be a fraction such as 2/3 or a percentage from 1% to 100%.",
    )
}

pub(crate) fn threshold_at_most_one() -> Rule {
    rule(
        "!self.matches('^[0-9]{1,4}/[0-9]{1,4}$') || int(self.split('/')[0]) <= int(self.split('/')[1])",
        "The threshold must be at most the whole electorate: its numerator may not exceed its denominator.",
    )
}
