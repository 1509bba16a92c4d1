//! Converts between JSON and CBOR (RFC 8949, section 6), without building values in memory. A byte string becomes text
//! in base64url without padding; tags are passed over; a map's keys must be text, since JSON has no others.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use minicbor::{
    Decoder, Encoder,
    data::{Tag, Type},
};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};

/// How deep a value may be nested, in either direction.
pub const MAX_DEPTH: usize = 64;
/// Maximum size of the result of a conversion, bytes. A request that fits its own limit can become larger as text.
pub const MAX_CONVERTED: usize = 16 * 1024 * 1024;

/// Why a value can't be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// It is no JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// It is no CBOR.
    #[error("it is not CBOR: {0}")]
    Cbor(String),
    /// It has a value that the other form does not have.
    #[error("JSON has no {0}")]
    NotInJson(&'static str),
    /// It is nested too deeply.
    #[error("it is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// The result is too large.
    #[error("it would have more than {MAX_CONVERTED} bytes")]
    TooLarge,
}

impl From<minicbor::decode::Error> for CborError {
    fn from(error: minicbor::decode::Error) -> Self {
        Self::Cbor(error.to_string())
    }
}

/// Returns CBOR, exactly one value, as JSON.
///
/// # Errors
/// [`CborError`] if it has no JSON form within the limits.
pub fn to_json(cbor: &[u8]) -> Result<Vec<u8>, CborError> {
    let mut decoder = Decoder::new(cbor);
    let mut json = Vec::new();
    value(&mut decoder, &mut json, 0)?;
    match cbor.len() - decoder.position() {
        0 => Ok(json),
        left => Err(CborError::Cbor(format!("{left} bytes follow the value"))),
    }
}

fn value(decoder: &mut Decoder<'_>, json: &mut Vec<u8>, depth: usize) -> Result<(), CborError> {
    if depth > MAX_DEPTH {
        return Err(CborError::TooDeep);
    }
    match decoder.datatype()? {
        Type::Array | Type::ArrayIndef => {
            json.push(b'[');
            let length = decoder.array()?;
            items(decoder, json, length, |decoder, json| value(decoder, json, depth + 1))?;
            json.push(b']');
        }
        Type::Map | Type::MapIndef => {
            json.push(b'{');
            let length = decoder.map()?;
            items(decoder, json, length, |decoder, json| {
                text(decoder, json)?;
                json.push(b':');
                value(decoder, json, depth + 1)
            })?;
            json.push(b'}');
        }
        Type::Tag => {
            let _: Tag = decoder.tag()?;
            // A chain of tags is nested, too.
            return value(decoder, json, depth + 1);
        }
        _ => scalar(decoder, json)?,
    }
    if json.len() > MAX_CONVERTED { Err(CborError::TooLarge) } else { Ok(()) }
}

/// Converts the items of an array or map, up to its length or its end.
fn items(
    decoder: &mut Decoder<'_>,
    json: &mut Vec<u8>,
    length: Option<u64>,
    mut item: impl FnMut(&mut Decoder<'_>, &mut Vec<u8>) -> Result<(), CborError>,
) -> Result<(), CborError> {
    let mut count = 0;
    loop {
        match length {
            Some(length) if count == length => return Ok(()),
            None if decoder.datatype()? == Type::Break => {
                decoder.skip()?;
                return Ok(());
            }
            _ => {}
        }
        if count > 0 {
            json.push(b',');
        }
        item(decoder, json)?;
        count += 1;
    }
}

fn scalar(decoder: &mut Decoder<'_>, json: &mut Vec<u8>) -> Result<(), CborError> {
    match decoder.datatype()? {
        Type::Bool => push(json, if decoder.bool()? { "true" } else { "false" }),
        Type::Null => {
            decoder.null()?;
            push(json, "null");
        }
        Type::Undefined => {
            decoder.undefined()?;
            push(json, "null");
        }
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => push(json, &decoder.u64()?.to_string()),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
            push(json, &i128::from(decoder.int()?).to_string());
        }
        Type::F16 => float(f64::from(decoder.f16()?), json)?,
        Type::F32 => float(f64::from(decoder.f32()?), json)?,
        Type::F64 => float(decoder.f64()?, json)?,
        Type::String | Type::StringIndef => text(decoder, json)?,
        Type::Bytes | Type::BytesIndef => {
            let mut bytes = Vec::new();
            for chunk in decoder.bytes_iter()? {
                bytes.extend_from_slice(chunk?);
            }
            push_text(json, &URL_SAFE_NO_PAD.encode(bytes));
        }
        Type::Simple => return Err(CborError::NotInJson("simple value other than true, false and null")),
        other => return Err(CborError::Cbor(format!("a value was expected, not {other}"))),
    }
    Ok(())
}

fn float(number: f64, json: &mut Vec<u8>) -> Result<(), CborError> {
    if !number.is_finite() {
        return Err(CborError::NotInJson("infinite number, and no NaN"));
    }
    // Writing a number into memory does not fail.
    serde_json::to_writer(json, &number).map_err(|error| CborError::Json(error.to_string()))
}

fn text(decoder: &mut Decoder<'_>, json: &mut Vec<u8>) -> Result<(), CborError> {
    if !matches!(decoder.datatype()?, Type::String | Type::StringIndef) {
        return Err(CborError::NotInJson("key that is not text"));
    }
    let mut text = String::new();
    for chunk in decoder.str_iter()? {
        text.push_str(chunk?);
    }
    push_text(json, &text);
    Ok(())
}

fn push(json: &mut Vec<u8>, text: &str) {
    json.extend_from_slice(text.as_bytes());
}

fn push_text(json: &mut Vec<u8>, text: &str) {
    // Writing text into memory does not fail.
    let _ = serde_json::to_writer(json, text);
}

/// Returns JSON as CBOR. Lengths of arrays and maps are left open. Integers beyond 64 bits become floating point.
///
/// # Errors
/// [`CborError`] if it is no JSON, or beyond the limits.
pub fn from_json(json: &[u8]) -> Result<Vec<u8>, CborError> {
    let mut encoder = Encoder::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let transcoded = Transcode { encoder: &mut encoder, depth: 0 }.deserialize(&mut deserializer);
    transcoded.and_then(|()| deserializer.end()).map_err(|error| match error.to_string() {
        told if told.starts_with(TOO_DEEP) => CborError::TooDeep,
        told if told.starts_with(TOO_LARGE) => CborError::TooLarge,
        told => CborError::Json(told),
    })?;
    Ok(encoder.into_writer())
}

/// The errors of a visitor are text.
const TOO_DEEP: &str = "nested too deeply";
const TOO_LARGE: &str = "too large";

/// Writes the value that is read.
struct Transcode<'a> {
    encoder: &'a mut Encoder<Vec<u8>>,
    depth: usize,
}

impl Transcode<'_> {
    fn deeper<E: serde::de::Error>(&self) -> Result<usize, E> {
        if self.depth < MAX_DEPTH { Ok(self.depth + 1) } else { Err(E::custom(TOO_DEEP)) }
    }

    /// Writes one item. Writing into memory does not fail.
    fn put<E: serde::de::Error>(
        self,
        write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<std::convert::Infallible>>,
    ) -> Result<(), E> {
        write(self.encoder).map_err(E::custom)?;
        if self.encoder.writer().len() > MAX_CONVERTED { Err(E::custom(TOO_LARGE)) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Transcode<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Transcode<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.put(|encoder| encoder.null().map(drop))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.put(|encoder| encoder.bool(value).map(drop))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.put(|encoder| encoder.u64(value).map(drop))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.put(|encoder| encoder.i64(value).map(drop))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.put(|encoder| encoder.f64(value).map(drop))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.put(|encoder| encoder.str(value).map(drop))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        self.encoder.begin_array().map_err(A::Error::custom)?;
        while items.next_element_seed(Transcode { encoder: self.encoder, depth })?.is_some() {}
        self.put(|encoder| encoder.end().map(drop))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        self.encoder.begin_map().map_err(A::Error::custom)?;
        while entries.next_key_seed(Transcode { encoder: self.encoder, depth })?.is_some() {
            entries.next_value_seed(Transcode { encoder: self.encoder, depth })?;
        }
        self.put(|encoder| encoder.end().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn back(json: &str) -> Result<String, CborError> {
        let text = to_json(&from_json(json.as_bytes())?)?;
        Ok(String::from_utf8(text).expect("JSON is UTF-8"))
    }

    #[test]
    fn what_goes_to_cbor_and_back_is_the_same() {
        for text in [
            "null",
            "true",
            "0",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "1.5",
            r#""a\"\u0000é""#,
            "[]",
            "{}",
            r#"{"b":[1,[2,{"a":null}]],"a":{}}"#,
        ] {
            assert_eq!(back(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_json_does_not_have_is_written_as_the_standard_says_or_refused() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
        };
        let json = |text: &str| to_json(&hex(text)).map(|json| String::from_utf8(json).expect("UTF-8"));
        for (cbor, expected) in [
            ("43010203", "\"AQID\""),
            ("5f42010243030405ff", "\"AQIDBAU\""),
            ("c11a514b67b0", "1363896240"),
            ("f7", "null"),
            ("3bffffffffffffffff", "-18446744073709551616"),
            ("f93e00", "1.5"),
            ("fa47c35000", "100000.0"),
            ("9f018202039f0405ffff", "[1,[2,3],[4,5]]"),
            ("bf6161019f02ff03ff", "refused"),
        ] {
            match json(cbor) {
                Ok(text) => assert_eq!(text, expected, "{cbor}"),
                Err(_) => assert_eq!("refused", expected, "{cbor}"),
            }
        }
        for wrong in [
            "f97c00",
            "f97e00",
            "f0",
            "a10102",
            "ff",
            "",
            "0000",
            "61ff",
            "5b7fffffffffffffff",
            "9b7fffffffffffffff00",
            "82",
        ] {
            assert!(json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_nested_up_to_the_limit() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(back(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(from_json(nested(MAX_DEPTH + 1).as_bytes()), Err(CborError::TooDeep));
        assert!(to_json(&[vec![0x81; MAX_DEPTH], vec![0]].concat()).is_ok());
        assert_eq!(to_json(&[vec![0x81; MAX_DEPTH + 1], vec![0]].concat()), Err(CborError::TooDeep));
        assert_eq!(to_json(&[vec![0xc1; 1_000_000], vec![0]].concat()), Err(CborError::TooDeep), "tags");
    }

    #[test]
    fn a_value_is_as_large_as_the_limit_in_either_form() {
        let text = |length: usize| json!("x".repeat(length)).to_string();
        // A text of that length has a header of five bytes.
        assert!(from_json(text(MAX_CONVERTED - 5).as_bytes()).is_ok());
        assert_eq!(from_json(text(MAX_CONVERTED - 4).as_bytes()), Err(CborError::TooLarge));
        let bytes = |length: u32| [&[0x7a][..], &length.to_be_bytes(), &vec![b'x'; length as usize]].concat();
        assert!(to_json(&bytes(MAX_CONVERTED as u32 - 2)).is_ok());
        assert_eq!(to_json(&bytes(MAX_CONVERTED as u32 - 1)), Err(CborError::TooLarge));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("JSON has only finite numbers", |n| n.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_value_goes_to_cbor_and_back(value in any_json()) {
            let text = value.to_string();
            let again: Value = serde_json::from_str(&back(&text).expect("it converts")).expect("it is JSON");
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn whatever_is_cbor_becomes_json_and_nothing_else_does(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(json) = to_json(&bytes) {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_ok());
            }
        }
    }
}
