//! The values of expressions.

use std::{cmp::Ordering, rc::Rc};

use serde_json::{Map as JsonMap, Value as Json};

use super::{Budget, operators};
use crate::error::EvalError;

/// A type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
    /// The type of a type.
    Meta,
}

impl Type {
    /// All types.
    pub(crate) const ALL: [Self; 10] = [
        Self::Null,
        Self::Bool,
        Self::Int,
        Self::Uint,
        Self::Double,
        Self::String,
        Self::Bytes,
        Self::List,
        Self::Map,
        Self::Meta,
    ];

    /// Returns whether values of the type can be keys of maps.
    pub(crate) fn is_key(self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Uint | Self::String)
    }

    /// Returns the name of the type in expressions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Map => "map",
            Self::Meta => "type",
        }
    }
}

/// A string, borrowed from the input or the program if possible.
#[derive(Clone, Debug)]
pub(crate) enum Text<'a> {
    Borrowed(&'a str),
    Built(Rc<str>),
}

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Built(text) => text,
        }
    }
}

/// Bytes, borrowed if possible.
#[derive(Clone, Debug)]
pub(crate) enum Blob<'a> {
    Borrowed(&'a [u8]),
    Built(Rc<[u8]>),
}

impl Blob<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Built(bytes) => bytes,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub(crate) enum List<'a> {
    Json(&'a [Json]),
    Built(Rc<Vec<Value<'a>>>),
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(list) => list.len(),
            Self::Built(list) => list.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Json(list) => list.get(index).map(Value::json),
            Self::Built(list) => list.get(index).cloned(),
        }
    }
}

/// A map. The keys of built ones are in the order in which they were written.
#[derive(Clone, Debug)]
pub(crate) enum Map<'a> {
    Json(&'a JsonMap<String, Json>),
    Built(Rc<Vec<(Value<'a>, Value<'a>)>>),
}

impl<'a> Map<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(map) => map.len(),
            Self::Built(map) => map.len(),
        }
    }

    /// Returns the value of a key.
    pub(crate) fn get(&self, key: &Value<'_>, budget: &mut Budget) -> Result<Option<Value<'a>>, EvalError> {
        match (self, key) {
            (Self::Json(map), Value::String(name)) => {
                budget.read(name.as_str().len())?;
                Ok(map.get(name.as_str()).map(Value::json))
            }
            (_, key) if !key.kind().is_key() && key.kind() != Type::Double => {
                Err(operators::types("the key of a map", &[key]))
            }
            (Self::Json(_), _) => Ok(None),
            (Self::Built(map), key) => {
                for (known, value) in map.iter() {
                    if known.equals(key, budget)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Returns all keys.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(map) => map.keys().map(|key| Value::text(key)).collect(),
            Self::Built(map) => map.iter().map(|(key, _)| key.clone()).collect(),
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Blob<'a>),
    List(List<'a>),
    Map(Map<'a>),
    Type(Type),
}

impl<'a> Value<'a> {
    /// Returns the size of a value itself, without what it refers to, in bytes.
    pub(crate) const SIZE: usize = size_of::<Self>();

    /// Returns a borrowed string.
    pub(crate) fn text(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }

    /// Returns a list.
    pub(crate) fn list(list: Vec<Self>) -> Self {
        Self::List(List::Built(Rc::new(list)))
    }

    /// Returns a map.
    pub(crate) fn map(map: Vec<(Self, Self)>) -> Self {
        Self::Map(Map::Built(Rc::new(map)))
    }

    /// Returns a JSON value. Integers are `int` if they fit, otherwise `uint`; all other numbers are `double`.
    pub(crate) fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) => Self::Uint(value),
                (None, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text),
            Json::Array(list) => Self::List(List::Json(list)),
            Json::Object(map) => Self::Map(Map::Json(map)),
        }
    }

    /// Returns the type.
    pub(crate) fn kind(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::List(_) => Type::List,
            Self::Map(_) => Type::Map,
            Self::Type(_) => Type::Meta,
        }
    }

    /// Returns the order of two numbers, exactly; `None` for NaN, and for what is no number.
    pub(crate) fn compare_numbers(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Double(left), Value::Double(right)) => left.partial_cmp(right),
            (Self::Double(left), right) => Some(compare_to_double(right.integer()?, *left)?.reverse()),
            (left, Value::Double(right)) => compare_to_double(left.integer()?, *right),
            (left, right) => Some(left.integer()?.cmp(&right.integer()?)),
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(i128::from(*value)),
            Self::Uint(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// Returns whether two values are equal. Values of different types are not, except for numbers of the same value.
    pub(crate) fn equals(&self, other: &Value<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
        budget.charge(1)?;
        Ok(match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(left), Value::Bool(right)) => left == right,
            (Self::Type(left), Value::Type(right)) => left == right,
            (Self::String(left), Value::String(right)) => {
                let (left, right) = (left.as_str(), right.as_str());
                left.len() == right.len() && {
                    budget.read(left.len())?;
                    left == right
                }
            }
            (Self::Bytes(left), Value::Bytes(right)) => {
                let (left, right) = (left.as_slice(), right.as_slice());
                left.len() == right.len() && {
                    budget.read(left.len())?;
                    left == right
                }
            }
            (Self::List(left), Value::List(right)) => return equal_lists(left, right, budget),
            (Self::Map(left), Value::Map(right)) => return equal_maps(left, right, budget),
            (left, right) => left.compare_numbers(right) == Some(Ordering::Equal),
        })
    }
}

fn compare_to_double(left: i128, right: f64) -> Option<Ordering> {
    /// Larger than any integer of an expression.
    const FAR: f64 = 1e30;
    if right.is_nan() {
        return None;
    }
    if right.abs() >= FAR {
        return Some(if right > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let whole = right.trunc();
    let order = left.cmp(&(whole as i128));
    // The sign of the fraction is that of the number.
    Some(order.then_with(|| 0.0_f64.partial_cmp(&(right - whole)).unwrap_or(Ordering::Equal)))
}

fn equal_lists(left: &List<'_>, right: &List<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    for index in 0..left.len() {
        let (Some(left), Some(right)) = (left.get(index), right.get(index)) else { return Ok(false) };
        if !left.equals(&right, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(left: &Map<'_>, right: &Map<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    budget.charge(left.len() as u64)?;
    for key in left.keys() {
        match (left.get(&key, budget)?, right.get(&key, budget)?) {
            (Some(left), Some(right)) if left.equals(&right, budget)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_exactly_across_types() {
        let order = |left: Value<'_>, right: Value<'_>| left.compare_numbers(&right);
        assert_eq!(order(Value::Int(-1), Value::Uint(u64::MAX)), Some(Ordering::Less));
        assert_eq!(order(Value::Int(i64::MAX), Value::Double(9_223_372_036_854_775_808.0)), Some(Ordering::Less));
        assert_eq!(order(Value::Double(2.5), Value::Int(2)), Some(Ordering::Greater));
        assert_eq!(order(Value::Double(-2.5), Value::Int(-2)), Some(Ordering::Less));
        assert_eq!(order(Value::Int(3), Value::Double(3.0)), Some(Ordering::Equal));
        assert_eq!(order(Value::Double(f64::INFINITY), Value::Uint(u64::MAX)), Some(Ordering::Greater));
        assert_eq!(order(Value::Double(f64::NEG_INFINITY), Value::Int(i64::MIN)), Some(Ordering::Less));
        assert_eq!(order(Value::Double(f64::NAN), Value::Int(0)), None);
        assert_eq!(order(Value::Bool(true), Value::Int(1)), None);
    }

    #[test]
    fn comparing_large_values_is_charged() {
        let long = "a".repeat(64 * 1024);
        let value = Value::text(&long);
        assert_eq!(value.equals(&value, &mut Budget::of(1_000)), Err(EvalError::Steps));
        assert_eq!(value.equals(&value, &mut Budget::of(1_100)), Ok(true));
    }
}
