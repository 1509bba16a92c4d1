//! The Helm charts: what they render, which values they refuse, and which rights they grant. The tests need helm, but
//! no cluster.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use robeing_tests::program::program;
use serde_json::Value;

/// The environment variable with the path of helm.
const HELM: &str = "HELM";
/// The environment variable with the folder in which `devkube build` keeps its programs.
const DEVKUBE_CACHE: &str = "DEVKUBE_CACHE";
/// The Kubernetes version to render for, because there is no cluster that helm could ask.
const KUBERNETES: &str = "1.34.0";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("can't read {path}: {error}"))
}

/// Returns the helm that `HELM` names, else the one in `PATH`, else the one that `devkube build` built.
fn helm() -> PathBuf {
    if let Some(helm) = env::var_os(HELM) {
        return helm.into();
    }
    let in_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let cache = env::var_os(DEVKUBE_CACHE).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/robeing-devkube")));
    let built = cache.and_then(|cache| fs::read_dir(cache).ok()).into_iter().flatten().flatten();
    let folders = in_path.into_iter().chain(built.map(|entry| entry.path().join("bin")));
    folders.map(|folder| folder.join("helm")).find(|helm| helm.is_file()).unwrap_or_else(|| {
        panic!("there is no helm 3: install it, set {HELM} to it, or build it with `cargo run -p devkube -- build`")
    })
}

fn run(arguments: &[&str]) -> Output {
    let helm = helm();
    let mut command = Command::new(&helm);
    command.args(arguments).current_dir(root());
    // No cluster of this machine and no settings of its user may affect the result.
    command.env_remove("KUBECONFIG").env("HELM_NAMESPACE", "robeing-system");
    command.output().unwrap_or_else(|error| panic!("can't start {}: {error}", helm.display()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the text that a chart renders to.
fn rendered(release: &str, chart: &str, settings: &[&str]) -> String {
    let base = ["template", release, chart, "--kube-version", KUBERNETES];
    let output = run(&[&base, settings].concat());
    assert!(output.status.success(), "{chart} {settings:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Returns the error of a chart that does not render.
fn refusal(chart: &str, settings: &[&str]) -> String {
    let base = ["template", "robeing", chart, "--kube-version", KUBERNETES];
    let output = run(&[&base, settings].concat());
    assert!(!output.status.success(), "{chart} accepts {settings:?}");
    text(&output.stderr)
}

fn documents(rendered: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_yaml::from_multiple(rendered).unwrap_or_else(|error| panic!("{error}\n{rendered}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

pub(crate) fn operator(settings: &[&str]) -> Vec<Value> {
    documents(&rendered("robeing", "charts/robeing", settings))
}

pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    match of_kind(objects, kind)[..] {
        [only] => only,
        ref others => panic!("expected one {kind}, got {}", others.len()),
    }
}

pub(crate) fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Returns the chart's defaults and each of its values files in `ci/`.
pub(crate) fn all_settings() -> Vec<Vec<String>> {
    let mut all = vec![vec![]];
    for entry in fs::read_dir(root().join("charts/robeing/ci")).expect("the chart has settings to try") {
        let path = entry.expect("the folder can be listed").path();
        all.push(vec!["--values".to_owned(), path.display().to_string()]);
    }
    assert!(all.len() > 3, "there are several");
    all
}

#[test]
fn helm_finds_nothing_to_criticise() {
    for settings in all_settings() {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let output =
            run(&[&["lint", "--strict", "--kube-version", KUBERNETES, "charts/robeing"], &settings[..]].concat());
        assert!(output.status.success(), "{settings:?}: {}", text(&output.stdout));
    }
    let output = run(&["lint", "--strict", "--kube-version", KUBERNETES, "charts/robeing-crds"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn the_objects_of_the_operator_are_these() {
    let file = |name: &str| format!("charts/robeing/ci/{name}-values.yaml");
    insta::assert_snapshot!("default", rendered("robeing", "charts/robeing", &[]));
    insta::assert_snapshot!("full", rendered("robeing", "charts/robeing", &["--values", &file("full")]));
    insta::assert_snapshot!("namespaced", rendered("robeing", "charts/robeing", &["--values", &file("namespaced")]));
    insta::assert_snapshot!("least", rendered("fleet", "charts/robeing", &["--values", &file("least")]));
}

#[test]
fn the_definition_is_the_generated_one() {
    assert_eq!(
        read("charts/robeing-crds/files/robeingclusters.yaml"),
        read("crds/robeingclusters.yaml"),
        "the chart's copy is old: run `make crds`"
    );
    let objects = documents(&rendered("robeing-crds", "charts/robeing-crds", &[]));
    let mut definition = only(&objects, "CustomResourceDefinition").clone();
    assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let metadata = definition["metadata"].as_object_mut().expect("it has metadata");
    metadata.retain(|key, _| key == "name");
    let generated: Value = serde_yaml::from_str(&read("crds/robeingclusters.yaml")).expect("it is YAML");
    assert!(definition == generated, "only labels and annotations are added");
}

#[test]
fn the_definition_can_go_with_its_release_and_carry_more() {
    let settings = ["--set", "keep=false,annotations.a=b,labels.team=fleet"];
    let objects = documents(&rendered("robeing-crds", "charts/robeing-crds", &settings));
    let metadata = &only(&objects, "CustomResourceDefinition")["metadata"];
    assert_eq!(metadata["annotations"], serde_json::json!({"a": "b"}));
    assert_eq!(metadata["labels"]["team"], "fleet");
    let kept = ["--set", "annotations.helm\\.sh/resource-policy=drop"];
    let objects = documents(&rendered("robeing-crds", "charts/robeing-crds", &kept));
    let annotations = &only(&objects, "CustomResourceDefinition")["metadata"]["annotations"];
    assert_eq!(annotations["helm.sh/resource-policy"], "keep", "the value `keep` determines whether it is kept");
}

#[test]
fn the_definition_is_no_part_of_the_operators_chart() {
    // Helm never upgrades the contents of crds/.
    for chart in ["charts/robeing", "charts/robeing-crds"] {
        assert!(!root().join(chart).join("crds").exists(), "{chart}");
    }
    assert_eq!(of_kind(&operator(&[]), "CustomResourceDefinition").len(), 0);
}

#[test]
fn no_setting_is_mistaken() {
    let refused = [
        ("replica=3", "replica"),
        ("replicas=0", "/replicas"),
        ("replicas=6", "/replicas"),
        ("replicas=two", "/replicas"),
        ("watchNamespaces=team-a", "/watchNamespaces"),
        ("watchNamespaces={Team_A}", "/watchNamespaces/0"),
        ("watchNamespaces={a,a}", "/watchNamespaces"),
        ("image.tag=a b", "/image/tag"),
        ("image.digest=sha256:12", "/image/digest"),
        ("image.repository=", "/image/repository"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.name=robeing", "/image"),
        ("log.format=xml", "/log/format"),
        ("log.level=lod", "/log/level"),
        ("lease.duration=15", "/lease/duration"),
        ("serviceAccount.create=false", "/serviceAccount"),
        ("rbac.clusterAdmin=true", "/rbac"),
        ("networkPolicy.apiServerPorts={0}", "/networkPolicy/apiServerPorts/0"),
        ("networkPolicy.apiServerPorts={65536}", "/networkPolicy/apiServerPorts/0"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
        ("resources.request.cpu=1", "/resources"),
        ("fullnameOverride=Not_A_Name", "/fullnameOverride"),
    ];
    for (setting, place) in refused {
        let reason = refusal("charts/robeing", &["--set", setting]);
        assert!(reason.contains("schema") && reason.contains(place), "{setting}: {reason}");
    }
    for setting in ["keeep=true", "keep=maybe", "labels.a=1"] {
        let reason = refusal("charts/robeing-crds", &["--set", setting]);
        assert!(reason.contains("schema"), "{setting}: {reason}");
    }
}

#[test]
fn the_timings_of_the_lease_are_refused_as_the_operator_would() {
    for (setting, why) in [
        ("lease.renewDeadline=15s", "lease.renewDeadline (15s) must be shorter than lease.duration (15s)"),
        ("lease.duration=10s", "lease.renewDeadline (10s) must be shorter than lease.duration (10s)"),
        ("lease.retryPeriod=5001ms", "lease.retryPeriod (5001ms) must be at most half of lease.renewDeadline (10s)"),
        ("lease.retryPeriod=0s", "not zero"),
    ] {
        let reason = refusal("charts/robeing", &["--set", setting]);
        assert!(reason.contains(why), "{setting}: {reason}");
    }
    for fitting in
        ["lease.renewDeadline=14999ms", "lease.duration=1m,lease.renewDeadline=0m59s500ms", "lease.retryPeriod=5s"]
    {
        operator(&["--set", fitting]);
    }
}

#[test]
fn every_setting_is_in_the_schema_and_every_one_there_has_a_default() {
    for chart in ["charts/robeing", "charts/robeing-crds"] {
        let values: Value = serde_yaml::from_str(&read(&format!("{chart}/values.yaml"))).expect("it is YAML");
        let schema: Value = serde_json::from_str(&read(&format!("{chart}/values.schema.json"))).expect("it is JSON");
        let keys =
            |of: &Value| of.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<BTreeSet<_>>();
        let mut known = keys(&schema["properties"]);
        // Helm itself adds this key.
        known.remove("global");
        assert_eq!(keys(&values), known, "{chart}");
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if property["additionalProperties"] == false {
                assert_eq!(keys(&values[name]), keys(&property["properties"]), "{chart}: {name}");
            }
        }
    }
}

pub(crate) fn arguments(objects: &[Value]) -> Vec<String> {
    let container = &only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    words(&container["args"]).into_iter().map(str::to_owned).collect()
}

#[test]
fn the_operators_pods_meet_the_restricted_standard() {
    for settings in all_settings() {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let objects = operator(&settings);
        let pod = &only(&objects, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 65_532);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let containers = pod["containers"].as_array().expect("it has containers");
        for container in containers {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(words(&security["capabilities"]["drop"]), ["ALL"]);
            assert!(container["resources"]["limits"]["memory"].is_string(), "{container}");
        }
        for forbidden in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
            assert!(pod[forbidden].is_null(), "{forbidden}");
        }
    }
}

#[test]
fn what_selects_the_operator_is_not_what_the_operator_makes() {
    // The operator deletes objects with its labels that are not in any spec.
    for settings in all_settings() {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        for object in operator(&settings) {
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/name"], "robeing-operator", "{object}");
        }
        let objects = operator(&settings);
        let spec = &only(&objects, "Deployment")["spec"];
        let labels = &spec["template"]["metadata"]["labels"];
        for (key, value) in spec["selector"]["matchLabels"].as_object().expect("it selects") {
            assert_eq!(&labels[key], value);
        }
    }
}

#[test]
fn an_image_is_named_by_tag_or_digest() {
    let version = env!("CARGO_PKG_VERSION");
    let image = |settings: &str| {
        let objects = operator(&["--set", settings]);
        let image = &only(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"];
        let image = image.as_str().expect("an image").to_owned();
        assert!(arguments(&objects).contains(&format!("--image={image}")), "fleets get the same one");
        image
    };
    let digest = format!("sha256:{}", "0a".repeat(32));
    assert_eq!(image("replicas=2"), format!("robeing:{version}"));
    assert_eq!(image("image.repository=r.example/a,image.tag=x"), "r.example/a:x");
    assert_eq!(image(&format!("image.digest={digest}")), format!("robeing:{version}@{digest}"));
}

#[test]
fn there_is_no_budget_that_would_keep_a_node_from_being_drained() {
    assert_eq!(of_kind(&operator(&["--set", "replicas=1"]), "PodDisruptionBudget").len(), 0);
    assert_eq!(of_kind(&operator(&["--set", "replicas=2"]), "PodDisruptionBudget").len(), 1);
}

#[test]
fn names_are_dns_labels_however_long_the_release_is_called() {
    for release in ["r", "robeing", &"a".repeat(53), &format!("{}-robeing-x", "a".repeat(43))] {
        let objects = documents(&rendered(release, "charts/robeing", &[]));
        let name = only(&objects, "Deployment")["metadata"]["name"].as_str().expect("a name");
        // A Deployment adds up to 17 characters for the name of a pod.
        assert!(name.len() <= 63 - 17 && !name.contains("--"), "{name}");
    }
}

/// Returns the notes that a chart shows after its installation. Helm renders them only with a cluster, so they are
/// rendered as an object here.
fn notes(chart: &str, settings: &[&str]) -> String {
    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_folder(&root().join(chart), copy.path());
    let notes = copy.path().join("templates/NOTES.txt");
    let text = fs::read_to_string(&notes).expect("it has notes");
    let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
    fs::write(copy.path().join("templates/notes.yaml"), format!("notes: |\n{indented}")).expect("it can be written to");
    let settings = [&["--show-only", "templates/notes.yaml"], settings].concat();
    let objects = documents(&rendered("robeing", &copy.path().display().to_string(), &settings));
    objects[0]["notes"].as_str().expect("they are text").to_owned()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it can be created");
    for entry in fs::read_dir(from).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let target = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).expect("it can be copied");
        }
    }
}

#[test]
fn the_notes_say_what_to_do_next() {
    insta::assert_snapshot!("notes_default", notes("charts/robeing", &[]));
    let known = ["--api-versions", "robeing.io/v1alpha1", "--set", "watchNamespaces={a,b},replicas=1"];
    insta::assert_snapshot!("notes_namespaced", notes("charts/robeing", &known));
    insta::assert_snapshot!("notes_crds", notes("charts/robeing-crds", &[]));
    insta::assert_snapshot!("notes_crds_not_kept", notes("charts/robeing-crds", &["--set", "keep=false"]));
}

#[test]
fn charts_and_programs_have_one_version() {
    for chart in ["charts/robeing", "charts/robeing-crds"] {
        let about: Value = serde_yaml::from_str(&read(&format!("{chart}/Chart.yaml"))).expect("it is YAML");
        assert_eq!(about["version"], env!("CARGO_PKG_VERSION"), "{chart}");
        assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"), "{chart}");
    }
}

#[test]
fn the_documentations_helm_commands_are_right() {
    let mut tried = 0;
    for document in [
        "docs/kubernetes.md",
        "README.md",
        "charts/robeing/templates/NOTES.txt",
        "charts/robeing-crds/templates/NOTES.txt",
    ] {
        let text = read(document).replace("{{ .Release.Namespace }}", "robeing-system");
        for line in text.lines().map(str::trim) {
            let command = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().map(|word| word.trim_matches('\'')).collect();
            let ["helm", "install" | "upgrade", release, chart, settings @ ..] = &words[..] else { continue };
            // These flags only apply to an installation.
            let about_the_cluster = ["--create-namespace", "--reuse-values", "--install"];
            let settings: Vec<&str> =
                settings.iter().copied().filter(|word| !about_the_cluster.contains(word)).collect();
            rendered(release, chart, &settings);
            tried += 1;
        }
    }
    assert!(tried >= 5, "{tried} commands");
}

#[test]
fn the_operator_takes_the_arguments_that_it_is_given() {
    // Arguments before --help are parsed first.
    let taken = |arguments: &[String]| {
        let output = Command::new(program("robeing-operator")).args(arguments).arg("--help").env_clear().output();
        let output = output.expect("the operator starts");
        (output.status.success(), text(&output.stderr))
    };
    for settings in all_settings() {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let arguments = arguments(&operator(&settings));
        assert!(arguments.len() > 5, "{arguments:?}");
        let (is_taken, complaint) = taken(&arguments);
        assert!(is_taken, "{arguments:?}: {complaint}");
    }
    assert!(!taken(&["--no-such-flag=1".into()]).0 && !taken(&["--lease-duration=soon".into()]).0, "not invalid ones");
}
