//! Tests of expressions: a table of values and errors, comparison with the `cel` crate's interpreter, and hostile input.

mod hostile;
mod language;
mod twin;

use serde_json::Value as Json;

use super::{Budget, Program, Scope, Value, Variable, compile, evaluate};
use crate::{
    error::{EvalError, ExpressionError},
    limits::MAX_STEPS,
    spec::Event,
};

/// A scope in which `json` and `text` are given, and `object` and `request` are empty.
struct Fixed {
    json: Json,
    text: String,
}

impl Scope for Fixed {
    fn variable(&self, variable: Variable, _: &mut Budget) -> Result<Value<'_>, EvalError> {
        Ok(match variable {
            Variable::Json => Value::json(&self.json),
            Variable::Text => Value::text(&self.text),
            Variable::Size => Value::Int(self.text.len() as i64),
            Variable::Object | Variable::Request => Value::map(Vec::new()),
        })
    }

    fn field(&self, _: Variable, _: &str, _: &mut Budget) -> Result<Option<Value<'_>>, EvalError> {
        Ok(None)
    }
}

fn compiled(source: &str) -> Result<Program, ExpressionError> {
    compile(source, &Event::ALL)
}

/// Evaluates an expression, and passes its value to a function.
fn with_value<T>(source: &str, scope: &Fixed, then: impl FnOnce(Result<Value<'_>, EvalError>) -> T) -> T {
    let program = compiled(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    then(evaluate(&program, scope, &mut Budget::of(MAX_STEPS)))
}
