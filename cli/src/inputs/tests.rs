use std::time::Duration;

use super::*;
use crate::args::AgentRole;

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
}

#[test]
fn utf_16_with_a_mark_is_read_and_other_encodings_are_named() {
    let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let utf32 = |text: &str, bytes: fn(u32) -> [u8; 4]| text.chars().flat_map(|c| bytes(c.into())).collect::<Vec<u8>>();
    let lines = "\u{feff}\"é漢🙂\"\r\n{\"a\": 1}\n";
    for read in [utf16(lines, u16::to_le_bytes), utf16(lines, u16::to_be_bytes)] {
        assert_eq!(texts(&values(&read).expect("good")), ["é漢🙂", "{\"a\": 1}"]);
    }
    let task = utf16("\u{feff}{\"input\": \"a\", \"key\": \"k\"}", u16::to_le_bytes);
    assert_eq!(tasks(&task).expect("good")[0].options.key.as_deref(), Some("k"));
    let refused = |text: &[u8]| values(text).expect_err("not read").to_string();
    let cut = refused(&task[..task.len() - 1]);
    assert_eq!(cut, "can't read in.jsonl: it is UTF-16 and has an odd number of bytes: its last character is cut");
    for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        let unmarked = utf16("{\"a\": 1}\n", bytes);
        let problem = "can't read in.jsonl: it is UTF-16 without a byte order mark: save it as UTF-8";
        assert_eq!(refused(&unmarked), problem);
        assert_eq!(tasks(&unmarked).expect_err("not read").to_string(), problem);
    }
    for bytes in [u32::to_le_bytes, u32::to_be_bytes] {
        for text in ["\u{feff}1\n", "1\n"] {
            assert_eq!(refused(&utf32(text, bytes)), "can't read in.jsonl: it is UTF-32: save it as UTF-8");
        }
    }
    let limits = Limits { line: 100, lines: 100, bytes: 10 };
    let error = parse_within(&limits, Form::Values, "f", &utf16("\u{feff}1234567890", u16::to_le_bytes)[..]);
    assert_eq!(
        error.expect_err("over the limit").to_string(),
        InputError::TooMany { from: "f".into(), limit: "10 bytes".into() }.to_string()
    );
}

#[test]
fn columns_count_the_characters_of_the_line() {
    for (line, column) in
        [("bad", 1), ("  \t bad", 5), ("[1, bad]", 5), ("\u{feff}  bad", 3), ("[\"é漢\", bad]", 8), ("{\"a\": 1", 7)]
    {
        let error = values(line.as_bytes()).expect_err(line).to_string();
        assert!(error.contains(&format!("not JSON, at column {column}: ")), "{line:?}: {error}");
    }
    let error = tasks(br#"  {"key": "k", "input": [1, bad]}"#).expect_err("bad").to_string();
    assert!(error.contains("not JSON, at column 29: "), "{error}");
}

#[test]
fn json_that_is_no_text_is_not_called_otherwise() {
    let error = values(br#""\ud800""#).expect_err("no text").to_string();
    insta::assert_snapshot!(error, @r"in.jsonl line 1: this is JSON but not valid text: half of a surrogate pair, such as \ud800, is not a character");
    let error = tasks(b"{\"input\": \"\\ud83d\"}\n{\"key\": \"a\\udc00\"}\n{\"\\ud800\": 1}").expect_err("no texts");
    insta::assert_snapshot!(error, @r#"
    in.jsonl line 1: "input" is JSON but not valid text: half of a surrogate pair, such as \ud800, is not a character
    in.jsonl line 2: "key" is JSON but not valid text: half of a surrogate pair, such as \ud800, is not a character
    in.jsonl line 3: the name of a field is JSON but not valid text: half of a surrogate pair, such as \ud800, is not a character
    "#);
}

#[test]
fn a_field_that_is_wrong_is_named_with_what_to_write() {
    let error = tasks(b"{\"input\":1,\"deadline\":30}\n{\"priority\": [1]}\n{\"kind\": 1}\n{\"role\": 1}")
        .expect_err("all lines are bad");
    insta::assert_snapshot!(error, @r#"
    in.jsonl line 1: "deadline" must be a duration such as "30s" or "1m30s", in quotes, but is 30
    in.jsonl line 2: "priority" must be a whole number from 1 to 10, but is [1]
    in.jsonl line 3: "kind" must be text in quotes, but is 1
    in.jsonl line 4: "role" must be one of "worker", "specialist", "messenger", "guardian", but is 1
    "#);
    let error = tasks(br#"{"foo at line bar": 1}"#).expect_err("unknown").to_string();
    assert!(error.contains(r#"there is no field "foo at line bar"; the fields are input, kind, key, "#), "{error}");
}

#[test]
fn a_task_has_an_input_and_options() {
    let lines = br#"{"input": "text", "key": "k1", "priority": 9}
{"priority": 1, "input": {"b":1.0,"a":[18446744073709551616]}}
{"kind": "k", "deadline": "1m30s", "delay": "5s", "timeout": "250ms", "maxAttempts": 2, "ttl": "1h", "role": "guardian", "specialization": "s", "queue": "q", "limitKey": "l"}
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
        queue: Some("q".into()),
        limit_key: Some("l".into()),
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
    in.jsonl line 1: "priority" must be a whole number from 1 to 10, but is 1.5
    in.jsonl line 2: "maxAttempts" must be a whole number from 1 to 4294967295, but is 4294967296
    in.jsonl line 3: "maxAttempts" must be a whole number from 1 to 4294967295, but is -1
    in.jsonl line 4: "priority" must be a whole number from 1 to 10, without quotes, but is "9"
    in.jsonl line 5: "role" must be one of "worker", "specialist", "messenger", "guardian", but is "boss"
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
    let error = values(b"\"good\"\nplain text\n{\"a\": 1\n1 2").expect_err("three lines are bad");
    insta::assert_snapshot!(error, @r#"
    in.jsonl line 2: not JSON, at column 1: expected value; text must be in quotes, and a line must be one complete value
    in.jsonl line 3: not JSON, at column 7: EOF while parsing an object; text must be in quotes, and a line must be one complete value
    in.jsonl line 4: not JSON, at column 3: trailing characters; text must be in quotes, and a line must be one complete value
    "#);
    let error = tasks(b"1\n{\"input\": 1, \"key\": 2}\n{\"input\": 1, \"priority\": 11}\n{\"maxAttempts\": 0}\n{\"deadline\": \"soon\"}")
        .expect_err("all lines are bad");
    insta::assert_snapshot!(error, @r#"
    in.jsonl line 1: not an object with an "input"; a line that is itself an input is for --inputs
    in.jsonl line 2: "key" must be text in quotes, but is 2
    in.jsonl line 3: "priority" must be a whole number from 1 to 10, but is 11
    in.jsonl line 4: "maxAttempts" must be a whole number from 1 to 4294967295, but is 0
    in.jsonl line 5: "deadline" must be a duration such as "30s" or "1m30s", but is "soon"
    "#);
    let twice = tasks(b"{\"input\": 1, \"input\": 2}").expect_err("twice").to_string();
    assert!(twice.ends_with("the field \"input\" appears twice; keep one"), "{twice}");
    let unknown = tasks(b"{\"inptu\": 1}").expect_err("misspelt").to_string();
    assert!(unknown.contains("there is no field \"inptu\"; the fields are input, kind, "), "{unknown}");
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
    assert!(error.contains("submit it alone, by --input with --object-store"), "{error}");
    let list = |bytes: usize| format!("[{}]", " ".repeat(bytes - 2)).into_bytes();
    assert_eq!(values(&list(INPUT_LIMIT)).expect("at the limit")[0].input.len(), INPUT_LIMIT);
    assert!(matches!(values(&list(INPUT_LIMIT + 1)), Err(InputError::LineTooLarge { .. })));
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
    assert!(matches!(read_scheduled_input(endless), Err(InputError::ScheduledTooLarge { .. })));
    assert!(matches!(read_large_input(endless), Err(InputError::ObjectTooLarge { .. })));
    assert!(matches!(read_lines(endless, Form::Values), Err(InputError::LongLine { .. })));
    let lines = BufReader::new(io::repeat(b'\n'));
    assert!(matches!(parse_lines(Form::Values, "f", lines), Err(InputError::TooMany { .. })));
}
