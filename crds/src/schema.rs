//! Generates the `CustomResourceDefinition` from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{RobeingCluster, limits::MAX_OBJECT_NAME};

const HEADER: &str = "# Generated from the Rust types by `make crds`. Do not edit.\n";

/// Returns the definition of `RobeingCluster`, ready to be applied to a Kubernetes cluster.
///
/// Use this instead of `RobeingCluster::crd()`: here no field is nullable. The API server then drops a `null` and
/// applies the field's default, and a CEL rule never sees a `null`.
pub fn crd() -> CustomResourceDefinition {
    let mut value =
        serde_json::to_value(RobeingCluster::crd()).expect("a definition is plain data, which has a JSON form");
    if let Some(schema) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema").and_then(Value::as_object_mut) {
        tidy(schema);
        // A rule can report a field only if the schema declares it, and costs less if the field's length is bounded.
        schema["properties"]["metadata"] =
            json!({ "type": "object", "properties": { "name": { "type": "string", "maxLength": MAX_OBJECT_NAME } } });
    }
    serde_json::from_value(value).expect("only keywords of the schema were dropped or respelt, which keeps its type")
}

/// Returns the definition of `RobeingCluster` as YAML: the text of `crds/robeingclusters.yaml`.
pub fn crd_yaml() -> String {
    let yaml = serde_yaml::to_string(&crd()).expect("a definition is plain data, which has a YAML form");
    format!("{HEADER}{yaml}")
}

/// Returns the OpenAPI schema of the resource, as JSON.
pub(crate) fn openapi() -> Value {
    let schema = crd().spec.versions.into_iter().next().and_then(|version| version.schema);
    serde_json::to_value(schema.and_then(|schema| schema.open_api_v3_schema))
        .expect("a schema is plain data, which has a JSON form")
}

/// Adapts a generated schema to Kubernetes: only integer formats that it knows, no `nullable`, and descriptions whose
/// only line breaks separate paragraphs.
fn tidy(schema: &mut Map<String, Value>) {
    schema.remove("nullable");
    match schema.get("format").and_then(Value::as_str) {
        Some("uint16" | "uint32" | "uint64") => {
            schema.insert("format".into(), json!("int64"));
        }
        Some("uint" | "uint8" | "int8" | "int16") => {
            schema.remove("format");
        }
        _ => {}
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    for (keyword, value) in schema.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().filter_map(Value::as_object_mut).for_each(tidy);
            }
            ("items" | "additionalProperties", Value::Object(inner)) => tidy(inner),
            _ => {}
        }
    }
}
