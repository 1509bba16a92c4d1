//! Expressions have the same values as in the interpreter of the `cel` crate.

use std::{collections::HashMap, panic, sync::Arc};

use cel::{Context, ExecutionError, objects::Key, parser::pratt_parser::PrattParser};
use proptest::prelude::*;
use serde_json::Value as Json;

use super::{Fixed, compiled};
use crate::{
    cel::{
        Budget, Value, evaluate,
        value::{List, Map, Type},
    },
    error::EvalError,
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
        prop_oneof![-3_i64..4, -(1_i64 << 52)..1 << 52].prop_map(Json::from),
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
        prop_oneof![-3_i64..4, -(1_i64 << 52)..1 << 52].prop_map(|number| number.to_string()),
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

/// Returns whether the other interpreter has a value where the specification has none: it adds a map to a list.
fn is_known_difference(ours: &EvalError) -> bool {
    matches!(ours, EvalError::Types { operation: "+", types } if types == "list, map")
}

/// Returns whether the other interpreter has no value where the specification has one: it does not order NaN.
fn is_known_lack(theirs: &ExecutionError) -> bool {
    let is_number = |name: &String| ["int", "uint", "double"].contains(&name.as_str());
    matches!(theirs, ExecutionError::NoSuchOverload(error) if ["_<_", "_<=_", "_>_", "_>=_"].contains(&error.function())
        && error.argument_types().iter().all(is_number) && error.argument_types().iter().any(|name| name == "double"))
}

fn is_nan_free(value: &Value<'_>) -> bool {
    !format!("{value:?}").contains("NaN")
}

/// Writes expressions whose types fit, by decisions that are taken one after the other.
struct Typed {
    decisions: Vec<u8>,
    taken: usize,
}

impl Typed {
    fn choose(&mut self, among: usize) -> usize {
        self.taken += 1;
        usize::from(self.decisions[(self.taken - 1) % self.decisions.len()]) % among
    }

    fn of(&mut self, kind: Type, depth: usize) -> String {
        let depth = depth + 1;
        if depth > 5 {
            return self.leaf(kind);
        }
        let choice = self.choose(9);
        let mut part = |kind| self.of(kind, depth);
        match (kind, choice) {
            (_, 0) => self.leaf(kind),
            (_, 1) => format!("({} ? {} : {})", part(Type::Bool), part(kind), part(kind)),
            (_, 2) => format!("[{}, {}][{} > 0 ? 0 : 1]", part(kind), part(kind), part(Type::Int)),
            (Type::Bool, 3) => format!("({} && {})", part(Type::Bool), part(Type::Bool)),
            (Type::Bool, 4) => format!("(!{} || {})", part(Type::Bool), part(Type::Bool)),
            (Type::Bool, 5) => format!("({} {} {})", part(Type::Int), self.comparison(), self.of(Type::Double, depth)),
            (Type::Bool, 6) => {
                format!("({} {} {})", part(Type::String), self.comparison(), self.of(Type::String, depth))
            }
            (Type::Bool, 7) => {
                format!("{}.{}(x, x > {})", part(Type::List), self.quantifier(), self.of(Type::Int, depth))
            }
            (Type::Bool, _) => format!("({} in {})", part(Type::Int), part(Type::List)),
            (Type::Int, 3) => format!("({} + {})", part(Type::Int), part(Type::Int)),
            (Type::Int, 4) => format!("({} % {})", part(Type::Int), part(Type::Int)),
            (Type::Int, 5) => format!("({} / -{})", part(Type::Int), part(Type::Int)),
            (Type::Int, 6) => format!("size({})", part(Type::String)),
            (Type::Int, 7) => format!("int({})", part(Type::Double)),
            (Type::Int, _) => format!("size({})", part(Type::List)),
            (Type::Double, 3) => format!("({} * {})", part(Type::Double), part(Type::Double)),
            (Type::Double, 4) => format!("({} - {})", part(Type::Double), part(Type::Double)),
            (Type::Double, _) => format!("double({})", part(Type::Int)),
            (Type::String, 3 | 4) => format!("({} + {})", part(Type::String), part(Type::String)),
            (Type::String, 5) => format!("string({})", part(Type::Int)),
            (Type::String, 6) => format!("{{{}: {}}}.map(k, k)[0]", part(Type::String), part(Type::Int)),
            (Type::String, _) => format!("string({})", part(Type::Bool)),
            (_, 3) => format!("({} + {})", part(Type::List), part(Type::List)),
            (_, 4) => format!("{}.map(x, x * {})", part(Type::List), part(Type::Int)),
            (_, 5) => format!("{}.filter(x, {} || x == {})", part(Type::List), part(Type::Bool), part(Type::Int)),
            (_, 6) => format!("{}.map(x, {}, x)", part(Type::List), part(Type::Bool)),
            (_, _) => format!("[{}, {}]", part(Type::Int), part(Type::Int)),
        }
    }

    fn leaf(&mut self, kind: Type) -> String {
        let among = match kind {
            Type::Bool => ["true", "false", "(json == 1)"],
            Type::Int => ["1", "-7", "1000003"],
            Type::Double => ["0.5", "-3.0", "1e200"],
            Type::String => ["'a'", "'é1'", "text"],
            _ => ["[]", "[3, -1]", "[0, 2, 4]"],
        };
        among[self.choose(3)].to_owned()
    }

    fn comparison(&mut self) -> &'static str {
        ["==", "!=", "<", "<=", ">", ">="][self.choose(6)]
    }

    fn quantifier(&mut self) -> &'static str {
        ["all", "exists", "exists_one"][self.choose(3)]
    }
}

/// Compares both interpreters. Returns whether the expression has a value.
fn compare(source: &str, json: Json) -> Result<bool, TestCaseError> {
    let source = format!("[0].map(x, {source})[0]");
    let Ok(program) = compiled(&source) else { return Ok(false) };
    let scope = Fixed { json, text: "ab1é".to_owned() };
    let ours = evaluate(&program, &scope, &mut Budget::of(100_000));

    let mut context = Context::default();
    context.add_variable_from_value("json", theirs_of_json(&scope.json));
    context.add_variable_from_value("text", scope.text.clone());
    let tree = PrattParser::new().parse(&source).expect("it was parsed before");
    // It panics for some expressions; ours must not.
    let Ok(other) = panic::catch_unwind(panic::AssertUnwindSafe(|| cel::Value::resolve(&tree, &context))) else {
        return Ok(false);
    };
    match (ours, other) {
        (Ok(ours), Ok(other)) if is_nan_free(&ours) => {
            prop_assert_eq!(theirs(&ours), other, "{}", source);
            Ok(true)
        }
        (Ok(_), Ok(_)) | (Err(_), Err(_)) => Ok(false),
        (Err(ours), Ok(_)) if is_known_difference(&ours) => Ok(false),
        (Ok(_), Err(theirs)) if is_known_lack(&theirs) => Ok(false),
        (ours, other) => Err(TestCaseError::fail(format!("{source}: {ours:?} {other:?}"))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn values_and_errors_are_those_of_the_other_interpreter(source in expression(), json in document()) {
        compare(&source, json)?;
    }

    #[test]
    fn values_of_expressions_whose_types_fit_are_those_of_the_other_interpreter(
        decisions in prop::collection::vec(any::<u8>(), 4..80), json in document(), kind in 0_usize..5
    ) {
        let kind = [Type::Bool, Type::Int, Type::Double, Type::String, Type::List][kind];
        compare(&Typed { decisions, taken: 0 }.of(kind, 0), json)?;
    }
}

#[test]
fn most_expressions_whose_types_fit_have_a_value() {
    let values = (0..=u8::MAX).filter(|seed| {
        let decisions = (0..40_u8).map(|at| seed.wrapping_mul(31).wrapping_add(at.wrapping_mul(at ^ seed))).collect();
        compare(&Typed { decisions, taken: 0 }.of(Type::Bool, 0), Json::Null).expect("the interpreters agree")
    });
    let values = values.count();
    assert!(values > 100, "only {values} of 256 have");
}

#[test]
fn a_number_is_neither_less_nor_more_than_none() {
    for source in ["1 < 1e999 - 1e999", "0.5 >= 0.0 * 1e999", "2u > -(1e999 * 0.0)"] {
        let source = source.replace("1e999", "(1e200 * 1e200)");
        let program = compiled(&source).unwrap();
        let scope = Fixed { json: Json::Null, text: String::new() };
        let value = evaluate(&program, &scope, &mut Budget::of(100));
        assert!(matches!(value, Ok(Value::Bool(false))), "{source}: {value:?}");
        assert!(!compare(&source, Json::Null).expect("the other's lack is known"), "{source}");
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
