//! Parts of payloads in one form, however they are written, so that they can be compared.

use serde_json::{Number, Value};

use crate::{error::AmbiguousJson, json};

/// Whole numbers up to this are written without a fraction: an `f64` represents all of them exactly.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// Returns the part of a payload that a JSON pointer (RFC 6901) points at, as JSON in one form: without spaces, objects in
/// the order of their names, and whole numbers without a fraction or an exponent. `None` if the payload is no JSON, or has
/// no such part.
///
/// # Errors
/// [`AmbiguousJson`] if the payload is too large to be read, or parsers would differ in its meaning.
pub fn canonical_part(payload: &[u8], pointer: &str) -> Result<Option<Vec<u8>>, AmbiguousJson> {
    let value = json::read(payload)?;
    let part = value.as_ref().and_then(|value| value.pointer(pointer));
    Ok(part.map(|part| {
        let mut out = Vec::new();
        write(part, &mut out);
        out
    }))
}

/// Writes a value. Recurses as deep as the value, which is limited when it is read.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(as_text(number).as_bytes()),
        Value::String(text) => write_text(text, out),
        Value::Array(list) => {
            out.push(b'[');
            for (n, value) in list.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write(value, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (n, (name, value)) in fields.into_iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    // Texts can always be written.
    out.extend_from_slice(&serde_json::to_vec(text).unwrap_or_default());
}

fn as_text(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if !number.is_i64() && !number.is_u64() && value.fract() == 0.0 && value.abs() <= MAX_WHOLE => {
            (value as i64).to_string()
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_form_and_others_have_others() {
        let part = |payload: &str, pointer: &str| {
            let part = canonical_part(payload.as_bytes(), pointer).expect("it is not ambiguous");
            part.map(|part| String::from_utf8(part).expect("JSON is UTF-8"))
        };
        let one = part(r#" {"b": [1.0, 1e2, -0.0, 0.5, "\u0041", null, true], "a": {"d": {}, "c": []}} "#, "");
        assert_eq!(one.as_deref(), Some(r#"{"a":{"c":[],"d":{}},"b":[1,100,0,0.5,"A",null,true]}"#));
        assert_eq!(part(r#"{"a": {"x/y": 7}}"#, "/a/x~1y").as_deref(), Some("7"));
        assert_eq!(part("[18446744073709551615, -9223372036854775808]", "/0").as_deref(), Some("18446744073709551615"));
        for (payload, pointer) in [("{}", "/a"), ("no JSON", ""), ("[1]", "/1"), ("[1]", "a")] {
            assert_eq!(part(payload, pointer), None, "{payload} at {pointer:?}");
        }
        assert_eq!(canonical_part(br#"{"a": 1, "a": 1}"#, "/a"), Err(AmbiguousJson::DuplicateName));
    }
}
