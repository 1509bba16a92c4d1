//! Kubernetes types embedded in the schema. They are embedded with their types, so that a misspelled field is refused,
//! but without their descriptions, which would make the definition too large for a client-side `kubectl apply`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, ser::Error};
use serde_json::{Map, Value, json};

use crate::{
    limits::{MAX_IMAGE, MAX_POD_LIST, MAX_QUANTITY, MAX_RESOURCE_KINDS},
    rules,
};

/// Returns the schema of `T` without descriptions.
pub(crate) fn slim<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    if let Some(object) = schema.as_object_mut() {
        strip_descriptions(object);
    }
    schema
}

/// Returns the schema of a list of `T` without descriptions.
pub(crate) fn list_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": slim::<T>(generator) })
}

/// Returns the schema of a string-to-string map, such as labels.
pub(crate) fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_POD_LIST,
        "additionalProperties": { "type": "string" },
    })
}

/// Returns the schema of a quantity such as `1Gi`, as a string only.
pub(crate) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_QUANTITY })
}

/// Returns the schema of a moment, as text in the form of RFC 3339.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// Returns the schema of a container's requests and limits, with rules that check the quantities.
pub(crate) fn resources(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = slim::<ResourceRequirements>(generator);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        check_amounts(properties);
    }
    schema
}

fn check_amounts(properties: &mut Map<String, Value>) {
    for list in ["limits", "requests"] {
        if let Some(amounts) = properties.get_mut(list) {
            amounts["maxProperties"] = json!(MAX_RESOURCE_KINDS);
            amounts["additionalProperties"] = json!({
                "x-kubernetes-int-or-string": true,
                "maxLength": MAX_QUANTITY,
                "x-kubernetes-validations": rules::as_json(&[rules::resource_quantity()]),
            });
        }
    }
}

/// Returns the schema of a pod's container without `name`, which the operator sets.
pub(crate) fn nameless_container(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = slim::<Container>(generator);
    let resources = resources(generator);
    if let Some(object) = schema.as_object_mut() {
        object.remove("required");
        if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
            properties.remove("name");
            properties.insert("resources".into(), resources.to_value());
            properties["image"]["maxLength"] = json!(MAX_IMAGE);
        }
    }
    schema
}

/// Serializes a container without the empty `name` that the Kubernetes type requires.
pub(crate) fn serialize_nameless<S: Serializer>(
    container: &Option<Container>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(container).map_err(S::Error::custom)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("name");
    }
    value.serialize(serializer)
}

/// Removes the descriptions from a schema and everything in it. A property that is named `description` is kept.
fn strip_descriptions(schema: &mut Map<String, Value>) {
    schema.remove("description");
    for (keyword, value) in schema.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                let by_name: BTreeMap<_, _> = properties.iter_mut().collect();
                by_name.into_values().filter_map(Value::as_object_mut).for_each(strip_descriptions);
            }
            ("items" | "additionalProperties", Value::Object(inner)) => strip_descriptions(inner),
            _ => {}
        }
    }
}
