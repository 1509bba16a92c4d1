//! No expression and no input makes evaluation panic, overflow a small stack, or exceed its budget.

use std::thread;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Fixed, compiled, with_value};
use crate::{
    cel::{Budget, Value, evaluate},
    error::EvalError,
    limits::{MAX_DEPTH, MAX_JSON_DEPTH, MAX_NESTING, MAX_NODES, MAX_STEPS, MAX_TOKENS},
};

/// A quarter of what threads have by default: even so much of it may be in use already.
const STACK: usize = 512 * 1024;

fn on_small_stack(then: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(STACK).spawn(then).unwrap().join().unwrap();
}

fn large() -> Fixed {
    let numbers: Vec<Json> = (0..10_000).map(Json::from).collect();
    Fixed { json: json!({"numbers": numbers, "a": "x"}), text: "ab".repeat(256 * 1024) }
}

fn evaluated(source: &str) -> Result<(), EvalError> {
    with_value(source, &large(), |value| value.map(|_| ()))
}

#[test]
fn what_would_take_too_many_steps_ends() {
    for source in [
        "json.numbers.all(x, json.numbers.all(y, x + y >= 0))",
        "json.numbers.all(x, json.numbers.all(y, json.numbers.all(z, true)))",
        "json.numbers.map(x, text.contains('c')).size() > 0",
        "json.numbers.all(x, json == json)",
        "json.numbers.all(x, x in json.numbers)",
        "json.numbers.exists(x, text.matches('(a|b|ab)*c'))",
        "json.numbers.all(x, text == text)",
    ] {
        assert_eq!(evaluated(source), Err(EvalError::Steps), "{source}");
    }
}

#[test]
fn no_operator_absorbs_that_the_budget_is_spent() {
    let long = "json.numbers.all(x, json.numbers.all(y, true))";
    for source in [
        format!("{long} || true"),
        format!("true && ({long} || true)"),
        format!("[1].exists(x, {long} || true)"),
        format!("[{long}].exists(x, true) || true"),
    ] {
        assert_eq!(evaluated(&source), Err(EvalError::Steps), "{source}");
    }
}

#[test]
fn what_would_build_too_much_ends() {
    let doubled = format!("['a']{}.size() > 0", ".map(x, x + x)".repeat(28));
    assert_eq!(evaluated(&doubled), Err(EvalError::Memory));
    let lists = format!("[[1]]{}.size() > 0", ".map(x, x + x)".repeat(28));
    assert_eq!(evaluated(&lists), Err(EvalError::Memory));
    assert_eq!(evaluated("json.numbers.map(x, text + text).size() > 0"), Err(EvalError::Memory));
    let texts = format!("({}).size() > 0", ["text"; 12].join(" + "));
    assert_eq!(evaluated(&texts), Err(EvalError::Memory));
}

#[test]
fn the_deepest_expressions_and_values_fit_on_a_small_stack() {
    let nest = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    let half = MAX_DEPTH / 2 - 2;
    let sources = [
        nest("[", "]", MAX_NESTING),
        nest("{1:", "}", MAX_NESTING),
        nest("(", ")", MAX_NESTING),
        nest("size([", "])", MAX_NESTING / 2),
        format!("1{}", "+1".repeat(MAX_DEPTH - 1)),
        format!("1{}", "<1".repeat(MAX_DEPTH - 1)),
        format!("json{}", ".a".repeat(MAX_DEPTH - 1)),
        format!("json{}", "[0]".repeat(MAX_DEPTH - 1)),
        format!("text{}", ".trim()".repeat(MAX_DEPTH - 1)),
        format!("{}true", "true?1:".repeat(MAX_NESTING)),
        format!("{}true", "!".repeat(MAX_TOKENS - 1)),
        format!("{}1", "-".repeat(MAX_TOKENS - 1)),
        format!("true{}", "&&true".repeat(MAX_NODES / 2 - 1)),
        nest("[1].map(x,[2].map(y,[3].map(z,[", "])))", 1),
        format!("[[1]{0}] == [[1]{0}]", ".map(x,[[[[[[x]]]]]])".repeat(half / 2)),
        format!("[json]{0} == [json]{0}", ".map(x,[[[[[[[[x]]]]]]]])".repeat(20)),
    ];
    on_small_stack(move || {
        let deep = (0..MAX_JSON_DEPTH).fold(json!(1), |inner, _| json!([inner]));
        let scope = Fixed { json: deep, text: "a".to_owned() };
        for source in sources {
            let program = compiled(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
            let _ = evaluate(&program, &scope, &mut Budget::of(MAX_STEPS));
        }
    });
}

#[test]
fn what_is_refused_for_its_depth_is_refused_on_a_small_stack() {
    let sources: Vec<String> =
        ["(", "[", "{", "[[", "a.b(", "a?b:", "!", "-", "1+", "a.", "a[", "a||", "a?", "{1:", "x.all(y,"]
            .iter()
            .flat_map(|part| [part.repeat(4_096 / part.len()), format!("{}1", part.repeat(1_020 / part.len()))])
            .chain(
                [".a", "+a", "[0]", ".a()", "<a", "?a:a", "()", "{}", ")", "]"]
                    .iter()
                    .map(|part| format!("json{}", part.repeat(4_000 / part.len()))),
            )
            .collect();
    on_small_stack(move || {
        for source in sources {
            let _ = compiled(&source);
        }
    });
}

/// Pieces of which hostile expressions are made.
const PIECES: [&str; 48] = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    ".",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    "in",
    "json",
    "text",
    "object",
    "x",
    "1",
    "0u",
    "9223372036854775807",
    "1e308",
    "'a'",
    "b'\\xff'",
    "\"\"\"",
    "r'",
    "true",
    "null",
    ".all(x,",
    ".map(x,",
    ".exists(x,",
    "has(json.a)",
    "matches('a*')",
    "size(",
    "string(",
    "int(",
    ".a",
    "`a`",
    "//",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_text_makes_compiling_or_evaluating_panic(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        let source = pieces.concat();
        if let Ok(program) = compiled(&source) {
            let scope = Fixed { json: json!({"a": [1, {"a": "b"}]}), text: "a".to_owned() };
            let _ = evaluate(&program, &scope, &mut Budget::of(10_000));
        }
    }

    #[test]
    fn no_characters_make_compiling_panic(source in "\\PC{0,60}|[\\x00-\\x7f]{0,60}") {
        let _ = compiled(&source);
    }

    #[test]
    fn equal_evaluations_spend_the_same(steps in 0_u64..200) {
        let program = compiled("[1, 2, 3].all(x, json.a.exists(y, y == x || text.contains('b')))").unwrap();
        let scope = Fixed { json: json!({"a": [3, 2, 1]}), text: "a".repeat(100) };
        let run = || {
            let mut budget = Budget::of(steps);
            let value = evaluate(&program, &scope, &mut budget).map(|value| matches!(value, Value::Bool(true)));
            (value, budget.steps())
        };
        prop_assert_eq!(run(), run());
    }
}
