//! Tasks as clients write them in JSON or CBOR, and as the API takes them.

use bytes::Bytes;
use robeing_proto::v1::{
    Dependency, FailureKind, FailureMatch, Join, OnFailure, PartOf, Passing, RetryPolicy, Role, Split, SplitBy,
    TaskSpec,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::forms::{content, duration};

/// The names of the roles that can be required of an agent.
pub const ROLES: [(&str, Role); 4] = [
    ("worker", Role::Worker),
    ("specialist", Role::Specialist),
    ("messenger", Role::Messenger),
    ("guardian", Role::Guardian),
];
/// The names of what an input can be divided into.
pub const WAYS: [(&str, SplitBy); 4] =
    [("lines", SplitBy::Lines), ("chunks", SplitBy::Chunks), ("json", SplitBy::Json), ("command", SplitBy::Command)];
/// The names of what a task can make of its parts, besides a quorum.
pub const JOINS: [(&str, Join); 4] =
    [("all", Join::All), ("settled", Join::Settled), ("any", Join::Any), ("reduce", Join::Reduce)];
/// The names of what becomes of a task if one that it depends on does not succeed.
pub const FAILURES: [(&str, OnFailure); 3] =
    [("fail", OnFailure::Fail), ("skip", OnFailure::Skip), ("run", OnFailure::Run)];

/// A task to submit.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskForm<'a> {
    id: Option<String>,
    kind: String,
    /// A string is the input itself; any other value is passed on as its JSON text.
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    input_base64: Option<String>,
    key: Option<String>,
    priority: Option<u32>,
    deadline: Option<String>,
    delay: Option<String>,
    not_before: Option<String>,
    queue_expiry: Option<String>,
    timeout: Option<String>,
    progress_timeout: Option<String>,
    max_attempts: Option<u32>,
    backoff: Option<String>,
    max_backoff: Option<String>,
    jitter_percent: Option<u32>,
    /// Kinds of failures, with or without a code, or names: `exit`, `http:404`, `name:ValueError`.
    #[serde(default)]
    non_retryable: Vec<String>,
    ttl: Option<String>,
    role: Option<String>,
    specialization: Option<String>,
    #[serde(default)]
    skills: Vec<String>,
    slots: Option<u32>,
    queue: Option<String>,
    limit_key: Option<String>,
    submitter: Option<String>,
    /// Ids of tasks, with or without what their failure means: `ID`, `ID:run`.
    #[serde(default)]
    depends_on: Vec<String>,
    #[serde(default)]
    results_as_input: bool,
    /// The inputs of parts, each as `input`.
    #[serde(borrow, default)]
    inputs: Vec<&'a RawValue>,
    #[serde(default)]
    inputs_base64: Vec<String>,
    agents: Option<u32>,
    split_by: Option<String>,
    join: Option<String>,
    part_kind: Option<String>,
    #[serde(default)]
    spread: bool,
    parts: Option<u32>,
    part_of: Option<String>,
    part: Option<u32>,
}

impl TaskForm<'_> {
    /// Returns the task as the API takes it.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn spec(self) -> Result<TaskSpec, String> {
        let role = self.role.as_deref().map(|name| named("role", name, &ROLES)).transpose()?;
        let (retry, split, part_of) = (self.retry()?, self.split()?, self.place()?);
        let depends_on = self.depends_on.iter().map(|text| dependency(text)).collect::<Result<_, String>>()?;
        let passing = if self.results_as_input { Passing::AsInput } else { Passing::Unspecified };
        Ok(TaskSpec {
            inputs: self.inputs()?,
            id: self.id.unwrap_or_default(),
            kind: self.kind,
            input: content("input", self.input, self.input_base64.as_deref())?,
            priority: self.priority.unwrap_or_default(),
            deadline_in: duration("deadline", self.deadline.as_deref())?,
            delay: duration("delay", self.delay.as_deref())?,
            not_before: self.not_before.as_deref().map(|text| time("notBefore", text)).transpose()?,
            queue_expiry: duration("queueExpiry", self.queue_expiry.as_deref())?,
            attempt_timeout: duration("timeout", self.timeout.as_deref())?,
            progress_timeout: duration("progressTimeout", self.progress_timeout.as_deref())?,
            retry,
            required_role: role.unwrap_or_default().into(),
            required_specialization: self.specialization.unwrap_or_default(),
            skills: self.skills,
            slots: self.slots.unwrap_or_default(),
            queue: self.queue.unwrap_or_default(),
            limit_key: self.limit_key.unwrap_or_default(),
            idempotency_key: self.key.unwrap_or_default(),
            result_ttl: duration("ttl", self.ttl.as_deref())?,
            submitter: self.submitter.unwrap_or_default(),
            depends_on,
            passing: passing.into(),
            agents: self.agents.unwrap_or_default(),
            split,
            part_of,
            ..TaskSpec::default()
        })
    }

    /// Returns when the task is tried again; `None` if nothing is said about it.
    fn retry(&self) -> Result<Option<RetryPolicy>, String> {
        let policy = RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or_default(),
            initial_backoff: duration("backoff", self.backoff.as_deref())?,
            max_backoff: duration("maxBackoff", self.max_backoff.as_deref())?,
            jitter_percent: self.jitter_percent.unwrap_or_default(),
            non_retryable: self.non_retryable.iter().map(|text| failure(text)).collect::<Result<_, String>>()?,
            ..RetryPolicy::default()
        };
        Ok((policy != RetryPolicy::default()).then_some(policy))
    }

    /// Returns how the task is split; `None` if nothing is said about it.
    fn split(&self) -> Result<Option<Split>, String> {
        let (join, quorum) = self.join.as_deref().map_or(Ok((Join::Unspecified, 0)), join)?;
        let by = self.split_by.as_deref().map(|name| named("splitBy", name, &WAYS)).transpose()?;
        let split = Split {
            parts: self.parts.unwrap_or_default(),
            join: join.into(),
            quorum,
            part_kind: self.part_kind.clone().unwrap_or_default(),
            by: by.unwrap_or_default().into(),
            spread: self.spread,
        };
        Ok((split != Split::default()).then_some(split))
    }

    /// Returns which part the task is of another one; `None` if it is none.
    fn place(&self) -> Result<Option<PartOf>, String> {
        match (&self.part_of, self.part) {
            (Some(task), Some(index)) => Ok(Some(PartOf { task: task.clone(), index })),
            (None, None) => Ok(None),
            _ => {
                Err("\"partOf\" and \"part\" are given together: the id of the task, and the part's number".to_owned())
            }
        }
    }

    /// Returns the inputs of the task's parts.
    fn inputs(&self) -> Result<Vec<Bytes>, String> {
        if !self.inputs.is_empty() && !self.inputs_base64.is_empty() {
            return Err("there are both \"inputs\" and \"inputsBase64\"; give one".to_owned());
        }
        let plain = self.inputs.iter().map(|value| content("inputs", Some(*value), None));
        let others = self.inputs_base64.iter().map(|text| content("inputs", None, Some(text.as_str())));
        plain.chain(others).collect()
    }
}

/// Returns what a name in a field stands for, whatever its case.
fn named<T: Copy>(field: &str, name: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let names = || known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.map(|(_, value)| *value).ok_or_else(|| format!("{field:?} must be one of {}", names()))
}

fn dependency(text: &str) -> Result<Dependency, String> {
    let (task, on_failure) = text.split_once(':').unwrap_or((text, "fail"));
    let on_failure = named("dependsOn", on_failure, &FAILURES)
        .map_err(|_| "each of \"dependsOn\" must be the id of a task, or ID:fail, ID:skip or ID:run".to_owned())?;
    Ok(Dependency { task: task.to_owned(), on_failure: on_failure.into() })
}

/// Parses what a task makes of its parts, and how many have to succeed for a quorum.
fn join(text: &str) -> Result<(Join, u32), String> {
    let quorum = text.strip_prefix("quorum:").map(|count| count.parse::<u32>().ok().filter(|count| *count > 0));
    match quorum {
        Some(Some(count)) => Ok((Join::Quorum, count)),
        None if JOINS.iter().any(|(known, _)| *known == text) => Ok((named("join", text, &JOINS)?, 0)),
        Some(None) | None => Err("\"join\" must be all, settled, any, reduce or quorum:N".to_owned()),
    }
}

/// Parses a failure: a kind as in the `failure` of a task, with or without a code, or `name:NAME`.
fn failure(text: &str) -> Result<FailureMatch, String> {
    let (word, rest) = text.split_once(':').map_or((text, None), |(word, rest)| (word, Some(rest)));
    let wrong = || {
        Err(format!(
            "{text:?} in \"nonRetryable\" must be a kind of failure such as exit or timed_out, one with a code such as \
             http:404, or name:NAME"
        ))
    };
    if word == "name" {
        let name = rest.unwrap_or_default().to_owned();
        return if name.is_empty() { wrong() } else { Ok(FailureMatch { name, ..FailureMatch::default() }) };
    }
    let full = format!("FAILURE_KIND_{}", word.to_ascii_uppercase().replace('-', "_"));
    let kind = FailureKind::from_str_name(&full).filter(|kind| *kind != FailureKind::Unspecified);
    let code = rest.map(str::parse::<i32>).transpose();
    match (kind, code) {
        (Some(kind), Ok(code)) => Ok(FailureMatch { kind: kind.into(), code, ..FailureMatch::default() }),
        _ => wrong(),
    }
}

fn time(field: &str, text: &str) -> Result<prost_types::Timestamp, String> {
    let time = humantime::parse_rfc3339(text);
    time.map(Into::into).map_err(|_| format!("{field:?} must be a time such as \"2030-01-31T08:00:00Z\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::messenger::gateway::forms::parse;

    fn task(json: &str) -> Result<TaskSpec, String> {
        parse::<TaskForm<'_>>(json.as_bytes())?.spec()
    }

    #[test]
    fn an_input_is_text_or_json_or_base64() {
        let input = |fields: &str| task(&format!(r#"{{"kind":"k"{fields}}}"#)).map(|spec| spec.input);
        assert_eq!(input(""), Ok(Bytes::new()));
        assert_eq!(input(r#","input":null"#), Ok(Bytes::new()));
        assert_eq!(input(r#","input":"a\u00e9\n""#), Ok("aé\n".into()));
        assert_eq!(input(r#","input": {"b": 1.50, "a":[ ]}"#), Ok(r#"{"b": 1.50, "a":[ ]}"#.into()));
        for base64 in ["/+8=", "/+8", "_-8=", "_-8"] {
            assert_eq!(input(&format!(r#","inputBase64":"{base64}""#)), Ok(Bytes::from_static(&[0xff, 0xef])));
        }
        for (wrong, words) in [
            (r#","inputBase64":"/-8""#, "not base64"),
            (r#","input":1,"inputBase64":"""#, "give one"),
            (r#","input":"\ud800""#, "\"input\""),
            (r#","imput":1"#, "unknown field `imput`"),
            (r#","kind":"twice""#, "duplicate field"),
            (r#","priority":"high""#, "invalid type"),
            (r#","deadline":30"#, "invalid type"),
            (r#","deadline":"soon""#, "a duration such as"),
            (r#","deadline":"99999999999999999y""#, "a duration such as"),
            (r#","role":"boss""#, "worker, specialist"),
        ] {
            let error = input(wrong).expect_err(wrong);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_deeply_nested_input_is_no_problem() {
        let deep = format!(r#"{{"kind":"k","input":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(task(&deep).expect("it is JSON").input.len(), 200_000);
    }

    const EVERY_FIELD: &str = r#"{"id":"i","kind":"k","key":"y","priority":7,"deadline":"1m30s","delay":"2s",
        "timeout":"3s","maxAttempts":4,"ttl":"1h","role":"Guardian","specialization":"s","submitter":"u",
        "skills":["t"],"slots":2,"queue":"q","limitKey":"l",
        "notBefore":"2030-01-31T08:00:00Z","queueExpiry":"5s","progressTimeout":"6s","backoff":"7s",
        "maxBackoff":"8s","jitterPercent":20,"nonRetryable":["exit","http:404","timed-out","name:a:b"],
        "dependsOn":["a","b:run"],"resultsAsInput":true,"inputs":["x",{"y":1.50}],"join":"quorum:2","partKind":"p",
        "agents":3,"splitBy":"JSON","spread":true,"parts":2,"partOf":"o","part":1}"#;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    /// The rules about retries in [`EVERY_FIELD`].
    fn retry() -> RetryPolicy {
        let of = |kind: FailureKind, code| FailureMatch { kind: kind.into(), code, name: String::new() };
        let by_name = FailureMatch { name: "a:b".into(), ..FailureMatch::default() };
        let timed_out = of(FailureKind::TimedOut, None);
        RetryPolicy {
            max_attempts: 4,
            initial_backoff: seconds(7),
            max_backoff: seconds(8),
            jitter_percent: 20,
            non_retryable: vec![of(FailureKind::Exit, None), of(FailureKind::Http, Some(404)), timed_out, by_name],
            ..RetryPolicy::default()
        }
    }

    #[test]
    fn every_field_of_a_task_arrives() {
        let dependency =
            |task: &str, on_failure: OnFailure| Dependency { task: task.to_owned(), on_failure: on_failure.into() };
        let split = Split {
            parts: 2,
            join: Join::Quorum.into(),
            quorum: 2,
            part_kind: "p".into(),
            by: SplitBy::Json.into(),
            spread: true,
        };
        let expected = TaskSpec {
            id: "i".into(),
            kind: "k".into(),
            idempotency_key: "y".into(),
            priority: 7,
            deadline_in: seconds(90),
            delay: seconds(2),
            attempt_timeout: seconds(3),
            not_before: Some(prost_types::Timestamp { seconds: 1_896_076_800, nanos: 0 }),
            queue_expiry: seconds(5),
            progress_timeout: seconds(6),
            retry: Some(retry()),
            skills: vec!["t".into()],
            slots: 2,
            queue: "q".into(),
            limit_key: "l".into(),
            depends_on: vec![dependency("a", OnFailure::Fail), dependency("b", OnFailure::Run)],
            passing: Passing::AsInput.into(),
            inputs: vec!["x".into(), r#"{"y":1.50}"#.into()],
            agents: 3,
            split: Some(split),
            part_of: Some(PartOf { task: "o".into(), index: 1 }),
            result_ttl: seconds(3_600),
            required_role: Role::Guardian.into(),
            required_specialization: "s".into(),
            submitter: "u".into(),
            ..TaskSpec::default()
        };
        assert_eq!(task(EVERY_FIELD), Ok(expected));
    }

    #[test]
    fn what_is_not_said_is_left_to_the_fleet() {
        assert_eq!(task(r#"{"kind":"k"}"#), Ok(TaskSpec { kind: "k".into(), ..TaskSpec::default() }));
        let inputs = |json: &str| task(json).map(|spec| (spec.inputs, spec.split));
        let bytes = Bytes::from_static(&[0xff, 0xef]);
        assert_eq!(inputs(r#"{"kind":"k","inputsBase64":["/+8="]}"#), Ok((vec![bytes], None)));
        let join = |word: &str| task(&format!(r#"{{"kind":"k","join":"{word}"}}"#)).map(|spec| spec.split);
        for (word, expected) in JOINS {
            assert_eq!(join(word), Ok(Some(Split { join: expected.into(), ..Split::default() })), "{word}");
        }
    }

    #[test]
    fn options_of_links_time_and_retries_that_are_none_are_refused() {
        for (wrong, words) in [
            (r#""dependsOn":["a:go"]"#, "ID:skip"),
            (r#""dependsOn":"a""#, "invalid type"),
            (r#""join":"quorum""#, "quorum:N"),
            (r#""join":"quorum:0""#, "quorum:N"),
            (r#""join":"resume""#, "quorum:N"),
            (r#""splitBy":"words""#, "lines, chunks, json, command"),
            (r#""inputs":[1],"inputsBase64":["/+8="]"#, "give one"),
            (r#""inputsBase64":["?"]"#, "not base64"),
            (r#""partOf":"a""#, "together"),
            (r#""part":1"#, "together"),
            (r#""notBefore":"tomorrow""#, "a time such as"),
            (r#""notBefore":"2030-01-31T08:00:00+01:00""#, "a time such as"),
            (r#""queueExpiry":"soon""#, "a duration such as"),
            (r#""progressTimeout":5"#, "invalid type"),
            (r#""nonRetryable":["exot"]"#, "must be a kind of failure"),
            (r#""nonRetryable":["unspecified"]"#, "must be a kind of failure"),
            (r#""nonRetryable":["exit:two"]"#, "must be a kind of failure"),
            (r#""nonRetryable":["name:"]"#, "must be a kind of failure"),
            (r#""agents":-1"#, "invalid value"),
            (r#""slots":"two""#, "invalid type"),
        ] {
            let error = task(&format!(r#"{{"kind":"k",{wrong}}}"#)).expect_err(wrong);
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }
}
