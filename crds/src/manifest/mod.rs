//! Reads manifests as the API server would: parses the YAML, applies the schema's defaults, and checks the schema and
//! its CEL rules, reporting all problems at once. Works on text only; the caller reads the files.

mod multi_document;
mod problem;
mod rules_check;
mod schema_check;
mod spelling;
mod yaml;

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
pub use multi_document::{Ignored, Manifest, find_cluster};
use problem::Report;
pub use problem::{Location, ManifestError, Problem};
use serde_json::{Map, Value, json};
use yaml::Document;

use crate::{API_VERSION, KIND, Messages, RobeingCluster, embedded, limits::MAX_PROBLEMS, schema};

/// The schema that manifests are checked against: the definition's schema plus `apiVersion`, `kind` and the fields of
/// `metadata`, which the API server knows implicitly.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schema::openapi();
    let mut generator =
        schemars::generate::SchemaSettings::openapi3().with(|s| s.inline_subschemas = true).into_generator();
    schema["properties"]["metadata"] = embedded::slim::<ObjectMeta>(&mut generator).to_value();
    schema["properties"]["metadata"]["required"] = json!(["name"]);
    // The API server's bookkeeping, which `kubectl get --show-managed-fields` prints. It may contain any fields.
    schema["properties"]["metadata"]["properties"]["managedFields"]["items"]["properties"]["fieldsV1"] =
        json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({ "type": "string" });
    }
    schema
});

/// Reads a manifest with exactly one `RobeingCluster`, and fills in the schema's defaults.
///
/// # Errors
/// Those of [`parse_manifests`], and [`ManifestError::Several`] if there is more than one cluster.
pub fn parse_manifest(text: &str) -> Result<RobeingCluster, ManifestError> {
    let mut clusters = parse_manifests(text)?;
    match (clusters.pop(), clusters.len()) {
        (Some(cluster), 0) => Ok(cluster),
        (Some(last), _) => {
            clusters.push(last);
            Err(ManifestError::Several { names: clusters.iter().map(ResourceExt::name_any).collect() })
        }
        (None, _) => Err(ManifestError::Empty),
    }
}

/// Reads a manifest with one or more `RobeingCluster`s, separated by `---`, and fills in the schema's defaults. Never
/// returns an empty list. A `status` in the manifest is ignored, as by the API server.
///
/// # Errors
/// [`ManifestError`] states what is wrong and where. All problems of all documents are reported, up to
/// [`crate::limits::MAX_PROBLEMS`]; only a text that is not YAML ends the reading at once.
pub fn parse_manifests(text: &str) -> Result<Vec<RobeingCluster>, ManifestError> {
    let documents = yaml::read(text)?;
    let many = documents.len() > 1;
    let mut clusters = Vec::with_capacity(documents.len());
    let mut problems = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let mut report = Report::new(many.then_some(index + 1), &document.places);
        match check_document(&document, &mut report) {
            Some(cluster) if report.is_empty() => clusters.push(cluster),
            _ => problems.append(&mut report.into_problems()),
        }
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    match (problems.is_empty(), clusters.is_empty()) {
        (false, _) => {
            problems.truncate(MAX_PROBLEMS);
            Err(ManifestError::Invalid { problems })
        }
        (true, true) => Err(ManifestError::Empty),
        (true, false) => Ok(clusters),
    }
}

/// Returns whether a manifest sets a field, such as `/spec/policies`, even to an empty list. What [`parse_manifest`]
/// returns is the same for an empty list and for none.
///
/// # Errors
/// Those of [`parse_manifests`], as far as the text is no YAML.
pub fn sets_field(text: &str, pointer: &str) -> Result<bool, ManifestError> {
    let is_set = |document: &Document| document.value.pointer(pointer).is_some_and(|value| !value.is_null());
    Ok(yaml::read(text)?.iter().any(is_set))
}

/// Checks whether `old` may be replaced by `new`: against the rules for every cluster, and against the transition
/// rules, such as that the coordinators' storage must not change.
///
/// # Errors
/// [`ManifestError::Invalid`] with all problems; they have no line, because there is no text.
pub fn check_update(old: &RobeingCluster, new: &RobeingCluster) -> Result<(), ManifestError> {
    let as_json = |cluster| serde_json::to_value(cluster).expect("a cluster is plain data, which has a JSON form");
    let (old, new): (Value, Value) = (as_json(old), as_json(new));
    let places = yaml::Places::default();
    let mut report = Report::new(None, &places);
    schema_check::check(&SCHEMA, &new, &mut report);
    rules_check::check(&SCHEMA, &new, Some(&old), &mut report);
    match report.is_empty() {
        true => Ok(()),
        false => Err(ManifestError::Invalid { problems: report.into_problems() }),
    }
}

/// Returns the cluster of one document, or `None` after reporting at least one problem.
fn check_document(document: &Document, report: &mut Report) -> Option<RobeingCluster> {
    let Value::Object(fields) = &document.value else {
        report
            .add("", format!("A manifest must be a map that starts with apiVersion: {API_VERSION} and kind: {KIND}."));
        return None;
    };
    if yaml::is_list(&document.value) {
        check_items(fields.get("items"), report);
        return None;
    }
    check_type(fields, report);
    if !report.is_empty() {
        // This is not a RobeingCluster, so its other fields mean nothing here.
        return None;
    }
    let mut value = document.value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    schema_check::drop_nulls(&SCHEMA, &mut value);
    let value = kube::core::cel::apply_defaults(&SCHEMA, &value);
    schema_check::check(&SCHEMA, &value, report);
    rules_check::check(&SCHEMA, &value, None, report);
    if !report.is_empty() {
        return None;
    }
    match serde_json::from_value(value) {
        Ok(cluster) => {
            check_pools(&cluster, report);
            check_schedules(&cluster, report);
            Some(cluster)
        }
        Err(error) => {
            report.add("", format!("The manifest has the right form but cannot be read: {error}."));
            None
        }
    }
}

/// Reports what agents would refuse but no schema rule can express.
fn check_pools(cluster: &RobeingCluster, report: &mut Report) {
    for (index, pool) in cluster.spec.pools.iter().enumerate() {
        if let Some((field, sentence)) = pool.executor.problem() {
            report.add(&format!("spec.pools[{index}].executor.{field}"), sentence);
        }
        if let Some((field, sentence)) = pool.messages.as_ref().and_then(Messages::problem) {
            report.add(&format!("spec.pools[{index}].messages.{field}"), sentence);
        }
    }
}

/// Reports what coordinators would refuse but no schema rule can express.
fn check_schedules(cluster: &RobeingCluster, report: &mut Report) {
    for (index, schedule) in cluster.spec.schedules.iter().enumerate() {
        if let Some((field, sentence)) = schedule.problem() {
            report.add(&format!("spec.schedules[{index}].{field}"), sentence);
        }
    }
}

/// Reports why a list contains no documents.
fn check_items(items: Option<&Value>, report: &mut Report) {
    let path = if items.is_some() { "items" } else { "" };
    match items {
        None | Some(Value::Null) => report.add(
            path,
            format!("This List has no items, so there is no {KIND}; write the {KIND} under items, or by itself."),
        ),
        Some(_) => report.add(path, "The items of a List must be a list; begin each with '-'.".into()),
    }
}

fn check_type(fields: &Map<String, Value>, report: &mut Report) {
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match fields.get(field) {
            Some(Value::String(found)) if found == expected => {}
            Some(Value::String(found)) => report.add(field, format!("{field} must be {expected}, but is {found:?}.")),
            Some(_) => report.add(field, format!("{field} must be {expected}.")),
            None => report.add("", format!("{field} is missing; write {field}: {expected}.")),
        }
    }
}
