//! Functions of expressions.

use super::{
    Budget, operators,
    program::Function,
    value::{Blob, Text, Value},
};
use crate::error::EvalError;

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// `name(value)`.
    Global,
    /// `value.name()`.
    Member,
    /// Both.
    Either,
}

/// All functions but `matches`, whose pattern is compiled with the expression: name, number of arguments with the one
/// before the dot, and how they are called.
const FUNCTIONS: [(&str, usize, Call, Function); 15] = [
    ("size", 1, Call::Either, Function::Size),
    ("contains", 2, Call::Member, Function::Contains),
    ("startsWith", 2, Call::Member, Function::StartsWith),
    ("endsWith", 2, Call::Member, Function::EndsWith),
    ("lowerAscii", 1, Call::Member, Function::LowerAscii),
    ("upperAscii", 1, Call::Member, Function::UpperAscii),
    ("trim", 1, Call::Member, Function::Trim),
    ("bool", 1, Call::Global, Function::Bool),
    ("bytes", 1, Call::Global, Function::Bytes),
    ("double", 1, Call::Global, Function::Double),
    ("dyn", 1, Call::Global, Function::Dyn),
    ("int", 1, Call::Global, Function::Int),
    ("string", 1, Call::Global, Function::String),
    ("type", 1, Call::Global, Function::Type),
    ("uint", 1, Call::Global, Function::Uint),
];

/// Returns a function by its name and call.
pub(super) fn named(name: &str, arguments: usize, is_member: bool) -> Option<Function> {
    let fits = |call: Call| call == Call::Either || (call == Call::Member) == is_member;
    let found = FUNCTIONS.iter().find(|(known, count, call, _)| *known == name && *count == arguments && fits(*call));
    found.map(|(.., function)| *function)
}

/// Returns the names of all functions, separated by commas.
pub(super) fn known() -> String {
    let loops = ["has", "all", "exists", "exists_one", "map", "filter", "matches"];
    loops.into_iter().chain(FUNCTIONS.iter().map(|(name, ..)| *name)).collect::<Vec<_>>().join(", ")
}

/// Calls a function.
pub(super) fn call<'a>(
    function: Function,
    arguments: &[Value<'a>],
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    match (function, arguments) {
        (Function::Size, [value]) => size(value, budget),
        (Function::Contains, [text, part]) => {
            search("contains()", text, part, budget, |text, part| text.contains(part))
        }
        (Function::StartsWith, [text, part]) => {
            search("startsWith()", text, part, budget, |text, part| text.starts_with(part))
        }
        (Function::EndsWith, [text, part]) => {
            search("endsWith()", text, part, budget, |text, part| text.ends_with(part))
        }
        (Function::LowerAscii, [Value::String(text)]) => {
            budget.build(text.as_str().len())?;
            Ok(Value::String(Text::Built(text.as_str().to_ascii_lowercase().into())))
        }
        (Function::UpperAscii, [Value::String(text)]) => {
            budget.build(text.as_str().len())?;
            Ok(Value::String(Text::Built(text.as_str().to_ascii_uppercase().into())))
        }
        (Function::Trim, [Value::String(text)]) => {
            budget.build(text.as_str().len())?;
            Ok(Value::String(match text {
                Text::Borrowed(text) => Text::Borrowed(text.trim()),
                Text::Built(text) => Text::Built(text.trim().into()),
            }))
        }
        (Function::Dyn, [value]) => Ok(value.clone()),
        (Function::Type, [value]) => Ok(Value::Type(value.kind())),
        (Function::Bool, [value]) => to_bool(value),
        (Function::Bytes, [value]) => to_bytes(value, budget),
        (Function::Double, [value]) => to_double(value, budget),
        (Function::Int, [value]) => to_int(value, budget),
        (Function::String, [value]) => to_string(value, budget),
        (Function::Uint, [value]) => to_uint(value, budget),
        (function, arguments) => {
            let name = FUNCTIONS.iter().find(|(.., known)| *known == function).map_or("", |(name, ..)| name);
            Err(operators::types(name, &arguments.iter().collect::<Vec<_>>()))
        }
    }
}

fn size<'a>(value: &Value<'_>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    let size = match value {
        Value::String(text) => {
            budget.read(text.as_str().len())?;
            text.as_str().chars().count()
        }
        Value::Bytes(bytes) => bytes.as_slice().len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        other => return Err(operators::types("size()", &[other])),
    };
    i64::try_from(size).map(Value::Int).map_err(|_| EvalError::Range("size()"))
}

fn search<'a>(
    name: &'static str,
    text: &Value<'_>,
    part: &Value<'_>,
    budget: &mut Budget,
    is: impl Fn(&str, &str) -> bool,
) -> Result<Value<'a>, EvalError> {
    match (text, part) {
        (Value::String(text), Value::String(part)) => {
            budget.read(text.as_str().len() + part.as_str().len())?;
            Ok(Value::Bool(is(text.as_str(), part.as_str())))
        }
        (text, part) => Err(operators::types(name, &[text, part])),
    }
}

fn to_bool<'a>(value: &Value<'_>) -> Result<Value<'a>, EvalError> {
    match value {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(EvalError::Conversion("bool")),
        },
        other => Err(operators::types("bool()", &[other])),
    }
}

fn to_bytes<'a>(value: &Value<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    match value {
        Value::Bytes(_) => Ok(value.clone()),
        Value::String(Text::Borrowed(text)) => Ok(Value::Bytes(Blob::Borrowed(text.as_bytes()))),
        Value::String(Text::Built(text)) => {
            budget.build(text.len())?;
            Ok(Value::Bytes(Blob::Built(text.as_bytes().into())))
        }
        other => Err(operators::types("bytes()", &[other])),
    }
}

fn to_string<'a>(value: &Value<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    /// Maximum length of a number as text: that of the smallest double.
    const MAX_NUMBER_BYTES: usize = 1_100;
    let text = match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bytes(bytes) => {
            budget.build(bytes.as_slice().len())?;
            std::str::from_utf8(bytes.as_slice()).map_err(|_| EvalError::Conversion("string"))?.to_owned()
        }
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => {
            budget.build(MAX_NUMBER_BYTES)?;
            value.to_string()
        }
        other => return Err(operators::types("string()", &[other])),
    };
    budget.build(text.len())?;
    Ok(Value::String(Text::Built(text.into())))
}

fn to_double<'a>(value: &Value<'_>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    match value {
        Value::Double(value) => Ok(Value::Double(*value)),
        Value::Int(value) => Ok(Value::Double(*value as f64)),
        Value::Uint(value) => Ok(Value::Double(*value as f64)),
        Value::String(text) => {
            budget.read(text.as_str().len())?;
            text.as_str().parse().map(Value::Double).map_err(|_| EvalError::Conversion("double"))
        }
        other => Err(operators::types("double()", &[other])),
    }
}

fn to_int<'a>(value: &Value<'_>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    /// 2^63: the first double that is too large.
    const END: f64 = 9_223_372_036_854_775_808.0;
    let number = match value {
        Value::Int(value) => Some(*value),
        Value::Uint(value) => i64::try_from(*value).ok(),
        // As elsewhere in CEL, -2^63 is refused, too.
        Value::Double(value) => (*value > -END && *value < END).then_some(*value as i64),
        Value::String(text) => {
            budget.read(text.as_str().len())?;
            return text.as_str().parse().map(Value::Int).map_err(|_| EvalError::Conversion("int"));
        }
        other => return Err(operators::types("int()", &[other])),
    };
    number.map(Value::Int).ok_or(EvalError::Range("int()"))
}

fn to_uint<'a>(value: &Value<'_>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    /// 2^64: the first double that is too large.
    const END: f64 = 18_446_744_073_709_551_616.0;
    let number = match value {
        Value::Uint(value) => Some(*value),
        Value::Int(value) => u64::try_from(*value).ok(),
        Value::Double(value) => (*value >= 0.0 && *value < END).then_some(*value as u64),
        Value::String(text) => {
            budget.read(text.as_str().len())?;
            return text.as_str().parse().map(Value::Uint).map_err(|_| EvalError::Conversion("uint"));
        }
        other => return Err(operators::types("uint()", &[other])),
    };
    number.map(Value::Uint).ok_or(EvalError::Range("uint()"))
}
