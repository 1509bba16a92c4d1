//! Generates manifests for property tests: unusual texts, names of extreme length, values at their bounds, and now and
//! then one that the schema refuses.

use std::{collections::BTreeMap, time};

use proptest::{collection::vec, prelude::*, sample::subsequence, strategy::Union, string::string_regex};
use robeing_settings::{
    Span, Term, WEBHOOK_SECRET_VARIABLES,
    settings::{
        self, HEALTH_CHECK_INTERVAL, HEARTBEATS_PER_SESSION, LOAD_TERM, PERFORMANCE_TERM, SESSION_TIMEOUT,
        SPECIALIZATION_TERM,
    },
    text,
};
use serde_json::{Map, Value, json};

use crate::{API_VERSION, KIND, RobeingCluster, limits, parse_manifest};

/// Marks a field that is left out of a generated object.
const NOTHING: Value = Value::Null;

/// Clusters that the schema accepts, with at most `most_agents` active and `most_agents` standby agents per pool, with
/// a namespace and a uid.
pub fn clusters(most_agents: u32) -> impl Strategy<Value = RobeingCluster> {
    manifests(most_agents).prop_filter_map("the schema takes it", |manifest| parse_manifest(&manifest).ok())
}

/// Manifests of one cluster, as JSON. The schema refuses some of them.
pub fn manifests(most_agents: u32) -> impl Strategy<Value = String> {
    let most = limits::MAX_CLUSTER_NAME;
    names("[a-z]", most).prop_flat_map(move |name| {
        let room = (limits::MAX_CLUSTER_AND_POOL_NAME - name.len() as u32).min(limits::MAX_POOL_NAME);
        // Boxed, because a test's thread has too little stack for all of them in one value.
        let pools = vec(pool(most_agents).boxed(), 0..4).boxed();
        let pool_names = proptest::collection::btree_set(names("[a-z0-9]", room), 4);
        let others = (identity().boxed(), policies().boxed(), webhooks().boxed(), consensus().boxed());
        let (coordinators, recovery) = (coordinators().boxed(), recovery().boxed());
        let parts = (names("[a-z]", 63), pools, pool_names, coordinators, recovery, weights(), others.boxed());
        parts.prop_map(move |(namespace, mut pools, names, coordinators, recovery, weights, others)| {
            let (identity, policies, webhooks, consensus) = others;
            // The schema takes no webhooks that nobody calls.
            let is_called = pools.iter().any(|pool| pool["role"] == "Messenger");
            let gateway = if is_called { json!({"webhooks": webhooks}) } else { json!({}) };
            for (pool, name) in pools.iter_mut().zip(names) {
                pool["name"] = json!(name);
            }
            let metadata = json!({"name": name, "namespace": namespace, "uid": "11111111-2222-3333-4444-555555555555"});
            let spec = json!({
                "coordinators": coordinators,
                "pools": pools,
                "recovery": recovery,
                "scheduling": {"weights": weights},
                "consensus": consensus,
                "identity": identity,
                "policies": policies,
                "gateway": gateway,
            });
            json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}).to_string()
        })
    })
}

/// A text of unusual words: what shells, JSON, YAML and Kubernetes give a special meaning.
pub fn odd_text() -> impl Strategy<Value = String> {
    let odd = [
        "$",
        "$$",
        "$(POD_IP)",
        "$(ROBEING_NAME)",
        "$(NONE)",
        "$(",
        "\"",
        "'",
        "\\",
        ",",
        "=",
        "--",
        "\n",
        "漢字",
        "http",
    ];
    let odd = Union::new(odd.map(|word| Just(word.to_owned())));
    let character = any::<char>().prop_filter("no control character", |c| !c.is_control()).prop_map(String::from);
    vec(prop_oneof![odd, matching("[ -~]{1,8}"), character], 1..6).prop_map(|words| words.concat())
}

fn matching(form: &str) -> impl Strategy<Value = String> + use<> {
    string_regex(form).expect("it is a regular expression")
}

/// DNS labels, often with the minimum or maximum length.
fn names(first: &str, most: u32) -> impl Strategy<Value = String> + use<> {
    let of = |least: u32, most: u32| matching(&format!("{first}[-a-z0-9]{{{least},{most}}}[a-z0-9]"));
    prop_oneof![matching(first), of(0, most - 2), of(most - 2, most - 2)]
}

fn within<T>(least: T, most: T) -> impl Strategy<Value = T>
where
    T: Copy + std::fmt::Debug + 'static,
    std::ops::RangeInclusive<T>: Strategy<Value = T>,
{
    prop_oneof![Just(least), Just(most), least..=most]
}

/// An object without the fields that are left out.
fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| *value != NOTHING);
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// A value, or [`NOTHING`].
fn maybe<T: Into<Value> + Clone + std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Value> {
    prop::option::of(value).prop_map(|value| value.map_or(NOTHING, Into::into))
}

fn pool(most_agents: u32) -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["Worker", "Specialist", "Messenger", "Guardian"]);
    let agents = (
        maybe(within(0, most_agents.min(limits::MAX_POOL_REPLICAS))),
        maybe(within(0, most_agents.min(limits::MAX_POOL_STANDBY))),
        maybe(within(settings::SLOTS.least, limits::MAX_SLOTS)),
    );
    let pods = (container(), template(), maybe(ports()));
    let work = (executor(), maybe(messages()));
    (role, specializations(), agents, work, pods).prop_map(|(role, skills, agents, (executor, messages), pods)| {
        let (replicas, standby, slots) = agents;
        let (container, template, ports) = pods;
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

fn image() -> Value {
    json!({"image": "example/image:1"})
}

fn container() -> impl Strategy<Value = Value> {
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

fn template() -> impl Strategy<Value = Value> {
    let grace = maybe(within(1, limits::MAX_GRACE_SECONDS));
    let template = (grace, environment())
        .prop_map(|(grace, env)| object([("terminationGracePeriodSeconds", grace), ("env", env)]));
    maybe(template)
}

fn ports() -> impl Strategy<Value = Value> {
    let port = || maybe(within(1, limits::MAX_PORT));
    (port(), port(), port())
        .prop_map(|(grpc, metrics, attach)| object([("grpc", grpc), ("metrics", metrics), ("attach", attach)]))
}

fn coordinators() -> impl Strategy<Value = Value> {
    let replicas = maybe(prop::sample::select(vec![1_u32, 3, 5, 7]));
    (replicas, template()).prop_map(|(replicas, template)| object([("replicas", replicas), ("template", template)]))
}

/// Who approves, which the schema also accepts for an action that needs no approval.
fn approval() -> impl Strategy<Value = Value> {
    let electorate = subsequence(vec!["role:guardian", "client:ada=2", "nobody at all"], 1..=3);
    let threshold = maybe(prop::sample::select(vec!["2/3", "66%", "most"]));
    let approval = (electorate, threshold, maybe(within(1, 3600))).prop_map(|(electorate, threshold, deadline)| {
        let electorate = json!(electorate);
        object([("electorate", electorate), ("threshold", threshold), ("deadlineSeconds", deadline)])
    });
    maybe(approval)
}

/// A few policies, some with an expression that is no CEL, which the schema accepts.
fn policies() -> impl Strategy<Value = Value> {
    let rule = prop::sample::select(vec!["true", "object.priority > 3", "json == null", "no ("]);
    let action = prop::sample::select(vec!["deny", "redact", "requireApproval", "allow"]);
    let on = subsequence(vec!["Submission", "Result", "Message"], 1..=3);
    let fails = maybe(prop::sample::select(vec!["Open", "Closed"]));
    let policy = (rule, action, on, fails, approval()).prop_map(|(rule, action, on, fails, approval)| {
        let (rule, action, on) = (json!(rule), json!(action), json!(on));
        object([("rule", rule), ("action", action), ("events", on), ("failurePolicy", fails), ("approval", approval)])
    });
    vec(policy, 0..3).prop_map(|mut policies| {
        for (n, policy) in policies.iter_mut().enumerate() {
            policy["name"] = json!(format!("policy-{n}"));
        }
        json!(policies)
    })
}

/// Webhooks, often as many as the schema allows.
fn webhooks() -> impl Strategy<Value = Value> {
    let count = prop_oneof![4 => 0..4_usize, 1 => Just(limits::MAX_WEBHOOKS as usize)];
    count.prop_flat_map(|count| vec(webhook(), count)).prop_map(|mut webhooks| {
        for (n, webhook) in webhooks.iter_mut().enumerate() {
            let length = if n % 2 == 0 { 1 } else { limits::MAX_WEBHOOK_NAME as usize };
            webhook["name"] = json!(format!("{n:w>length$}"));
        }
        json!(webhooks)
    })
}

fn webhook() -> impl Strategy<Value = Value> {
    let url = matching("https?://[a-z]{1,9}(:9000)?/[!-\"$-;=?-~]{0,20}");
    let longest = limits::MAX_SPECIALIZATION_NAME;
    let kinds = vec(prop_oneof![odd_text(), matching(&format!("[a-z]{{{longest}}}"))], 0..4);
    let states = subsequence(vec!["Succeeded", "Failed", "Cancelled", "DeadLettered"], 0..=4);
    let secret = (matching("[a-z]{1,9}"), matching("[a-z]{1,9}"));
    (url, kinds, states, secret).prop_map(|(url, kinds, states, (name, key))| {
        json!({"url": url, "kinds": kinds, "states": states, "secretKeyRef": {"name": name, "key": key}})
    })
}

fn identity() -> impl Strategy<Value = Value> {
    let longest = limits::MAX_TRUST_DOMAIN;
    let domain = prop_oneof![matching("[-._a-z0-9]{1,20}"), matching(&format!("[a-z]{{{longest}}}"))];
    let authority = matching("[a-z]{1,9}").prop_map(|name| json!({"secretName": name}));
    let of = |values: [&'static str; 2]| maybe(prop::sample::select(values.to_vec()));
    (of(["Proof", "Open"]), of(["Strict", "Permissive"]), maybe(domain), maybe(authority)).prop_map(
        |(enrolment, transport, domain, authority)| {
            object([
                ("enrolment", enrolment),
                ("transport", transport),
                ("trustDomain", domain),
                ("authority", authority),
            ])
        },
    )
}

fn recovery() -> impl Strategy<Value = Value> {
    let longest = settings::HEARTBEAT_INTERVAL.most.min(SESSION_TIMEOUT.most / HEARTBEATS_PER_SESSION);
    let session = duration(settings::HEARTBEAT_INTERVAL.least, longest).prop_flat_map(|heartbeat| {
        let least = (heartbeat * HEARTBEATS_PER_SESSION).max(SESSION_TIMEOUT.least);
        (Just(heartbeat), duration(least, SESSION_TIMEOUT.most))
    });
    let attempts = maybe(within(settings::MAX_ATTEMPTS.least, limits::MAX_ATTEMPTS));
    (prop::option::of(session), maybe(span(HEALTH_CHECK_INTERVAL)), attempts).prop_map(|(session, health, attempts)| {
        let (heartbeat, timeout) = session.unzip();
        let written = |span: Option<time::Duration>| span.map_or(NOTHING, |span| json!(text::duration(span)));
        object([
            ("heartbeatInterval", written(heartbeat)),
            ("sessionTimeout", written(timeout)),
            ("healthCheckInterval", health),
            ("maxAttempts", attempts),
        ])
    })
}

fn consensus() -> impl Strategy<Value = Value> {
    let bounds = Span { least: limits::MIN_DEADLINE, most: limits::MAX_DEADLINE, ..settings::BALLOT_DEADLINE };
    let threshold = maybe(prop::sample::select(vec!["2/3", "1/2", "66%", "100%", "9999/9999"]));
    (threshold, maybe(span(bounds)))
        .prop_map(|(threshold, deadline)| object([("threshold", threshold), ("deadline", deadline)]))
}

fn duration(least: time::Duration, most: time::Duration) -> impl Strategy<Value = time::Duration> {
    let (least, most) = (least.as_micros() as u64, most.as_micros() as u64);
    let micros =
        prop_oneof![within(least, most), (least..=most).prop_map(move |micros| (micros / 1_000 * 1_000).max(least))];
    micros.prop_map(time::Duration::from_micros)
}

/// A duration, including forms that only people write.
fn span(defined: Span) -> impl Strategy<Value = String> {
    let plain = duration(defined.least, defined.most).prop_map(text::duration);
    prop_oneof![plain, matching("[1-9][0-9]?[.][0-9]{1,3}s"), Just("0.25m".to_owned()), Just("1h0m".to_owned())]
}

fn weights() -> impl Strategy<Value = BTreeMap<&'static str, i32>> {
    let of =
        |term: Term| prop::option::of(within(term.least, term.most)).prop_map(move |points| Some((term.name, points?)));
    (of(SPECIALIZATION_TERM), of(LOAD_TERM), of(PERFORMANCE_TERM)).prop_map(|(specialization, load, performance)| {
        [specialization, load, performance].into_iter().flatten().collect()
    })
}
