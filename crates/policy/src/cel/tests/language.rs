//! What expressions mean.

use serde_json::json;

use super::{Fixed, compiled, with_value};
use crate::{
    cel::Value,
    error::{EvalError, ExpressionError},
    limits::{MAX_DEPTH, MAX_EXPRESSION_BYTES, MAX_LOOP_DEPTH, MAX_NESTING, MAX_NODES, MAX_PATTERN_BYTES, MAX_TOKENS},
};

fn scope() -> Fixed {
    let json = json!({
        "name": "Ada", "age": 36, "ratio": 0.5, "big": u64::MAX, "none": null, "yes": true,
        "tags": ["a", "b"], "nested": {"x": {"y": 1}}, "": "empty",
    });
    Fixed { json, text: "hello wörld".to_owned() }
}

fn truth(source: &str) -> Result<bool, EvalError> {
    with_value(source, &scope(), |value| match value? {
        Value::Bool(value) => Ok(value),
        other => panic!("{source} is {other:?}"),
    })
}

#[test]
fn expressions_have_the_values_of_the_specification() {
    let sources = [
        "1 + 2 * 3 == 7 && 7 % 4 == 3 && 7 / 2 == 3 && -7 / 2 == -3 && 2.0 * 1.5 == 3.0",
        "1 == 1.0 && 1u == 1 && 2 > 1.5 && 1u < 2 && json.big > 5 && json.big == 18446744073709551615u",
        "!(1 == '1') && null == null && json.none == null && [1, 2.0] == [1.0, 2] && {'a': 1} == {'a': 1.0}",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2] && 'a' < 'b' && false < true",
        "'a' in ['a'] && !('c' in json.tags) && 'age' in json && !('x' in json) && 1 in {1: 2}",
        "json.tags[1] == 'b' && json['name'] == 'Ada' && json[''] == 'empty' && json.nested.x['y'] == 1 && [3][0u] == 3",
        "has(json.name) && !has(json.other) && has(json.none) && has(json.nested.x.y)",
        "size('wörld') == 5 && 'abc'.size() == 3 && size(b'ö') == 2 && size([1]) == 1 && size({}) == 0 && size == 12",
        "text.startsWith('hello') && text.endsWith('rld') && text.contains('o w') && text.matches('^h.*d$')",
        "' Ab '.trim().lowerAscii() == 'ab' && 'aé'.upperAscii() == 'Aé'",
        "int('-3') == -3 && uint(3) == 3u && double('2.5') == 2.5 && int(2.9) == 2 && int(-2.9) == -2 && int(5u) == 5",
        "string(5) == '5' && string(2.5) == '2.5' && string(true) == 'true' && string(b'x') == 'x' && bytes('x') == b'x'",
        "bool('true') && !bool('0') && dyn(1) == 1 && type(1) == int && type(json) == map && type(int) == type",
        "[1, 2].all(x, x > 0) && [1, 2].exists(x, x == 2) && ![].exists(x, true) && [].all(x, false)",
        "[1, 2, 2].exists_one(x, x == 1) && ![1, 2, 2].exists_one(x, x == 2)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6] && {'a': 1}.map(k, k) == ['a'] && json.nested.all(k, k == 'x')",
        "[[1], [2]].map(x, x.map(y, y + x[0])) == [[2], [4]] && [1].all(json, json == 1)",
        "(true ? 1 : 1 / 0) == 1 && (1 / 0 == 1 || true) && (true || 1 / 0 == 1) && !(1 / 0 == 1 && false)",
        "[0, 1].exists(x, 1 / x == 1) && ![1, 0, 2].all(x, 1 / x == 1) && -(1) == -1 && !!true && --1 == 1",
        "-9223372036854775808 < 0 && 0x10 == 16 && 1e3 == 1000.0 && r'\\d' == '\\\\d' && '\\u00e9' == 'é'",
        "!(double('nan') < 1.0) && !(double('nan') >= 1.0) && double('nan') != double('nan')",
    ];
    for source in sources {
        assert_eq!(truth(source), Ok(true), "{source}");
    }
}

#[test]
fn what_has_no_value_is_an_error_that_says_why() {
    let types = |operation, types: &str| EvalError::Types { operation, types: types.to_owned() };
    let cases = [
        ("json.other == 1", EvalError::NoField("other".into())),
        ("json['other'] == 1", EvalError::NoField("other".into())),
        ("json.tags[2] == ''", EvalError::NoElement(2)),
        ("json.tags[-1] == ''", EvalError::NoElement(-1)),
        ("json.name.first == ''", types("selection of a field", "string")),
        ("json.none.first == ''", types("selection of a field", "null_type")),
        ("1 + 1.0 == 2.0", types("+", "int, double")),
        ("1.0 % 2.0 == 1.0", types("%", "double, double")),
        ("'a' < 1", types("<", "string, int")),
        ("1 in 2", types("in", "int, int")),
        ("9223372036854775807 + 1 == 0", EvalError::Range("+")),
        ("-9223372036854775807 - 2 == 0", EvalError::Range("-")),
        ("-9223372036854775808 / -1 == 0", EvalError::Range("/")),
        ("-9223372036854775808 % -1 == 0", EvalError::Range("%")),
        ("-(-9223372036854775808) == 0", EvalError::Range("-")),
        ("0u - 1u == 0u", EvalError::Range("-")),
        ("int(1e19) == 0", EvalError::Range("int()")),
        ("uint(-1) == 0u", EvalError::Range("uint()")),
        ("int(double('nan')) == 0", EvalError::Range("int()")),
        ("1 / 0 == 0", EvalError::Zero),
        ("1u % 0u == 0u", EvalError::Zero),
        ("int('x') == 0", EvalError::Conversion("int")),
        ("string(b'\\xff') == ''", EvalError::Conversion("string")),
        ("{'a': 1, 'a': 2} == {}", EvalError::DuplicateKey),
        ("{1: 1, 1u: 2} == {}", EvalError::DuplicateKey),
        ("{[]: 1} == {}", types("the key of a map", "list")),
        ("[1].all(x, x)", types("all()", "int")),
        ("1.all(x, true)", types("a loop", "int")),
        ("!1", types("!", "int")),
        ("1 && true", types("&&", "int")),
        ("1 ? true : false", types("?:", "int")),
        ("5.startsWith('a')", types("startsWith()", "int, string")),
        ("5.matches('a')", types("matches()", "int")),
    ];
    for (source, error) in cases {
        assert_eq!(truth(source), Err(error), "{source}");
    }
    assert_eq!(truth("text.matches('^(a|b)*$') || 1.0 / 0.0 > 1e308"), Ok(true));
}

#[test]
fn what_does_not_exist_is_refused_before_any_input() {
    let error = |source: &str| compiled(source).map(|_| ()).unwrap_err().to_string();
    assert!(error("payload == 1").starts_with("there is no variable \"payload\"; there are object"));
    assert!(
        error("object.sendr == 'a'").contains("object has no field \"sendr\"; it has taskId"),
        "{}",
        error("object.sendr == 'a'")
    );
    assert!(error("has(request.name)").contains("user, rights, event"));
    assert!(error("now() > 1").starts_with("there is no function \"now\" with 0 argument(s); there are has"));
    assert!(error("contains('a', 'b')").starts_with("there is no function \"contains\""));
    assert!(error("text.int()").starts_with("there is no function \"int\""));
    assert!(error("text.matches(text)").contains("literal"));
    assert!(error("text.matches('(')").contains("\"(\""), "{}", error("text.matches('(')"));
    assert!(error("text.matches('a{1000}{1000}')").contains("can't be used"));
    assert!(error("Name{a: 1} == 1").contains("messages"));
    assert!(error("[?1] == [1]").contains("no CEL"));
    assert!(error("1 +").contains("line 1, column"), "{}", error("1 +"));
    for broken in
        ["", "'a", "a b", "1 2", "@", "json.", "[1,,]", "(", ")", "x.all(1, true)", "if", "has(1)", "json.`a b`"]
    {
        assert!(compiled(broken).is_err(), "{broken}");
    }
}

#[test]
fn every_limit_of_an_expression_is_refused_just_beyond_it() {
    let refused = |source: &str| compiled(source).err();
    let padded = |bytes: usize| format!("true{}", " ".repeat(bytes - 4));
    assert_eq!(refused(&padded(MAX_EXPRESSION_BYTES)), None);
    assert_eq!(refused(&padded(MAX_EXPRESSION_BYTES + 1)), Some(ExpressionError::TooLong(MAX_EXPRESSION_BYTES + 1)));
    // A list of n elements has 2n + 1 tokens, and n + 1 nodes.
    let list = |elements: usize| format!("[{}1]", "1,".repeat(elements - 1));
    assert_eq!(refused(&list(MAX_TOKENS / 2 - 1)), None);
    assert_eq!(refused(&format!("-{}", list(MAX_TOKENS / 2))), Some(ExpressionError::TooManyTokens));
    // A list of n sums has 3n + 1 nodes.
    let sums = |elements: usize| format!("[{}1+1]", "1+1,".repeat(elements - 1));
    assert_eq!(refused(&sums((MAX_NODES - 1) / 3)), None);
    assert_eq!(refused(&sums((MAX_NODES - 1) / 3 + 1)), Some(ExpressionError::TooLarge));
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(refused(&nested(MAX_NESTING)), None);
    assert_eq!(refused(&nested(MAX_NESTING + 1)), Some(ExpressionError::Nesting));
    let conditionals = |count: usize| format!("{}1", "true?1:".repeat(count));
    assert_eq!(refused(&conditionals(MAX_NESTING)), None);
    assert_eq!(refused(&conditionals(MAX_NESTING + 1)), Some(ExpressionError::Nesting));
    let sum = |operators: usize| format!("1{}", "+1".repeat(operators));
    assert_eq!(refused(&sum(MAX_DEPTH - 1)), None);
    assert_eq!(refused(&sum(MAX_DEPTH)), Some(ExpressionError::TooDeep));
    let looped = |depth: usize| format!("{}true{}", "[1].all(x, ".repeat(depth), ")".repeat(depth));
    assert_eq!(refused(&looped(MAX_LOOP_DEPTH)), None);
    assert_eq!(refused(&looped(MAX_LOOP_DEPTH + 1)), Some(ExpressionError::Loops));
    let pattern = |bytes: usize| format!("text.matches('{}')", "a".repeat(bytes));
    assert_eq!(refused(&pattern(MAX_PATTERN_BYTES)), None);
    assert!(matches!(refused(&pattern(MAX_PATTERN_BYTES + 1)), Some(ExpressionError::Pattern { .. })));
}
