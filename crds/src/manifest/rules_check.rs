//! Evaluates the schema's CEL rules as the API server does.

use kube::core::cel::{ErrorKind, Validator};
use serde_json::Value;

use super::problem::Report;

/// Evaluates every rule on `object`; transition rules only if there is an `old` object.
///
/// A rule cannot be evaluated on a value of the wrong type. That is reported only if nothing else was found, because
/// otherwise its cause has its own problem. A violated rule about a number or text that already has a problem is not
/// reported either: one sentence about it is enough.
pub(super) fn check(schema: &Value, object: &Value, old: Option<&Value>, report: &mut Report) {
    let Err(errors) = Validator::new().validate(schema, object, old) else {
        return;
    };
    let (broken, not_evaluated): (Vec<_>, Vec<_>) =
        errors.into_iter().partition(|error| error.kind == ErrorKind::ValidationFailure);
    for error in broken {
        let path = error.field_path.trim_start_matches('.');
        if !(report.names(path) && is_single(object, path)) {
            report.add(path, error.message);
        }
    }
    if report.is_empty() {
        for error in not_evaluated {
            report.add(
                error.field_path.trim_start_matches('.'),
                format!("A rule cannot be checked here: {}.", error.message),
            );
        }
    }
}

/// Returns whether the field at this path is a scalar, not a map or a list.
fn is_single(object: &Value, path: &str) -> bool {
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    object.pointer(&pointer).is_some_and(|value| !value.is_object() && !value.is_array())
}
