//! Every validation rule of the resource, each with a manifest that violates it and the expected error message.

use serde_json::{Value, json};

use super::{CLUSTER, Deployed, NAMESPACE};

/// A manifest that the API server must refuse.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What is wrong with it.
    pub what: &'static str,
    /// The manifest.
    pub manifest: Value,
    /// The beginning of the expected error message.
    pub sentence: &'static str,
}

fn with_spec(what: &'static str, spec: Value, sentence: &'static str) -> Refused {
    Refused { what, manifest: manifest("refused", spec), sentence }
}

fn manifest(name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    json!({"apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": metadata, "spec": spec})
}

/// Returns a spec with one pool, an echo pool except for these fields.
fn pool(changed: Value) -> Value {
    let mut pool = json!({"name": "echo", "executor": {"echo": {}}});
    if let (Some(pool), Some(changed)) = (pool.as_object_mut(), changed.as_object()) {
        pool.extend(changed.clone());
    }
    json!({"pools": [pool]})
}

/// Returns a manifest for each way to violate a rule of a new cluster.
pub fn refused() -> Vec<Refused> {
    let mut all = names();
    all.extend(coordinators());
    all.extend(pools());
    all.extend(times());
    all.extend(task_kinds());
    all.extend(schedules());
    all
}

fn names() -> Vec<Refused> {
    let named = |what, name: &str, sentence| Refused { what, manifest: manifest(name, json!({})), sentence };
    vec![
        named(
            "a name too long for its derived names",
            &"n".repeat(37),
            "The name of a RobeingCluster may have at most 36",
        ),
        named("a name that begins with a digit", "1st", "The name of a RobeingCluster must be lower-case letters"),
        Refused {
            what: "names too long together",
            manifest: manifest(&"n".repeat(30), pool(json!({"name": "p".repeat(16)}))),
            sentence: "The name of the cluster and that of a pool may have at most 45 characters together",
        },
    ]
}

fn coordinators() -> Vec<Refused> {
    vec![
        with_spec(
            "an even number of coordinators",
            json!({"coordinators": {"replicas": 2}}),
            "The number of coordinators must be odd",
        ),
        with_spec(
            "too many coordinators",
            json!({"coordinators": {"replicas": 9}}),
            "should be less than or equal to 7",
        ),
        with_spec(
            "a disk without a size",
            json!({"coordinators": {"storage": {"size": "0"}}}),
            "The size must be a Kubernetes quantity above zero",
        ),
        with_spec(
            "a negative amount of memory",
            json!({"coordinators": {"resources": {"limits": {"memory": "-1"}}}}),
            "The amount must be a Kubernetes quantity that is not negative",
        ),
        with_spec("an image with a space", json!({"image": "a b"}), "The image must be a reference without spaces"),
    ]
}

fn pools() -> Vec<Refused> {
    let twice = json!({"pools": [{"name": "a", "executor": {"echo": {}}}, {"name": "a", "executor": {"echo": {}}}]});
    let one = "An executor must set exactly one of command, http, worker and echo.";
    let amount = json!({"requests": {"cpu": "1"}});
    vec![
        with_spec("two pools of one name", twice, "Duplicate value: {\"name\":\"a\"}"),
        with_spec("no executor", pool(json!({"executor": {}})), one),
        with_spec("two executors", pool(json!({"executor": {"echo": {}, "worker": {}}})), one),
        with_spec(
            "a pool name in upper case",
            pool(json!({"name": "Echo"})),
            "The name of a pool must be lower-case letters",
        ),
        with_spec(
            "a reserved name",
            pool(json!({"name": "coordinators"})),
            "This name belongs to the coordinators' own objects",
        ),
        with_spec(
            "a specialist of nothing",
            pool(json!({"role": "Specialist"})),
            "A pool of specialists must name at least one",
        ),
        with_spec(
            "a specialization with a space",
            pool(json!({"specializations": ["a b"]})),
            "A specialization must be lower-case letters",
        ),
        with_spec(
            "resources in two places",
            pool(json!({"resources": amount, "container": {"resources": amount}})),
            "Resources are set on the pool and on its container",
        ),
        with_spec(
            "a command without a program",
            pool(json!({"executor": {"command": {"argv": [""]}}})),
            "The first word of argv is the program to run",
        ),
        with_spec(
            "a URL of another kind",
            pool(json!({"executor": {"http": {"url": "ftp://127.0.0.1/run"}}})),
            "The URL must start with http:// or https://",
        ),
    ]
}

fn times() -> Vec<Refused> {
    let recovery = |what, recovery: Value, sentence| with_spec(what, json!({"recovery": recovery}), sentence);
    let threshold =
        |what, threshold: &str, sentence| with_spec(what, json!({"consensus": {"threshold": threshold}}), sentence);
    let twice = "sessionTimeout must be at least twice heartbeatInterval";
    vec![
        recovery("heartbeats as long as a session", json!({"heartbeatInterval": "2s", "sessionTimeout": "2s"}), twice),
        recovery("heartbeats longer than a session", json!({"heartbeatInterval": "3s", "sessionTimeout": "2s"}), twice),
        recovery("a time without a unit", json!({"sessionTimeout": "2"}), "A duration must be numbers with the units"),
        recovery("heartbeats too fast", json!({"heartbeatInterval": "1ms"}), "heartbeatInterval must be at least 10ms"),
        recovery(
            "too long a session",
            json!({"sessionTimeout": "1h"}),
            "sessionTimeout must be at least 50ms and at most 10m",
        ),
        recovery(
            "checks too fast",
            json!({"healthCheckInterval": "1ms"}),
            "healthCheckInterval must be at least 100ms",
        ),
        with_spec("too short a ballot", json!({"consensus": {"deadline": "1ms"}}), "deadline must be at least 100ms"),
        threshold("a majority in words", "most", "The threshold must be a fraction such as 2/3"),
        threshold("more than all", "3/2", "The threshold must be at most the whole electorate"),
    ]
}

fn task_kinds() -> Vec<Refused> {
    let kind = |what, changed: Value, sentence| {
        let mut kind = json!({"name": "read"});
        if let (Some(kind), Some(changed)) = (kind.as_object_mut(), changed.as_object()) {
            kind.extend(changed.clone());
        }
        with_spec(what, json!({"taskKinds": [kind]}), sentence)
    };
    let amount = "The amount must be a whole number above zero";
    vec![
        kind("a kind of two lines", json!({"name": "a\tb"}), "The name of a kind must be one line"),
        kind("no resources", json!({"resources": {}}), "The resources must set at least one"),
        kind("a tenth of a thousandth of a CPU", json!({"resources": {"cpu": "0.0001"}}), "The CPU must be above zero"),
        kind("a fraction of memory", json!({"resources": {"memory": "1.5Gi"}}), amount),
        kind("more memory than there can be", json!({"resources": {"memory": "257Ti"}}), amount),
        kind("no time to run", json!({"attemptTimeout": "0s"}), "attemptTimeout must be at least 1ms"),
    ]
}

fn schedules() -> Vec<Refused> {
    let schedule = |what, changed: Value, sentence| {
        let mut schedule = json!({"name": "nightly", "cron": "30 4 * * *", "task": {"kind": "report"}});
        if let (Some(schedule), Some(changed)) = (schedule.as_object_mut(), changed.as_object()) {
            schedule.extend(changed.clone());
        }
        with_spec(what, json!({"schedules": [schedule]}), sentence)
    };
    vec![
        schedule("a schedule with capitals", json!({"name": "Nightly"}), "The name of a schedule must be lower-case"),
        schedule("four fields", json!({"cron": "30 4 * *"}), "When a schedule is due must be five fields"),
        schedule("a zone with a space", json!({"timeZone": "Europe Berlin"}), "The time zone must be a name"),
        schedule("a limit of one run", json!({"missedLimit": 3}), "Only if all missed runs start late"),
        schedule("no time to start", json!({"startWithin": "0s"}), "startWithin must be at least 1ms"),
    ]
}

/// Returns changes, as patches, that a cluster with disks must refuse.
pub fn later_changes() -> Vec<(&'static str, Value)> {
    vec![
        ("another storage class", json!({"spec": {"coordinators": {"storage": {"storageClassName": "other"}}}})),
        ("no disks", json!({"spec": {"coordinators": {"storage": null}}})),
    ]
}

impl Deployed {
    /// Tries to create a manifest, and returns the API server's error.
    ///
    /// # Errors
    /// If the API server accepts it.
    pub async fn refusal(&self, refused: &Refused) -> Result<String, String> {
        let manifest = refused.manifest.to_string();
        let tried = self.cluster().kubectl_with(&["create", "--dry-run=server", "-f", "-"], &manifest);
        match tried.await {
            Ok(_) => Err(format!("{} is accepted", refused.what)),
            Err(error) => Ok(error.to_string()),
        }
    }

    /// Tries to change the fleet, and returns the API server's error.
    ///
    /// # Errors
    /// If the API server accepts it.
    pub async fn refusal_of_change(&self, patch: &Value) -> Result<String, String> {
        let patch = patch.to_string();
        let arguments = ["patch", "rbc", CLUSTER, "--dry-run=server", "--type=merge", "--patch", &patch];
        match self.try_kubectl(&arguments).await {
            Ok(_) => Err(format!("{patch} is accepted")),
            Err(said) => Ok(said),
        }
    }
}
