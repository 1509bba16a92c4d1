//! The part of an object that must be equal after every fault: all fields that some client set, and how often it was
//! changed. What the API server generates for each object (UIDs, times, addresses) is left out.

use std::collections::BTreeMap;

use kube::{ResourceExt, api::DynamicObject};
use serde_json::{Map, Value, json};

/// The essences of objects, by kind and name.
pub type Essence = BTreeMap<String, Value>;

/// Returns an object's essence, with `kind/name`. Its namespace is replaced everywhere, so that objects of two
/// namespaces can be compared.
pub fn essence(kind: &str, object: &DynamicObject) -> (String, Value) {
    let mut data = object.data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.remove("status");
    }
    if let Some(spec) = data.get_mut("spec").and_then(Value::as_object_mut) {
        without_addresses(spec);
    }
    let name = object.name_any();
    if kind == "Secret" || (kind == "ConfigMap" && name.ends_with("-trust")) {
        // Keys and certificates are different each time.
        for value in data.get_mut("data").and_then(Value::as_object_mut).into_iter().flatten() {
            *value.1 = json!("made by chance");
        }
    }
    let owners = object.owner_references().iter();
    let owners: Vec<Value> =
        owners.map(|owner| json!([owner.kind, owner.name, owner.controller, owner.block_owner_deletion])).collect();
    let fields = object.metadata.managed_fields.iter().flatten();
    let managers: Vec<Value> = fields.map(|entry| json!([entry.manager, entry.operation, entry.subresource])).collect();
    let meta = &object.metadata;
    let value = json!({
        "labels": meta.labels, "annotations": meta.annotations, "owners": owners, "generation": meta.generation,
        "deleted": meta.deletion_timestamp, "managers": managers, "data": data,
    });
    (format!("{kind}/{}", object.name_any()), without_namespace(&value, object))
}

/// Returns the status of a cluster without its times.
pub fn status_essence(object: &DynamicObject) -> Value {
    let mut status = object.data["status"].clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition.as_object_mut().map(|condition| condition.remove("lastTransitionTime"));
    }
    without_namespace(&status, object)
}

fn without_addresses(spec: &mut Map<String, Value>) {
    if spec.get("clusterIP").is_some_and(|address| address != "None") {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
}

fn without_namespace(value: &Value, object: &DynamicObject) -> Value {
    let namespace = object.namespace().unwrap_or_default();
    let text = value.to_string().replace(&namespace, "(namespace)");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text} is not JSON without its namespace: {error}"))
}
