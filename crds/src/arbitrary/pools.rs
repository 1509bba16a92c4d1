//! Pools of agents.

use proptest::{collection::vec, prelude::*};
use robeing_settings::settings;
use serde_json::{Value, json};

use super::{
    NOTHING, matching, maybe, object, odd_text,
    pods::{container, image, resources, template},
    within,
};
use crate::limits;

pub(super) fn pool(most_agents: u32) -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["Worker", "Specialist", "Messenger", "Guardian"]);
    let agents = (
        maybe(within(0, most_agents.min(limits::MAX_POOL_REPLICAS))),
        maybe(within(0, most_agents.min(limits::MAX_POOL_STANDBY))),
        maybe(within(settings::SLOTS.least, limits::MAX_SLOTS)),
    );
    let pods = (container().boxed(), template().boxed(), maybe(ports()), maybe(resources()).boxed());
    let work = (executor(), maybe(messages()));
    (role, specializations(), agents, work, pods).prop_map(|(role, skills, agents, (executor, messages), pods)| {
        let (replicas, standby, slots) = agents;
        let (container, template, ports, resources) = pods;
        // Do not waste many cases on combinations that the schema or the operator refuses.
        let role = if role == "Specialist" && skills.is_empty() { "Worker" } else { role };
        let is_worker = executor.get("worker").is_some();
        let messages = if messages.get("worker").is_some() && !is_worker { json!({"inbox": {}}) } else { messages };
        let container = if is_worker && container == NOTHING { image() } else { container };
        object([
            ("role", json!(role)),
            ("specializations", json!(skills)),
            ("replicas", replicas),
            ("standby", standby),
            ("slots", slots),
            ("executor", executor),
            ("messages", messages),
            ("container", container),
            ("template", template),
            ("agentPorts", ports),
            ("resources", resources),
        ])
    })
}

fn specializations() -> impl Strategy<Value = Vec<String>> {
    let longest = limits::MAX_SPECIALIZATION_NAME - 2;
    let skill = prop_oneof![
        60 => matching("[a-z0-9]([-_a-z0-9]{0,20}[a-z0-9])?"),
        20 => matching(&format!("[a-z][-_a-z0-9]{{{longest}}}[a-z0-9]")),
        1 => odd_text(),
    ];
    let most = limits::MAX_SPECIALIZATIONS as usize;
    prop_oneof![3 => proptest::collection::btree_set(skill, 0..4).boxed(), 1 => numbered(most).boxed()]
        .prop_map(|skills| skills.into_iter().collect())
}

/// A set of `most` specializations.
fn numbered(most: usize) -> impl Strategy<Value = std::collections::BTreeSet<String>> {
    Just((0..most).map(|index| format!("skill_{index}")).collect())
}

fn command() -> impl Strategy<Value = Value> {
    (matching("[!-~]{1,12}"), vec(odd_text(), 0..4)).prop_map(|(program, mut words)| {
        words.insert(0, program);
        json!({"command": {"argv": words}})
    })
}

fn messages() -> impl Strategy<Value = Value> {
    let http = url().prop_map(|url| json!({"http": {"url": url}}));
    prop_oneof![2 => command(), 2 => http, 1 => Just(json!({"worker": {}})), 1 => Just(json!({"inbox": {}}))]
}

fn executor() -> impl Strategy<Value = Value> {
    prop_oneof![2 => command(), 2 => http(), 1 => Just(json!({"worker": {}})), 1 => Just(json!({"echo": {}}))]
}

fn url() -> impl Strategy<Value = String> {
    let url = (maybe(matching("[a-z$]{1,9}:[a-z$%]{1,9}@")), matching("[a-z]{1,9}"), matching("/[!-\"$-;=?-~]{0,20}"));
    url.prop_map(|(user, host, path)| format!("http://{}{host}:9000{path}", user.as_str().unwrap_or_default()))
}

fn http() -> impl Strategy<Value = Value> {
    let value = matching("[ -~äß漢$]{0,20}");
    let from = (maybe(matching("[ -~]{0,10}")), matching("[a-z]{1,9}"), matching("[a-z]{1,9}"));
    let from = from.prop_map(|(prefix, name, key)| {
        object([("prefix", prefix), ("valueFrom", json!({"secretKeyRef": {"name": name, "key": key}}))])
    });
    let header = prop_oneof![value.prop_map(|value| json!({"value": value})), from];
    let headers = vec(header, 0..4).prop_map(|headers| {
        let named = headers.into_iter().enumerate().map(|(index, mut header)| {
            header["name"] = json!(format!("X-Header-{index}"));
            header
        });
        json!(named.collect::<Vec<_>>())
    });
    let path = maybe(matching("/[a-z$]{0,12}"));
    (url(), path, headers)
        .prop_map(|(url, path, headers)| json!({"http": object([("url", json!(url)), ("healthPath", path), ("headers", headers)])}))
}

fn ports() -> impl Strategy<Value = Value> {
    let port = || maybe(within(1, limits::MAX_PORT));
    (port(), port(), port())
        .prop_map(|(grpc, metrics, attach)| object([("grpc", grpc), ("metrics", metrics), ("attach", attach)]))
}
