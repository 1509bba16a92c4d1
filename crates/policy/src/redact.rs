//! Replaces parts of payloads.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Range};

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    error::Problem,
    json,
    limits::{MAX_POINTER_BYTES, MAX_POINTER_SEGMENTS},
    verdict::{Redacted, Redaction},
};

/// What replaces a payload that is no JSON.
pub const REDACTED: &str = "[redacted]";
/// What replaces a value in JSON, and a payload that is JSON.
const REDACTED_JSON: &str = "\"[redacted]\"";

/// A JSON pointer (RFC 6901) to a value below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<String>);

impl Pointer {
    /// Parses a pointer.
    ///
    /// # Errors
    /// [`Problem`] if it is none, is that of the whole document, or is too long.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_POINTER_BYTES {
            return Err(Problem::PointerTooLong);
        }
        let invalid = || Problem::Pointer(text.to_owned());
        let segments = text.strip_prefix('/').ok_or_else(invalid)?.split('/');
        let unescape = |segment: &str| {
            let mut parts = segment.split('~');
            let mut name = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (escaped, rest) = match (part.strip_prefix('0'), part.strip_prefix('1')) {
                    (Some(rest), _) => ('~', rest),
                    (_, Some(rest)) => ('/', rest),
                    _ => return Err(invalid()),
                };
                name.push(escaped);
                name.push_str(rest);
            }
            Ok(name)
        };
        let segments = segments.map(unescape).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > MAX_POINTER_SEGMENTS {
            return Err(Problem::PointerTooLong);
        }
        Ok(Self(segments))
    }
}

/// All pointers to redacted values, as a tree, so that each level of a payload is read once.
#[derive(Debug, Default)]
struct Tree {
    is_redacted: bool,
    below: BTreeMap<String, Self>,
}

impl Tree {
    fn add(&mut self, pointer: &Pointer) {
        let mut tree = self;
        for segment in &pointer.0 {
            tree = tree.below.entry(segment.clone()).or_default();
        }
        tree.is_redacted = true;
    }
}

/// Returns a payload with everything replaced that policies redact. All other bytes stay as they are.
///
/// A payload that is no unambiguous JSON has no fields; if any of them is redacted, it is replaced as a whole.
pub fn redact(payload: &Bytes, redactions: &[Redaction]) -> Bytes {
    if redactions.is_empty() {
        return payload.clone();
    }
    let is_json = matches!(json::read(payload), Ok(Some(_)));
    let whole = || Bytes::from_static(if is_json { REDACTED_JSON } else { REDACTED }.as_bytes());
    let mut tree = Tree::default();
    for redaction in redactions {
        let Redacted::Fields(fields) = &redaction.what else { return whole() };
        for field in fields {
            match Pointer::parse(field) {
                Ok(pointer) => tree.add(&pointer),
                Err(_) => return whole(),
            }
        }
    }
    let Some(spans) = std::str::from_utf8(payload).ok().filter(|_| is_json).and_then(|text| spans(text, &tree)) else {
        return whole();
    };
    let mut redacted = Vec::with_capacity(payload.len());
    let mut end = 0;
    for span in spans {
        redacted.extend_from_slice(&payload[end..span.start]);
        redacted.extend_from_slice(REDACTED_JSON.as_bytes());
        end = span.end;
    }
    redacted.extend_from_slice(&payload[end..]);
    redacted.into()
}

/// Returns where the redacted values of a JSON text are, in order and without overlap. Returns `None` if it can't be
/// read.
fn spans(text: &str, tree: &Tree) -> Option<Vec<Range<usize>>> {
    let mut spans = Vec::new();
    find(text, 0, tree, &mut spans)?;
    Some(spans)
}

/// Finds the redacted values in a value that begins at an offset. Recurses at most [`MAX_POINTER_SEGMENTS`] deep.
fn find(text: &str, offset: usize, tree: &Tree, spans: &mut Vec<Range<usize>>) -> Option<()> {
    let children: Children<'_> = serde_json::from_str(text).ok()?;
    for (name, raw) in children.0 {
        let Some(below) = tree.below.get(name.as_ref()) else { continue };
        // A raw value is a part of the text that it was read from.
        let start = raw.get().as_ptr().addr().checked_sub(text.as_ptr().addr())? + offset;
        if below.is_redacted {
            spans.push(start..start + raw.get().len());
        } else {
            find(raw.get(), start, below, spans)?;
        }
    }
    Some(())
}

/// The values in an object or array, by their name or index.
struct Children<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A name, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Children<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChildrenVisitor)
    }
}

struct ChildrenVisitor;

impl<'de> Visitor<'de> for ChildrenVisitor {
    type Value = Children<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut children = Vec::new();
        while let Some((Name(name), raw)) = access.next_entry::<Name<'de>, &'de RawValue>()? {
            children.push((name, raw));
        }
        Ok(Children(children))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut children = Vec::new();
        while let Some(raw) = access.next_element::<&'de RawValue>()? {
            children.push((Cow::Owned(children.len().to_string()), raw));
        }
        Ok(Children(children))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Children(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Children(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Children(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Children(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Children(Vec::new()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Children(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn fields(fields: &[&str]) -> Vec<Redaction> {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        vec![Redaction { policy: "p".to_owned(), what: Redacted::Fields(fields) }]
    }

    fn redacted(payload: &str, pointers: &[&str]) -> String {
        let redacted = redact(&Bytes::from(payload.to_owned()), &fields(pointers));
        String::from_utf8(redacted.to_vec()).unwrap()
    }

    #[test]
    fn only_the_named_values_change() {
        let payload =
            r#" { "a" : 1.00, "b":{"c":[ {"d":"x"} , 2]}, "e~/\u0066": null, "big": 12345678901234567890123 } "#;
        assert_eq!(
            redacted(payload, &["/b/c/0", "/e~0~1f", "/missing", "/b/c/01", "/a/x"]),
            payload.replace(r#"{"d":"x"}"#, REDACTED_JSON).replace("null", REDACTED_JSON)
        );
        assert_eq!(redacted(payload, &["/b/c/0/d", "/b"]), payload.replace(r#"{"c":[ {"d":"x"} , 2]}"#, REDACTED_JSON));
        assert_eq!(redacted(payload, &[]), payload);
        assert_eq!(redacted("3", &["/a"]), "3");
    }

    #[test]
    fn what_has_no_certain_fields_is_replaced_as_a_whole() {
        assert_eq!(redacted("password=x", &["/password"]), REDACTED);
        assert_eq!(redacted(r#"{"a":1,"a":2}"#, &["/b"]), REDACTED);
        let all = Redaction { policy: "p".to_owned(), what: Redacted::Payload };
        assert_eq!(redact(&Bytes::from_static(b"{}"), std::slice::from_ref(&all)), REDACTED_JSON);
        assert_eq!(redact(&Bytes::from_static(b"\xff"), std::slice::from_ref(&all)), REDACTED);
        assert_eq!(redact(&Bytes::from_static(b"{}"), &[]), "{}");
    }

    #[test]
    fn pointers_have_a_syntax_and_limits() {
        assert_eq!(Pointer::parse("/a~1b//~0").unwrap().0, ["a/b", "", "~"]);
        for invalid in ["", "a", "/~", "/~2", "#/a"] {
            assert_eq!(Pointer::parse(invalid), Err(Problem::Pointer(invalid.to_owned())), "{invalid}");
        }
        assert!(Pointer::parse(&"/a".repeat(MAX_POINTER_SEGMENTS)).is_ok());
        assert_eq!(Pointer::parse(&"/a".repeat(MAX_POINTER_SEGMENTS + 1)), Err(Problem::PointerTooLong));
        assert!(Pointer::parse(&format!("/{}", "a".repeat(MAX_POINTER_BYTES - 1))).is_ok());
        assert_eq!(Pointer::parse(&format!("/{}", "a".repeat(MAX_POINTER_BYTES))), Err(Problem::PointerTooLong));
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[a-c\"é\\\\]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab0~/]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn redacting_is_what_replacing_in_the_tree_would_be(
            document in document(), pointers in prop::collection::vec("(/([ab0]|~0|~1){1,2}){1,3}", 0..6)
        ) {
            let mut expected = document.clone();
            for pointer in &pointers {
                if let Some(value) = expected.pointer_mut(pointer) {
                    *value = json!(REDACTED);
                }
            }
            let pointers: Vec<&str> = pointers.iter().map(String::as_str).collect();
            let found: Value = serde_json::from_str(&redacted(&document.to_string(), &pointers)).unwrap();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_payload_makes_redacting_panic(payload: Vec<u8>, pointers in prop::collection::vec("[/a~01]{0,6}", 0..3)) {
            let pointers: Vec<&str> = pointers.iter().map(String::as_str).collect();
            let _ = redact(&Bytes::from(payload), &fields(&pointers));
        }
    }
}
