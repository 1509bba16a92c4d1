//! Generates manifests for property tests: unusual texts, names of extreme length, values at their bounds, and now and
//! then one that the schema refuses.

mod kinds;
mod pods;
mod pools;
mod schedules;

use std::{collections::BTreeMap, time};

use proptest::{collection::vec, prelude::*, sample::subsequence, strategy::Union, string::string_regex};
use robeing_settings::{
    Span, Term,
    settings::{
        self, HEALTH_CHECK_INTERVAL, HEARTBEATS_PER_SESSION, LOAD_TERM, PERFORMANCE_TERM, SESSION_TIMEOUT,
        SPECIALIZATION_TERM,
    },
    text,
};
use serde_json::{Map, Value, json};

use self::{
    kinds::task_kinds,
    pods::{images, resources, template},
    pools::pool,
    schedules::schedules,
};
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
        let kept = (teams().boxed(), task_kinds().boxed(), schedules().boxed());
        let others = (identity().boxed(), policies().boxed(), webhooks().boxed(), consensus().boxed(), kept.boxed());
        let fleet = (coordinators().boxed(), recovery().boxed(), weights().boxed(), images().boxed());
        let scaled = prop::option::weighted(0.2, within(0, most_agents.min(limits::MAX_POOL_REPLICAS)));
        let sizes = (scaled, prop::bool::weighted(0.1), maybe(object_storage()).boxed());
        let parts = (names("[a-z]", 63), pools, pool_names, fleet.boxed(), others.boxed(), sizes.boxed());
        parts.prop_map(move |(namespace, mut pools, names, fleet, others, (scaled, suspend, object_storage))| {
            let (coordinators, recovery, weights, [image, image_pull_policy, image_pull_secrets]) = fleet;
            let (identity, policies, webhooks, consensus, (teams, task_kinds, schedules)) = others;
            // The schema takes no webhooks that nobody calls.
            let is_called = pools.iter().any(|pool| pool["role"] == "Messenger");
            let gateway = if is_called { json!({"webhooks": webhooks}) } else { json!({}) };
            for (pool, name) in pools.iter_mut().zip(names) {
                pool["name"] = json!(name);
            }
            let (scaled_pool, replicas) = scaled.and_then(|replicas| scale(&mut pools, replicas)).unwrap_or_default();
            let spec = object([
                ("image", image),
                ("imagePullPolicy", image_pull_policy),
                ("imagePullSecrets", image_pull_secrets),
                ("coordinators", coordinators),
                ("pools", json!(pools)),
                ("scaledPool", scaled_pool),
                ("replicas", replicas),
                ("recovery", recovery),
                ("scheduling", json!({"weights": weights})),
                ("consensus", consensus),
                ("identity", identity),
                ("policies", policies),
                ("gateway", gateway),
                ("storage", object_storage),
                ("teams", teams),
                ("taskKinds", task_kinds),
                ("schedules", schedules),
                ("suspend", json!(suspend)),
            ]);
            let metadata = json!({"name": name, "namespace": namespace, "uid": "11111111-2222-3333-4444-555555555555"});
            json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}).to_string()
        })
    })
}

/// Leaves the size of the first pool to the spec. Returns the fields that say which pool it is and which size it has;
/// `None`: there are no pools.
fn scale(pools: &mut [Value], replicas: u32) -> Option<(Value, Value)> {
    let pool = pools.first_mut()?.as_object_mut()?;
    pool.remove("replicas");
    Some((pool.get("name")?.clone(), json!(replicas)))
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

fn coordinators() -> impl Strategy<Value = Value> {
    let replicas = maybe(prop::sample::select(vec![1_u32, 3, 5, 7]));
    let coordinators = (replicas, maybe(storage()), maybe(resources()).boxed(), template().boxed());
    coordinators.prop_map(|(replicas, storage, resources, template)| {
        object([("replicas", replicas), ("storage", storage), ("resources", resources), ("template", template)])
    })
}

fn storage() -> impl Strategy<Value = Value> {
    let size = prop::sample::select(vec!["1Gi", "500M", "1.5Ti"]);
    (size, maybe(matching("[a-z]{1,9}")))
        .prop_map(|(size, class)| object([("size", json!(size)), ("storageClassName", class)]))
}

/// An object store, with each setting once.
fn object_storage() -> impl Strategy<Value = Value> {
    let url = matching("(s3|gs)://[a-z0-9]([-.a-z0-9]{0,9}[a-z0-9])?(/[-._A-Za-z0-9]{1,9}){0,3}/?");
    let names = ["AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GOOGLE_BUCKET"];
    let count = names.len();
    let env = vec((any::<bool>(), odd_text()), count).prop_flat_map(move |values| {
        let variables = names.iter().zip(values).map(|(name, (is_secret, value))| {
            if is_secret || *name == "AWS_SECRET_ACCESS_KEY" {
                return json!({"name": name, "secretKeyRef": {"name": "bucket", "key": "k"}});
            }
            json!({"name": name, "value": value.replace('\n', " ")})
        });
        subsequence(variables.collect::<Vec<_>>(), 0..=count)
    });
    (url, env).prop_map(|(url, env)| json!({"url": url, "env": env}))
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

/// Teams, often as many as the schema allows.
fn teams() -> impl Strategy<Value = Value> {
    let count = prop_oneof![4 => 0..4_usize, 1 => Just(limits::MAX_TEAMS as usize)];
    count.prop_flat_map(|count| vec(team(), count)).prop_map(|mut teams| {
        for (n, team) in teams.iter_mut().enumerate() {
            let length = if n % 2 == 0 { 1 } else { limits::MAX_TEAM_NAME as usize };
            team["name"] = json!(format!("{n:t>length$}"));
        }
        json!(teams)
    })
}

fn team() -> impl Strategy<Value = Value> {
    let purpose = prop_oneof![odd_text(), Just("p".repeat(limits::MAX_TEAM_PURPOSE as usize))];
    let role = maybe(prop::sample::select(vec!["Worker", "Specialist", "Messenger", "Guardian"]));
    let longest = limits::MAX_SPECIALIZATION_NAME;
    let skill = prop_oneof![matching("[_a-z0-9]{1,20}"), matching(&format!("[a-z]{{{longest}}}"))];
    let skills = vec(skill, 0..=limits::MAX_TEAM_SKILLS as usize);
    (purpose, within(1, limits::MAX_TEAM_SIZE), maybe(any::<bool>()), role, skills).prop_map(
        |(purpose, size, partial, role, skills)| {
            object([
                ("purpose", json!(purpose)),
                ("size", json!(size)),
                ("partial", partial),
                ("role", role),
                ("skills", json!(skills)),
            ])
        },
    )
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    use super::*;
    use crate::schema::openapi;

    /// Returns the fields that the schema has at a path, also those of the items of lists.
    fn declared(schema: &Value, path: &[&str]) -> BTreeSet<String> {
        let part = path.iter().fold(schema, |schema, name| {
            let part = &schema["properties"][*name];
            part.get("items").unwrap_or(part)
        });
        part["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// Adds the fields that an object has at a path, also those of the items of lists.
    fn note(value: &Value, path: &[&str], fields: &mut BTreeSet<String>) {
        match (value, path) {
            (Value::Array(items), _) => items.iter().for_each(|item| note(item, path, fields)),
            (Value::Object(object), []) => fields.extend(object.keys().cloned()),
            (Value::Object(object), [name, rest @ ..]) => {
                object.get(*name).into_iter().for_each(|value| note(value, rest, fields));
            }
            _ => {}
        }
    }

    #[test]
    fn everything_that_a_spec_can_say_is_generated() {
        let (mut runner, strategy, schema) = (TestRunner::deterministic(), manifests(2), openapi());
        let manifests: Vec<Value> = (0..100)
            .map(|_| {
                let manifest = strategy.new_tree(&mut runner).expect("a manifest").current();
                serde_json::from_str(&manifest).expect("a manifest is JSON")
            })
            .collect();
        let coordinators = ["spec.coordinators", "spec.coordinators.storage", "spec.coordinators.template"];
        let agents = ["spec.pools", "spec.pools.template", "spec.pools.agentPorts", "spec.teams"];
        let kinds = ["spec.taskKinds", "spec.taskKinds.resources", "spec.taskKinds.retry"];
        let others =
            ["spec", "spec.recovery", "spec.consensus", "spec.identity", "spec.gateway.webhooks", "spec.storage.env"];
        let schedules = ["spec.schedules", "spec.schedules.task"];
        for path in coordinators.into_iter().chain(agents).chain(kinds).chain(others).chain(schedules) {
            let names: Vec<&str> = path.split('.').collect();
            let mut generated = BTreeSet::new();
            manifests.iter().for_each(|manifest| note(manifest, &names, &mut generated));
            assert_eq!(generated, declared(&schema, &names), "{path}");
        }
    }
}
