//! Reads payloads as JSON, without any doubt about what they mean.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{
    error::AmbiguousJson,
    limits::{MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_JSON_VALUES},
};

/// What was found while a payload was read.
struct Found {
    values: Cell<usize>,
    problem: Cell<Option<AmbiguousJson>>,
}

impl Found {
    fn refuse<E: Error>(&self, problem: AmbiguousJson) -> E {
        self.problem.set(Some(problem));
        E::custom(problem)
    }
}

/// Reads one value.
struct Reader<'f> {
    found: &'f Found,
    depth: usize,
}

impl<'f> Reader<'f> {
    fn inner<E: Error>(&self) -> Result<Reader<'f>, E> {
        if self.depth >= MAX_JSON_DEPTH {
            return Err(self.found.refuse(AmbiguousJson::TooDeep));
        }
        Ok(Reader { found: self.found, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.found.values.set(self.found.values.get() + 1);
        if self.found.values.get() > MAX_JSON_VALUES {
            return Err(self.found.refuse(AmbiguousJson::TooManyValues));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(self.inner()?)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let value = access.next_value_seed(self.inner()?)?;
            if map.insert(name, value).is_some() {
                return Err(self.found.refuse(AmbiguousJson::DuplicateName));
            }
        }
        Ok(Value::Object(map))
    }
}

/// Reads a payload as JSON. Returns `None` if it is no JSON.
///
/// # Errors
/// [`AmbiguousJson`] if it is too large to be read, or parsers would differ in its meaning.
pub(crate) fn read(payload: &[u8]) -> Result<Option<Value>, AmbiguousJson> {
    if payload.len() > MAX_JSON_BYTES {
        return Err(AmbiguousJson::TooLarge);
    }
    let found = Found { values: Cell::new(0), problem: Cell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let read = Reader { found: &found, depth: 0 }.deserialize(&mut deserializer);
    match (read.and_then(|value| deserializer.end().map(|()| value)), found.problem.get()) {
        (_, Some(problem)) => Err(problem),
        (Ok(value), None) => Ok(Some(value)),
        (Err(error), None) => ambiguity(&error.to_string()).map_or(Ok(None), Err),
    }
}

/// Messages of `serde_json` about strings that it refuses and many other parsers accept: half of a surrogate pair as an
/// escape, and bytes that are not UTF-8.
const NOT_UNICODE: [&str; 3] =
    ["lone leading surrogate in hex escape", "unexpected end of hex escape", "invalid unicode code point"];

/// Returns why other parsers may accept what `serde_json` refuses. Its errors have no categories for this.
fn ambiguity(error: &str) -> Option<AmbiguousJson> {
    if error.starts_with("number out of range") {
        return Some(AmbiguousJson::Number);
    }
    NOT_UNICODE.into_iter().any(|message| error.starts_with(message)).then_some(AmbiguousJson::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_is_read_and_what_is_not_is_none() {
        let value = read(br#" {"a": [1, -2, 2.5, "x", true, null], "b": 18446744073709551615} "#).unwrap().unwrap();
        assert_eq!(value["a"][1], -2);
        assert_eq!(value["b"], u64::MAX);
        for other in [&b""[..], b"hello", b"{", b"{} {}", b"[1,]", b"\xff", b"nul", b"'a'", b"{\"a\":NaN}"] {
            assert_eq!(read(other), Ok(None), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn what_parsers_differ_about_is_neither_json_nor_no_json() {
        assert_eq!(read(br#"{"a": 1, "b": {"c": 1, "\u0063": 2}}"#), Err(AmbiguousJson::DuplicateName));
        assert_eq!(read(b"[1, 1e999]"), Err(AmbiguousJson::Number));
        assert_eq!(read(br#"{"a": 1, "a": 2} and more"#), Err(AmbiguousJson::DuplicateName));
        for text in [r#"{"a": "\ud800"}"#, r#"["\ud800\n"]"#, r#"["\ud800\u0041"]"#, r#"{"\udc00": 1}"#] {
            assert_eq!(read(text.as_bytes()), Err(AmbiguousJson::Text), "{text}");
        }
        assert_eq!(read(b"{\"a\": \"\xff\"}"), Err(AmbiguousJson::Text));
    }

    #[test]
    fn depth_size_and_number_of_values_have_limits() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        assert!(read(&nested(MAX_JSON_DEPTH)).unwrap().is_some());
        assert_eq!(read(&nested(MAX_JSON_DEPTH + 1)), Err(AmbiguousJson::TooDeep));
        assert_eq!(read(&nested(100_000)), Err(AmbiguousJson::TooDeep));
        let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth)).into_bytes();
        assert!(read(&objects(MAX_JSON_DEPTH)).unwrap().is_some());
        assert_eq!(read(&objects(MAX_JSON_DEPTH + 1)), Err(AmbiguousJson::TooDeep));
        let many = |count: usize| format!("[{}1]", "1,".repeat(count - 2)).into_bytes();
        assert!(read(&many(MAX_JSON_VALUES)).unwrap().is_some());
        assert_eq!(read(&many(MAX_JSON_VALUES + 1)), Err(AmbiguousJson::TooManyValues));
        let long = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2)).into_bytes();
        assert!(read(&long(MAX_JSON_BYTES)).unwrap().is_some());
        assert_eq!(read(&long(MAX_JSON_BYTES + 1)), Err(AmbiguousJson::TooLarge));
    }
}
