//! Operators whose operands are all evaluated.

use std::{cmp::Ordering, rc::Rc};

use super::{
    Budget,
    program::Operator,
    value::{Blob, List, Text, Type, Value},
};
use crate::error::EvalError;

/// Returns the error of an operation on types that it does not take.
pub(super) fn types(operation: &'static str, values: &[&Value<'_>]) -> EvalError {
    let names: Vec<&str> = values.iter().map(|value| value.kind().name()).collect();
    EvalError::Types { operation, types: names.join(", ") }
}

impl Operator {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Index => "[]",
        }
    }
}

/// Evaluates `-value`.
pub(super) fn negate<'a>(value: &Value<'_>) -> Result<Value<'a>, EvalError> {
    match value {
        Value::Int(value) => value.checked_neg().map(Value::Int).ok_or(EvalError::Range("-")),
        Value::Double(value) => Ok(Value::Double(-value)),
        other => Err(types("-", &[other])),
    }
}

/// Evaluates an operator.
pub(super) fn binary<'a>(
    operator: Operator,
    left: Value<'a>,
    right: Value<'a>,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    match operator {
        Operator::Equal => left.equals(&right, budget).map(Value::Bool),
        Operator::NotEqual => Ok(Value::Bool(!left.equals(&right, budget)?)),
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
            Ok(Value::Bool(match compare(operator, &left, &right, budget)? {
                // NaN is in no order with anything.
                None => false,
                Some(order) => match operator {
                    Operator::Less => order == Ordering::Less,
                    Operator::LessOrEqual => order != Ordering::Greater,
                    Operator::Greater => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                },
            }))
        }
        Operator::In => contains(&left, &right, budget).map(Value::Bool),
        Operator::Index => index(&left, &right, budget),
        Operator::Add if !matches!(left, Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            concatenate(&left, &right, budget)
        }
        Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Modulo => {
            arithmetic(operator, &left, &right)
        }
    }
}

fn compare(
    operator: Operator,
    left: &Value<'_>,
    right: &Value<'_>,
    budget: &mut Budget,
) -> Result<Option<Ordering>, EvalError> {
    let is_number = |value: &Value<'_>| matches!(value.kind(), Type::Int | Type::Uint | Type::Double);
    match (left, right) {
        (Value::String(left), Value::String(right)) => {
            budget.read(left.as_str().len().min(right.as_str().len()))?;
            Ok(Some(left.as_str().cmp(right.as_str())))
        }
        (Value::Bytes(left), Value::Bytes(right)) => {
            budget.read(left.as_slice().len().min(right.as_slice().len()))?;
            Ok(Some(left.as_slice().cmp(right.as_slice())))
        }
        (Value::Bool(left), Value::Bool(right)) => Ok(Some(left.cmp(right))),
        (left, right) if is_number(left) && is_number(right) => Ok(left.compare_numbers(right)),
        (left, right) => Err(types(operator.name(), &[left, right])),
    }
}

fn contains(element: &Value<'_>, container: &Value<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    match container {
        Value::List(list) => {
            for index in 0..list.len() {
                if let Some(known) = list.get(index)
                    && known.equals(element, budget)?
                {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => Ok(map.get(element, budget)?.is_some()),
        other => Err(types("in", &[element, other])),
    }
}

fn index<'a>(container: &Value<'a>, index: &Value<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    match (container, index) {
        (Value::List(list), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            let position = position(index).ok_or_else(|| types("[]", &[container, index]))?;
            let element = usize::try_from(position).ok().and_then(|at| list.get(at));
            element.ok_or(EvalError::NoElement(position))
        }
        (Value::Map(map), key) => map.get(key, budget)?.ok_or_else(|| no_key(key)),
        (container, index) => Err(types("[]", &[container, index])),
    }
}

/// Returns the position in a list that a whole number stands for. Positions beyond any list are the last possible one.
fn position(index: &Value<'_>) -> Option<i64> {
    match index {
        Value::Int(at) => Some(*at),
        Value::Uint(at) => Some(i64::try_from(*at).unwrap_or(i64::MAX)),
        // The conversion keeps within the range of integers.
        Value::Double(at) if at.trunc() == *at => Some(*at as i64),
        _ => None,
    }
}

/// Maximum length of a name in an error, in characters.
const MAX_SHOWN_KEY: usize = 64;

fn no_key(key: &Value<'_>) -> EvalError {
    EvalError::NoField(match key {
        Value::String(text) => text.as_str().chars().take(MAX_SHOWN_KEY).collect::<String>().into(),
        Value::Int(number) => number.to_string().into(),
        Value::Uint(number) => number.to_string().into(),
        other => other.kind().name().into(),
    })
}

fn concatenate<'a>(left: &Value<'a>, right: &Value<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => {
            let (left, right) = (left.as_str(), right.as_str());
            budget.build(left.len() + right.len())?;
            Ok(Value::String(Text::Built([left, right].concat().into())))
        }
        (Value::Bytes(left), Value::Bytes(right)) => {
            let (left, right) = (left.as_slice(), right.as_slice());
            budget.build(left.len() + right.len())?;
            Ok(Value::Bytes(Blob::Built([left, right].concat().into())))
        }
        (Value::List(left), Value::List(right)) => {
            budget.build((left.len() + right.len()) * Value::SIZE)?;
            let all = [left, right].into_iter().flat_map(|list| (0..list.len()).filter_map(|at| list.get(at)));
            Ok(Value::List(List::Built(Rc::new(all.collect()))))
        }
        (left, right) => Err(types("+", &[left, right])),
    }
}

fn arithmetic<'a>(operator: Operator, left: &Value<'_>, right: &Value<'_>) -> Result<Value<'a>, EvalError> {
    let name = operator.name();
    let is_division = matches!(operator, Operator::Divide | Operator::Modulo);
    match (left, right) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) if is_division => Err(EvalError::Zero),
        (Value::Int(left), Value::Int(right)) => {
            let result = match operator {
                Operator::Add => left.checked_add(*right),
                Operator::Subtract => left.checked_sub(*right),
                Operator::Multiply => left.checked_mul(*right),
                Operator::Divide => left.checked_div(*right),
                _ => left.checked_rem(*right),
            };
            result.map(Value::Int).ok_or(EvalError::Range(name))
        }
        (Value::Uint(left), Value::Uint(right)) => {
            let result = match operator {
                Operator::Add => left.checked_add(*right),
                Operator::Subtract => left.checked_sub(*right),
                Operator::Multiply => left.checked_mul(*right),
                Operator::Divide => left.checked_div(*right),
                _ => left.checked_rem(*right),
            };
            result.map(Value::Uint).ok_or(EvalError::Range(name))
        }
        (Value::Double(left), Value::Double(right)) if operator != Operator::Modulo => {
            Ok(Value::Double(match operator {
                Operator::Add => left + right,
                Operator::Subtract => left - right,
                Operator::Multiply => left * right,
                _ => left / right,
            }))
        }
        (left, right) => Err(types(name, &[left, right])),
    }
}
