use super::*;
use crate::args::AgentRole;
use std::time::Duration;

const TASKS: Form = Form::Tasks { has_kind: true };

fn values(text: &[u8]) -> Result<Vec<LineInput>, InputError> {
    parse_lines(Form::Values, "in.jsonl", text)
}

fn tasks(text: &[u8]) -> Result<Vec<LineInput>, InputError> {
    parse_lines(TASKS, "in.jsonl", text)
}

fn texts(inputs: &[LineInput]) -> Vec<String> {
    inputs.iter().map(|line| String::from_utf8_lossy(&line.input).into_owned()).collect()
}

#[test]
fn a_text_is_the_input_itself_and_any_other_value_is_passed_as_it_is_written() {
    let lines = [
        "18446744073709551616",
        "-9223372036854775809",
        "1.10",
        "3.141592653589793238462643383279502884197",
        "1e400",
        "-0",
        r#"{"z": 1, "a": {"c":2,  "b": 3.0}}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"input":"text","key":"k"}"#,
        r#"{"input": 1, "other": [1.50]}"#,
        r#"["é", "\u00e9", "\ud800", "a\/b"]"#,
        "[ 1 ,2]",
        "null",
        "true",
    ];
    let inputs = values(lines.join("\n").as_bytes()).expect("all lines are good");
    assert_eq!(texts(&inputs), lines);
    assert!(inputs.iter().all(|line| line.options == LineOptions::default()));
    let inputs = values(b"\"plain\"\r\n\n  \"\\u0041 \\\"b\\\"\"  \n\"\"\n\t{\"a\": 1} \r\n").expect("good");
    assert_eq!(texts(&inputs), ["plain", "A \"b\"", "", "{\"a\": 1}"]);
}

#[test]
fn values_may_be_nested_however_deep() {
    for depth in [127, 128, 200_000] {
        let line = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(texts(&values(line.as_bytes()).expect("good")), [&*line]);
        let task = format!("{{\"input\": {line}}}");
        assert_eq!(texts(&tasks(task.as_bytes()).expect("good")), [line]);
    }
}

#[test]
fn a_byte_order_mark_before_a_line_is_passed_over() {
    let inputs = values("\u{feff}{\"a\": 1}\r\n2\n".as_bytes()).expect("good");
    assert_eq!(texts(&inputs), ["{\"a\": 1}", "2"]);
    assert_eq!(values("\u{feff}\n1".as_bytes()).expect("good").len(), 1);
    let together = values("1\n\u{feff}\"\u{feff}a\"\n\u{feff}".as_bytes()).expect("good");
    assert_eq!(texts(&together), ["1", "\u{feff}a"]);
    assert_eq!(texts(&tasks("{}\n\u{feff}{\"input\": 1}".as_bytes()).expect("good")), ["", "1"]);
    let utf16: Vec<u8> = "\u{feff}1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(values(&utf16).expect_err("not UTF-8").to_string(), "in.jsonl is UTF-16: save it as UTF-8");
}

#[test]
fn a_task_has_an_input_and_options() {
    let lines = br#"{"input": "text", "key": "k1", "priority": 9}
{"priority": 1, "input": {"b":1.0,"a":[18446744073709551616]}}
{"kind": "k", "deadline": "1m30s", "delay": "5s", "timeout": "250ms", "maxAttempts": 2, "ttl": "1h", "role": "guardian", "specialization": "s"}
{"input": null, "key": null}"#;
    let inputs = tasks(lines).expect("all lines are good");
    assert_eq!(texts(&inputs), ["text", r#"{"b":1.0,"a":[18446744073709551616]}"#, "", "null"]);
    let first = LineOptions { key: Some("k1".into()), priority: Some(9), ..LineOptions::default() };
    assert_eq!(inputs[0].options, first);
    let all = LineOptions {
        kind: Some("k".into()),
        key: None,
        priority: None,
        deadline: Some(Duration::from_secs(90)),
        delay: Some(Duration::from_secs(5)),
        timeout: Some(Duration::from_millis(250)),
        max_attempts: Some(2),
        ttl: Some(Duration::from_secs(3600)),
        role: Some(AgentRole::Guardian),
        specialization: Some("s".into()),
    };
    assert_eq!(inputs[2].options, all);
}

#[test]
fn numbers_and_roles_are_written_as_in_manifests_too() {
    let lines = br#"{"priority": 9.0, "maxAttempts": 2e0, "role": "Worker"}
{"priority": null, "maxAttempts": 4294967295, "role": "specialist"}"#;
    let inputs = tasks(lines).expect("all lines are good");
    let read = |index: usize| {
        let options = &inputs[index].options;
        (options.priority, options.max_attempts, options.role)
    };
    assert_eq!(read(0), (Some(9), Some(2), Some(AgentRole::Worker)));
    assert_eq!(read(1), (None, Some(u32::MAX), Some(AgentRole::Specialist)));
    let error = tasks(b"{\"priority\": 1.5}\n{\"maxAttempts\": 4294967296}\n{\"maxAttempts\": -1}\n{\"priority\": \"9\"}\n{\"role\": \"boss\"}")
        .expect_err("all lines are bad");
    insta::assert_snapshot!(error, @r#"
    in.jsonl line 1: 1.5 is not a whole number from 0 to 4294967295
    in.jsonl line 2: 4294967296 is not a whole number from 0 to 4294967295
    in.jsonl line 3: -1 is not a whole number from 0 to 4294967295
    in.jsonl line 4: invalid type: string "9", expected f64
    in.jsonl line 5: "boss" is not a role: worker, specialist, messenger, guardian
    "#);
}

#[test]
fn the_input_of_a_task_is_found_whatever_stands_around_it() {
    for (line, input) in [
        (r#"{ "key" : "in\"put\":,}" , "input" : [ 1.0 ] , "kind":"k" }"#, "[ 1.0 ]"),
        (r#"{"in\u0070ut":{"input":{"input":2}}}"#, r#"{"input":{"input":2}}"#),
        (r#"{"key":"é漢","input":"\u00e9\n"}"#, "é\n"),
        (r#"{"input":-0.0}"#, "-0.0"),
        ("{}", ""),
    ] {
        assert_eq!(texts(&tasks(line.as_bytes()).expect("good")), [input], "{line}");
    }
}

#[test]
fn bad_lines_are_named_by_their_numbers() {
    let error = values(b"\"good\"\nplain text\n{\"a\": 1\n1 2\n\"\\ud800\"").expect_err("four lines are bad");
    insta::assert_snapshot!(error, @r#"
    in.jsonl line 2: not JSON, at column 1: expected value; a text stands in quotes, and a line is a whole value
    in.jsonl line 3: not JSON, at column 7: EOF while parsing an object; a text stands in quotes, and a line is a whole value
    in.jsonl line 4: not JSON, at column 3: trailing characters; a text stands in quotes, and a line is a whole value
    in.jsonl line 5: not JSON, at column 8: unexpected end of hex escape; a text stands in quotes, and a line is a whole value
    "#);
    let error = tasks(b"1\n{\"input\": 1, \"key\": 2}\n{\"input\": 1, \"priority\": 11}\n{\"maxAttempts\": 0}\n{\"deadline\": \"soon\"}")
        .expect_err("all lines are bad");
    insta::assert_snapshot!(error, @r#"
    in.jsonl line 1: not an object with an "input"; a line that is itself an input is for --inputs
    in.jsonl line 2: invalid type: integer `2`, expected a string
    in.jsonl line 3: "priority" is not a number from 1 to 10
    in.jsonl line 4: "maxAttempts" is not at least 1
    in.jsonl line 5: "soon" is not a duration such as 30s or 1m30s
    "#);
    let twice = tasks(b"{\"input\": 1, \"input\": 2}").expect_err("twice").to_string();
    assert!(twice.contains("duplicate field `input`"), "{twice}");
    let unknown = tasks(b"{\"inptu\": 1}").expect_err("misspelt").to_string();
    assert!(unknown.contains("unknown field `inptu`, expected one of `input`, `kind`"), "{unknown}");
    let error = parse_lines(Form::Tasks { has_kind: false }, "f", &b"{\"input\": 1}"[..]).expect_err("of no kind");
    assert_eq!(error.to_string(), "f line 1: there is no \"kind\", and no --kind for all lines");
}

#[test]
fn only_the_first_bad_lines_are_told() {
    let error = values(b"a\nb\nc\nd\ne\nf\ng").expect_err("all are bad").to_string();
    assert!(error.contains("line 5:") && !error.contains("line 6:"), "{error}");
    assert!(error.ends_with("2 more lines of in.jsonl can't be read"), "{error}");
}

#[test]
fn the_limit_of_an_input_is_exact() {
    let line = |bytes: usize| format!("\"{}\"", "x".repeat(bytes)).into_bytes();
    assert_eq!(values(&line(INPUT_LIMIT)).expect("at the limit")[0].input.len(), INPUT_LIMIT);
    let error = values(&line(INPUT_LIMIT + 1)).expect_err("over the limit").to_string();
    assert!(error.starts_with("the input in in.jsonl line 1 has more than 1048576 bytes (1 MiB)"), "{error}");
    let list = |bytes: usize| format!("[{}]", " ".repeat(bytes - 2)).into_bytes();
    assert_eq!(values(&list(INPUT_LIMIT)).expect("at the limit")[0].input.len(), INPUT_LIMIT);
    assert!(matches!(values(&list(INPUT_LIMIT + 1)), Err(InputError::TooLarge { .. })));
}

#[test]
fn a_file_without_inputs_is_no_mistake_to_pass_over() {
    assert!(matches!(values(b"\n \n"), Err(InputError::Empty { .. })));
}

#[test]
fn an_input_that_takes_the_most_as_json_fits_a_line() {
    let line = format!("{{\"input\": \"{}\", \"key\": \"k\", \"priority\": 10}}", "\\u0041".repeat(INPUT_LIMIT));
    assert_eq!(tasks(line.as_bytes()).expect("at the limit")[0].input.len(), INPUT_LIMIT);
}

#[test]
fn the_limits_of_a_file_are_exact() {
    let parse = |limits: Limits, text: &[u8]| parse_within(&limits, Form::Values, "f", text);
    let roomy = Limits { line: 100, lines: 100, bytes: 100 };
    for (limits, within, over, problem) in [
        (Limits { line: 3, ..roomy }, &b"\"a\"\n"[..], &b"\"ab\"\n"[..], "f line 1 has more than 3 bytes"),
        (Limits { line: 3, ..roomy }, b"1\n\"a\"", b"1\n\"ab\"", "f line 2 has more than 3 bytes"),
        (Limits { lines: 2, ..roomy }, b"1\n2\n", b"1\n2\n3", "f has more than 2 lines"),
        (Limits { bytes: 4, ..roomy }, b"1\n2\n", b"1\n22\n", "f has more than 4 bytes"),
    ] {
        assert!(parse(limits, within).is_ok(), "{problem}");
        let error = parse(limits, over).expect_err(problem).to_string();
        assert!(error.starts_with(problem), "{error}");
    }
}

#[test]
fn a_file_without_an_end_is_not_read_for_ever() {
    let endless = Path::new("/dev/zero");
    assert!(matches!(read_input(endless), Err(InputError::TooLarge { .. })));
    assert!(matches!(read_lines(endless, Form::Values), Err(InputError::LongLine { .. })));
    let lines = BufReader::new(io::repeat(b'\n'));
    assert!(matches!(parse_lines(Form::Values, "f", lines), Err(InputError::TooMany { .. })));
}
