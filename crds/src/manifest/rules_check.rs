//! The schema's CEL rules, run as the API server runs them.

use kube::core::cel::{ErrorKind, Validator};
use serde_json::Value;

use super::problem::Report;

/// Runs every rule over `object`; the rules about changes only when there is an `old` object.
///
/// A rule that meets a value of the wrong type cannot be evaluated. That is left out when something else was
/// found, because the cause then has a problem of its own. So is a broken rule about a number or text that has a
/// problem already: one sentence about it is enough.
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

/// Whether the field at this path is a single value, not a map or a list.
fn is_single(object: &Value, path: &str) -> bool {
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    object.pointer(&pointer).is_some_and(|value| !value.is_object() && !value.is_array())
}
