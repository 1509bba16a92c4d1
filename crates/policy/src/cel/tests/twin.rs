//! Expressions have the same values as in the interpreter of the `cel` crate.

use std::{collections::HashMap, panic, sync::Arc};

use cel::{Context, objects::Key, parser::pratt_parser::PrattParser};
use proptest::prelude::*;
use serde_json::Value as Json;

use super::{Fixed, compiled};
use crate::cel::{
    Budget, Value, evaluate,
    value::{List, Map, Type},
};

fn theirs_of_json(json: &Json) -> cel::Value {
    theirs(&Value::json(json))
}

fn key(value: &Value<'_>) -> Key {
    match value {
        Value::Bool(value) => Key::Bool(*value),
        Value::Int(value) => Key::Int(*value),
        Value::Uint(value) => Key::Uint(*value),
        Value::String(text) => Key::String(Arc::new(text.as_str().to_owned())),
        other => panic!("{other:?} is no key"),
    }
}

/// Returns the same value of the other interpreter. A type is its name.
fn theirs(value: &Value<'_>) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Int(value) => cel::Value::Int(*value),
        Value::Uint(value) => cel::Value::UInt(*value),
        Value::Double(value) => cel::Value::Float(*value),
        Value::String(text) => cel::Value::String(Arc::new(text.as_str().to_owned())),
        Value::Bytes(bytes) => cel::Value::Bytes(Arc::new(bytes.as_slice().to_vec())),
        Value::List(list) => {
            let list: Vec<_> = match list {
                List::Json(list) => list.iter().map(theirs_of_json).collect(),
                List::Built(list) => list.iter().map(theirs).collect(),
            };
            cel::Value::List(Arc::new(list))
        }
        Value::Map(map) => {
            let map: HashMap<Key, cel::Value> = match map {
                Map::Json(map) => {
                    map.iter().map(|(name, value)| (name.clone().into(), theirs_of_json(value))).collect()
                }
                Map::Built(map) => map.iter().map(|(name, value)| (key(name), theirs(value))).collect(),
            };
            map.into()
        }
        Value::Type(kind) => cel::Value::String(Arc::new(kind.name().to_owned())),
    }
}

fn document() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        prop_oneof![-3_i64..4, any::<i64>()].prop_map(Json::from),
        prop_oneof![Just(0.5), Just(-2.0), any::<f64>()].prop_map(Json::from),
        "[abé1]{0,3}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

/// Expressions of all kinds, most of whose types fit.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("json".to_owned()),
        Just("json.a".to_owned()),
        Just("json.b[0]".to_owned()),
        Just("text".to_owned()),
        prop_oneof![-3_i64..4, any::<i64>()].prop_map(|number| number.to_string()),
        (0_u64..4).prop_map(|number| format!("{number}u")),
        prop_oneof![Just("0.5"), Just("2.0"), Just("1e300"), Just("-0.0")].prop_map(str::to_owned),
        "[ab1é]{0,3}".prop_map(|text| format!("'{text}'")),
        "[ab]{0,2}".prop_map(|text| format!("b'{text}'")),
        prop_oneof![Just("true"), Just("false"), Just("null"), Just("[]"), Just("{}"), Just("x")]
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop::sample::select(vec![
            "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||",
        ]);
        let function = prop::sample::select(vec!["size", "int", "uint", "double", "bool", "string", "bytes", "dyn", "!", "-"]);
        let member = prop::sample::select(vec!["contains", "startsWith", "endsWith"]);
        let each = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter"]);
        prop_oneof![
            4 => (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            2 => (function, inner.clone()).prop_map(|(name, a)| format!("{name}({a})")),
            1 => (inner.clone(), member, inner.clone()).prop_map(|(a, name, b)| format!("({a}).{name}({b})")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(", "))),
            1 => prop::collection::vec((inner.clone(), inner.clone()), 0..3).prop_map(|all| {
                format!("{{{}}}", all.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", "))
            }),
            1 => (inner.clone(), "[abc]").prop_map(|(a, field)| format!("has(({a}).{field})")),
            2 => (inner.clone(), each, inner.clone()).prop_map(|(a, name, b)| format!("[{a}, 1, json].{name}(x, {b})")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("({a}).map(x, {b})")),
        ]
    })
}

fn is_nan_free(value: &Value<'_>) -> bool {
    !format!("{value:?}").contains("NaN")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn values_are_those_of_the_other_interpreter(source in expression(), json in document()) {
        let source = format!("[0].map(x, {source})[0]");
        let Ok(program) = compiled(&source) else { return Ok(()) };
        let scope = Fixed { json, text: "ab1é".to_owned() };
        let ours = evaluate(&program, &scope, &mut Budget::of(100_000));

        let mut context = Context::default();
        context.add_variable_from_value("json", theirs_of_json(&scope.json));
        context.add_variable_from_value("text", scope.text.clone());
        let tree = PrattParser::new().parse(&source).expect("it was parsed before");
        // It panics for some expressions; ours must not.
        let Ok(other) = panic::catch_unwind(panic::AssertUnwindSafe(|| cel::Value::resolve(&tree, &context))) else {
            return Ok(());
        };
        match (ours, other) {
            (Ok(ours), Ok(other)) if is_nan_free(&ours) => prop_assert_eq!(theirs(&ours), other, "{}", source),
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
            (ours, other) => prop_assert!(false, "{}: {:?} {:?}", source, ours, other),
        }
    }
}

#[test]
fn types_have_the_names_of_the_other_interpreter() {
    let scope = Fixed { json: Json::Null, text: String::new() };
    for kind in Type::ALL {
        let source = format!("type({0}) == type && {0} == {0}", kind.name());
        let program = compiled(&source).unwrap();
        let value = evaluate(&program, &scope, &mut Budget::of(100));
        assert!(matches!(value, Ok(Value::Bool(true))), "{source}");
        let tree = PrattParser::new().parse(&source).unwrap();
        assert_eq!(cel::Value::resolve(&tree, &Context::default()), Ok(cel::Value::Bool(true)), "{source}");
    }
}
