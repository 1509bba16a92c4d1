//! Pods: their images, and what a template overrides.

use proptest::{collection::vec, prelude::*, sample::subsequence};
use robeing_settings::{WEBHOOK_SECRET_VARIABLES, settings};
use serde_json::{Value, json};

use super::{matching, maybe, object, odd_text, within};
use crate::limits;

pub(super) fn image() -> Value {
    json!({"image": "example/image:1"})
}

pub(super) fn container() -> impl Strategy<Value = Value> {
    let container = environment().prop_map(|environment| {
        let mut container = image();
        container["env"] = environment;
        container
    });
    maybe(container)
}

/// Environment variables of the user, and some that a template cannot override.
fn environment() -> impl Strategy<Value = Value> {
    let fixed = [settings::ROLE, settings::CLUSTER_ID, settings::NAME, settings::LISTEN, settings::METRICS_LISTEN];
    let mut names = vec![format!("{WEBHOOK_SECRET_VARIABLES}1"), "LANG".to_owned(), "TOKEN".to_owned()];
    names.extend(fixed.iter().map(|setting| setting.variable().to_owned()));
    let count = names.len();
    subsequence(names, 0..=count).prop_map(|names| {
        let variables = names.into_iter().map(|name| json!({"name": name, "value": "not-mine $(POD_IP)"}));
        json!(variables.collect::<Vec<_>>())
    })
}

pub(super) fn template() -> impl Strategy<Value = Value> {
    let grace = maybe(within(1, limits::MAX_GRACE_SECONDS));
    let maps = (texts(), texts(), texts());
    let lists = (some_of(tolerations()), some_of(spread()), some_of(volumes()), pull_secrets());
    let affinity = maybe(Just(json!({"podAntiAffinity": {}})));
    let security = maybe(prop::sample::select(vec![
        json!({}),
        json!({"runAsUser": 0}),
        json!({"runAsUser": 1000, "fsGroup": 1000, "runAsNonRoot": true}),
    ]));
    let name = || maybe(matching("[a-z]{1,9}"));
    let template = (grace, environment(), maps.boxed(), lists.boxed(), (affinity, security), (name(), name(), name()));
    let template = template.prop_map(|(grace, env, maps, lists, (affinity, security), names)| {
        let (labels, annotations, node_selector) = maps;
        let (tolerations, spread, volumes, pull_secrets) = lists;
        let (service_account, priority_class, runtime_class) = names;
        object([
            ("labels", labels),
            ("annotations", annotations),
            ("nodeSelector", node_selector),
            ("tolerations", tolerations),
            ("affinity", affinity),
            ("topologySpreadConstraints", spread),
            ("env", env),
            ("volumes", volumes),
            ("imagePullSecrets", pull_secrets),
            ("securityContext", security),
            ("serviceAccountName", service_account),
            ("priorityClassName", priority_class),
            ("runtimeClassName", runtime_class),
            ("terminationGracePeriodSeconds", grace),
        ])
    });
    maybe(template)
}

/// Labels, annotations and the like.
fn texts() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(matching("[a-z]{1,9}"), odd_text(), 0..3).prop_map(|texts| json!(texts))
}

/// A list of some of these values, which may be empty.
fn some_of(values: Vec<Value>) -> impl Strategy<Value = Value> {
    let count = values.len();
    subsequence(values, 0..=count).prop_map(|some| json!(some))
}

fn tolerations() -> Vec<Value> {
    let unreachable = "node.kubernetes.io/unreachable";
    vec![
        json!({"operator": "Exists"}),
        json!({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}),
        json!({"key": unreachable, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}),
    ]
}

fn spread() -> Vec<Value> {
    let over = |key: &str| json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule"});
    vec![over("zone"), over("rack")]
}

/// Volumes with names that the operator does not use itself.
fn volumes() -> Vec<Value> {
    vec![json!({"name": "scratch", "emptyDir": {}}), json!({"name": "notes", "configMap": {"name": "notes"}})]
}

fn pull_secrets() -> impl Strategy<Value = Value> {
    vec(matching("[a-z]{1,9}"), 0..3).prop_map(|names| {
        let references = names.into_iter().map(|name| json!({"name": name}));
        json!(references.collect::<Vec<_>>())
    })
}

/// The image of the fleet, when it is pulled, and with which Secrets.
pub(super) fn images() -> impl Strategy<Value = [Value; 3]> {
    let longest = limits::MAX_IMAGE;
    let short = matching("[a-z]{1,9}(:9000)?/[a-z]{1,9}(:[a-z0-9]{1,9})?");
    let image = prop_oneof![short, matching(&format!("[a-z]{{{longest}}}"))];
    let policy = maybe(prop::sample::select(vec!["Always", "IfNotPresent", "Never"]));
    (maybe(image), policy, pull_secrets()).prop_map(|(image, policy, secrets)| [image, policy, secrets])
}

/// Requests and limits of a container, some of which no agent contributes exactly.
pub(super) fn resources() -> impl Strategy<Value = Value> {
    let of = |amounts: [&'static str; 4]| maybe(prop::sample::select(amounts.to_vec()));
    let amounts = || {
        let cpu = of(["0", "2", "1.5", "250m"]);
        let memory = of(["0", "64Mi", "1.5Gi", "100M"]);
        let storage = of(["1", "3Ki", "0.5", "10Ti"]);
        (cpu, memory, storage).prop_map(|(cpu, memory, storage)| {
            object([("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)])
        })
    };
    (maybe(amounts()), maybe(amounts()))
        .prop_map(|(requests, limits)| object([("requests", requests), ("limits", limits)]))
}
