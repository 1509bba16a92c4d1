//! Checks the structural schema as the API server does: types, required and unknown fields, ranges, lengths, enums, and
//! the uniqueness of items in list sets and list maps.

use serde_json::{Map, Value};

use super::{problem::Report, spelling};

/// Maximum number of field names listed in a message.
const LISTED_FIELDS: usize = 12;
/// Maximum number of characters of a value repeated in a message.
const SHOWN_CHARS: usize = 60;

/// Drops every `null`, as the API server does for fields that are not nullable; this schema has no nullable fields.
pub(super) fn drop_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) if !preserves_unknown(schema) => {
            fields.retain(|_, field| !field.is_null());
            for (name, field) in fields {
                if let Some(inner) = field_schema(schema, name) {
                    drop_nulls(inner, field);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| drop_nulls(inner, item));
            }
        }
        _ => {}
    }
}

/// Reports everything in `value` that violates `schema`.
pub(super) fn check(schema: &Value, value: &Value, report: &mut Report) {
    check_at(schema, value, "", report);
}

fn check_at(schema: &Value, value: &Value, path: &str, report: &mut Report) {
    if !check_type(schema, value, path, report) {
        return;
    }
    check_enum(schema, value, path, report);
    match value {
        Value::Object(fields) => check_fields(schema, fields, path, report),
        Value::Array(items) => check_items(schema, items, path, report),
        Value::String(text) => {
            let length = text.chars().count();
            check_count(schema, ("minLength", "maxLength"), length, ("character", "characters"), path, report);
        }
        Value::Number(number) => check_range(schema, number, path, report),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Checks that the value has the schema's type, and returns whether it does.
fn check_type(schema: &Value, value: &Value, path: &str, report: &mut Report) -> bool {
    let whole = |number: &serde_json::Number| number.is_i64() || number.is_u64();
    let (fits, expected) = if flag(schema, "x-kubernetes-int-or-string") {
        (value.is_string() || value.as_number().is_some_and(whole), "a whole number or text")
    } else {
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => (value.is_object(), "a map of fields"),
            Some("array") => (value.is_array(), "a list"),
            Some("string") => (value.is_string(), "text"),
            Some("integer") => (value.as_number().is_some_and(whole), "a whole number"),
            Some("number") => (value.is_number(), "a number"),
            Some("boolean") => (value.is_boolean(), "true or false"),
            _ => (true, "anything"),
        }
    };
    if !fits {
        let advice = match (expected, value) {
            ("text", Value::Number(_) | Value::Bool(_)) => "; put it in quotes",
            ("a whole number" | "true or false", Value::String(text))
                if text.parse::<i64>().is_ok() || text.parse::<bool>().is_ok() =>
            {
                "; remove the quotes"
            }
            _ => "",
        };
        let found = match (expected, value) {
            // It may be a URL or a header with a password in it.
            (_, Value::String(_)) if path.contains("executor.http") || path.ends_with(".executor") => "text".to_owned(),
            (_, Value::Number(_)) if path.contains("executor.http") => "a number".to_owned(),
            _ => describe(value),
        };
        report.add(path, format!("This must be {expected}, but is {found}{advice}."));
    }
    fits
}

fn check_enum(schema: &Value, value: &Value, path: &str, report: &mut Report) {
    let Some(allowed) = schema.get("enum").and_then(Value::as_array) else {
        return;
    };
    if allowed.contains(value) {
        return;
    }
    let words: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
    let meant = value.as_str().and_then(|word| spelling::nearest(word, words.iter().copied()));
    let advice = meant.map(|word| format!("; did you mean {word}?")).unwrap_or_else(|| ".".to_owned());
    report.add(path, format!("This must be {}, but is {}{advice}", any_of(&words), describe(value)));
}

fn check_fields(schema: &Value, fields: &Map<String, Value>, path: &str, report: &mut Report) {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            report.add(path, format!("The field {name} is missing; add it."));
        }
    }
    check_count(schema, ("minProperties", "maxProperties"), fields.len(), ("entry", "entries"), path, report);
    for (name, field) in fields {
        let field_path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match field_schema(schema, name) {
            Some(inner) => check_at(inner, field, &field_path, report),
            None if preserves_unknown(schema) => {}
            None => report.add(&field_path, unknown_field(schema, name)),
        }
    }
}

fn unknown_field(schema: &Value, name: &str) -> String {
    let known: Vec<&str> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let name_shown = shorten(name);
    match spelling::nearest(name, known.iter().copied()) {
        Some(meant) => format!("There is no field {name_shown} here; did you mean {meant}?"),
        None if known.is_empty() => {
            format!("There is no field {name_shown} here, nor any other; remove it.")
        }
        None if known.len() <= LISTED_FIELDS => {
            format!("There is no field {name_shown} here; remove it. The fields here are {}.", known.join(", "))
        }
        None => format!("There is no field {name_shown} here; remove it."),
    }
}

fn check_items(schema: &Value, items: &[Value], path: &str, report: &mut Report) {
    check_count(schema, ("minItems", "maxItems"), items.len(), ("item", "items"), path, report);
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => check_unique(
            items,
            path,
            report,
            |item| item.as_str().map(shorten),
            |_, text| format!("{text} is already in this list; remove one."),
        ),
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            if let Some(key) = keys.and_then(|keys| keys.first()).and_then(Value::as_str) {
                check_unique(
                    items,
                    path,
                    report,
                    |item| item.get(key)?.as_str().map(shorten),
                    |first, text| {
                        format!("Item {first} of this list has the {key} {text} too; give one of them another {key}.")
                    },
                );
            }
        }
        _ => {}
    }
    if let Some(inner) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            check_at(inner, item, &format!("{path}[{index}]"), report);
        }
    }
}

/// Reports every item whose key occurs earlier in the list; `message` gets the index of the earlier item and the key.
fn check_unique(
    items: &[Value],
    path: &str,
    report: &mut Report,
    key_of: impl Fn(&Value) -> Option<String>,
    message: impl Fn(usize, &str) -> String,
) {
    let mut seen = std::collections::HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let Some(key) = key_of(item) else { continue };
        match seen.get(&key) {
            Some(first) => report.add(&format!("{path}[{index}]"), message(*first, &key)),
            None => {
                seen.insert(key, index);
            }
        }
    }
}

fn check_count(
    schema: &Value,
    (least, most): (&str, &str),
    count: usize,
    (one, several): (&str, &str),
    path: &str,
    report: &mut Report,
) {
    let limit =
        |keyword: &str| schema.get(keyword).and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok());
    let noun = |count: usize| if count == 1 { one } else { several };
    if let Some(least) = limit(least).filter(|least| count < *least) {
        report.add(path, format!("This must have at least {least} {}, but has {count}.", noun(least)));
    }
    if let Some(most) = limit(most).filter(|most| count > *most) {
        report.add(path, format!("This may have at most {most} {}, but has {count}.", noun(most)));
    }
}

fn check_range(schema: &Value, number: &serde_json::Number, path: &str, report: &mut Report) {
    let Some(value) = number.as_f64() else { return };
    let limit = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    if let Some(least) = limit("minimum").filter(|least| value < *least) {
        report.add(path, format!("This must be at least {least}, but is {number}."));
    }
    if let Some(most) = limit("maximum").filter(|most| value > *most) {
        report.add(path, format!("This must be at most {most}, but is {number}."));
    }
    let (least, most) = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => (i64::MIN as f64, i64::MAX as f64),
    };
    let is_integer = schema.get("type").and_then(Value::as_str) != Some("number");
    if is_integer && limit("maximum").is_none() && !(least..=most).contains(&value) {
        report.add(path, format!("The number {number} is too large for this field."));
    }
}

fn field_schema<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let declared = schema.get("properties").and_then(|properties| properties.get(name));
    declared.or_else(|| schema.get("additionalProperties").filter(|inner| inner.is_object()))
}

/// Returns whether a map may contain fields that the schema does not name.
fn preserves_unknown(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-preserve-unknown-fields")
}

fn flag(schema: &Value, keyword: &str) -> bool {
    schema.get(keyword).and_then(Value::as_bool) == Some(true)
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the text {}", shorten(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}

/// Quotes the text, and truncates it if it is long.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn any_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
