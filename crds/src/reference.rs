//! Generates the field reference of `RobeingCluster` from the schema that the API server gets, so that the two cannot
//! disagree.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::{API_VERSION, KIND, schema};

const INTRODUCTION: &str = "<!-- Generated from the Rust types by `make crds`. Do not edit. -->

# Reference

Every field of a `RobeingCluster`, and the rules that the API server and `robeing dev` enforce.
`kubectl explain robeingclusters.spec` prints the same descriptions. [kubernetes.md](kubernetes.md) shows how to use the
fields.

";

/// Returns every field of the resource with its type, default, bounds and rules, as Markdown: the text of
/// `docs/reference.md`.
pub fn reference() -> String {
    let root = schema::openapi();
    let mut text = INTRODUCTION.to_owned();
    let _ = writeln!(text, "`apiVersion: {API_VERSION}`, `kind: {KIND}`, namespaced, short name `rbc`.");
    let rules = rules(&root);
    if !rules.is_empty() {
        let _ = writeln!(text, "\n{rules}");
    }
    let properties = root.get("properties").and_then(Value::as_object).into_iter().flatten();
    for (name, field) in properties.filter(|(name, _)| *name != "metadata") {
        section(&mut text, name, field);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Writes the section of one object, followed by those of the objects in it.
fn section(text: &mut String, path: &str, object: &Value) {
    let _ = writeln!(text, "\n## `{path}`\n");
    if let Some(description) = description(object) {
        let _ = writeln!(text, "{description}\n");
    }
    let fields = fields(object);
    let required: Vec<&str> =
        object.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    text.push_str("| field | type | default | description |\n|---|---|---|---|\n");
    for (name, field) in fields {
        let default = match field.get("default") {
            Some(default) => format!("`{default}`"),
            None if required.contains(&name.as_str()) => "required".to_owned(),
            None => String::new(),
        };
        let _ = writeln!(text, "| `{name}` | {} | {default} | {} |", kind(field), explanation(field));
    }
    let rules = rules(object);
    if !rules.is_empty() {
        let _ = writeln!(text, "\n{rules}");
    }
    for (name, field) in fields {
        if field.get("type").and_then(Value::as_str) == Some("array") {
            if let Some(items) = field.get("items").filter(|items| is_ours(items)) {
                section(text, &format!("{path}.{name}[]"), items);
            }
        } else if is_ours(field) {
            section(text, &format!("{path}.{name}"), field);
        }
    }
}

/// Returns whether the fields of an object are Robeing's own. Fields of Kubernetes objects, such as a container, have
/// no descriptions here and are documented by Kubernetes.
fn is_ours(object: &Value) -> bool {
    fields(object).values().any(|field| description(field).is_some())
}

fn fields(object: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    object.get("properties").and_then(Value::as_object).unwrap_or(&NONE)
}

fn description(schema: &Value) -> Option<&str> {
    schema.get("description").and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Collects the messages of all rules within a field, each once.
fn refusals_within<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
    for message in messages(schema) {
        if !found.contains(&message) {
            found.push(message);
        }
    }
    let inner = ["items", "additionalProperties"].into_iter().filter_map(|keyword| schema.get(keyword));
    for inner in inner.chain(fields(schema).values()) {
        refusals_within(inner, found);
    }
}

/// Returns the description, bounds and rules of a field, for one cell of a table.
fn explanation(field: &Value) -> String {
    let mut parts: Vec<String> = description(field).map(str::to_owned).into_iter().collect();
    parts.extend(bounds(field));
    // The rules of an object with its own section are listed there.
    let items = field.get("items").unwrap_or(field);
    if !is_ours(field) && !is_ours(items) {
        let mut inner = Vec::new();
        refusals_within(field, &mut inner);
        parts.extend(inner.iter().map(|message| format!("*{message}*")));
    } else if !is_ours(field) {
        parts.extend(messages(field).iter().map(|message| format!("*{message}*")));
    }
    parts.join(" ").replace("\n\n", " ").replace('|', "\\|")
}

fn kind(field: &Value) -> String {
    let integer_or_string = field.get("x-kubernetes-int-or-string").is_some();
    let name = field.get("type").and_then(Value::as_str).unwrap_or(if integer_or_string { "quantity" } else { "any" });
    match (field.get("enum").and_then(Value::as_array), name) {
        (Some(values), _) => values
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", "),
        (None, "array") => format!("list of {}", field.get("items").map_or("any".to_owned(), kind)),
        (None, "object") => match field.get("additionalProperties") {
            Some(values) => format!("map of {}", kind(values)),
            None => "object".to_owned(),
        },
        (None, name) => name.to_owned(),
    }
}

/// Returns the bounds that the schema states besides its rules, one sentence each.
fn bounds(field: &Value) -> Vec<String> {
    let number = |keyword: &str| field.get(keyword).and_then(Value::as_f64);
    let range = |least: Option<f64>, most: Option<f64>, unit: &str| match (least, most) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}{unit}.")),
        (Some(least), None) => Some(format!("At least {least}{unit}.")),
        (None, Some(most)) => Some(format!("At most {most}{unit}.")),
        (None, None) => None,
    };
    [
        range(number("minimum"), number("maximum"), ""),
        range(number("minLength"), number("maxLength"), " characters"),
        range(number("minItems"), number("maxItems"), " items"),
        range(number("minProperties"), number("maxProperties"), " entries"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn messages(schema: &Value) -> Vec<&str> {
    let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(|rule| rule.get("message").and_then(Value::as_str)).collect()
}

/// Returns the messages of an object's own rules, as a list.
fn rules(object: &Value) -> String {
    let messages = messages(object);
    if messages.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = messages.iter().map(|message| format!("- *{message}*")).collect();
    format!("Validation rules, each with the message of its violation:\n\n{}", lines.join("\n"))
}
