//! How a task is split among several agents: the coordinator that takes the submission divides its input into parts, before
//! anything is proposed. What becomes of an input depends on nothing but the input, the splitter and the number of agents,
//! so a submission that is repeated is divided into the same parts.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use robeing_fleet::{
    Divider, Fleet, Join, REDUCE_RESERVE, SplitBy, SubmitTask, TaskKind, TaskKindList,
    limits::{MAX_INPUT_BYTES, MAX_SPREAD_PARTS},
};
use robeing_proto::v1;
use serde::de::IgnoredAny;

use crate::api::convert::{self, BadField, bad};

/// Tasks that clients send in one message, at most: what their kind says may split all of them.
const TASKS_OF_MESSAGE: usize = 256;
/// Maximum number of parts among agents in one request.
const MAX_DIVIDED: usize = TASKS_OF_MESSAGE * MAX_SPREAD_PARTS as usize;
/// Maximum number of dependencies of all these parts, each of which has those of its task.
const MAX_DIVIDED_DEPENDENCIES: usize = 1_000_000;

/// What the tasks of one request have in common while they are prepared.
pub struct Preparing {
    kinds: Option<Arc<TaskKindList>>,
    parts_left: usize,
    dependencies_left: usize,
}

/// What is known of a task that is split among agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divided {
    /// The deadline that its kind sets, ms from its acceptance.
    deadline: Option<u64>,
    /// What divides its input, if an attempt does.
    pub divider: Option<Box<Divider>>,
}

impl Preparing {
    /// Begins with a request, while kinds are as this coordinator knows them now.
    pub fn begin(fleet: &Fleet) -> Self {
        let kinds = fleet.task_kinds().cloned();
        Self { kinds, parts_left: MAX_DIVIDED, dependencies_left: MAX_DIVIDED_DEPENDENCIES }
    }

    /// Divides the input of a task that is split among agents into inputs of parts, which are kept apart, unless an attempt
    /// does that. Returns `None` if it is not split so.
    ///
    /// # Errors
    /// If the task can't be split so, or there are too many parts in the request.
    pub fn divide(&mut self, spec: &mut v1::TaskSpec) -> Result<Option<Divided>, BadField> {
        let kind = self.kinds.as_deref().and_then(|kinds| kinds.kind(&spec.kind));
        let agents = agents(spec, kind)?;
        spec.agents = 0;
        // An input that is too large is refused as such.
        if agents < 2 || spec.input.len() > MAX_INPUT_BYTES {
            return Ok(None);
        }
        let splitter = kind.and_then(|kind| kind.splitter.as_deref());
        let split = spec.split.take().unwrap_or_default();
        let by = convert::split_by("split.by", split.by)?.or(splitter.map(|splitter| splitter.by));
        let Some(by) = by else {
            let problem = format!("kind {:?} has no splitter, which divides inputs; set split.by", spec.kind);
            return Err(bad("agents", problem));
        };
        let divided = Divided { deadline: kind.and_then(|kind| kind.deadline_in), divider: None };
        let of_kind = splitter.map(|splitter| (convert::join(splitter.join), splitter.part_kind.clone()));
        let (join, part_kind) = of_kind.unwrap_or((v1::Join::Unspecified, String::new()));
        let is_said = split.join != i32::from(v1::Join::Unspecified);
        let join = if is_said { split.join } else { join.into() };
        let part_kind = if split.part_kind.is_empty() { part_kind } else { split.part_kind };
        let quorum = split.quorum;
        // Without an input of its own, it is run for their results, which are its input unless it says otherwise. That of one
        // that depends on others also says how it and its parts are given the results of these.
        let is_open = spec.passing == i32::from(v1::Passing::Unspecified) && spec.depends_on.is_empty();
        if is_open && join == i32::from(v1::Join::Reduce) {
            spec.passing = v1::Passing::AsInput.into();
        }
        if by == SplitBy::Command {
            let command = splitter.map(|splitter| splitter.kind.clone()).filter(|kind| !kind.is_empty());
            let Some(kind) = command else {
                let problem = format!("kind {:?} names no kind of tasks that divide its input", spec.kind);
                return Err(bad("split.by", problem));
            };
            let join = convert::asked_join("split.join", join)?;
            let divider = Some(Box::new(Divider { kind, agents, join, quorum, part_kind }));
            return Ok(Some(Divided { divider, ..divided }));
        }
        if spec.input_ref.is_some() {
            let problem =
                "only an attempt can divide what is in the object store; set split.by to COMMAND, or agents to 1";
            return Err(bad("input_ref", problem));
        }
        let inputs = pieces(by, &spec.input, agents).map_err(|problem| bad("input", problem))?;
        self.charge(inputs.len(), spec.depends_on.len())?;
        let by = v1::SplitBy::Unspecified.into();
        // All of them if there is less to divide. One that more agents could not reach either is refused.
        let quorum = if quorum <= agents { quorum.min(inputs.len() as u32) } else { quorum };
        spec.split = Some(v1::Split { parts: 0, join, quorum, part_kind, by, spread: true });
        (spec.inputs, spec.input) = (inputs, Bytes::new());
        Ok(Some(divided))
    }

    fn charge(&mut self, parts: usize, depends_on: usize) -> Result<(), BadField> {
        let left = self.parts_left.checked_sub(parts).zip(self.dependencies_left.checked_sub(parts * depends_on));
        let Some((parts_left, dependencies_left)) = left else {
            let problem = format!(
                "the tasks of one request are split among agents into at most {MAX_DIVIDED} parts, with \
                 {MAX_DIVIDED_DEPENDENCIES} dependencies; submit this one in another request"
            );
            return Err(bad("agents", problem));
        };
        (self.parts_left, self.dependencies_left) = (parts_left, dependencies_left);
        Ok(())
    }
}

impl Divided {
    /// Sets the deadlines of the parts of a task: that of the task, but if the task is run with their results, it keeps
    /// a tenth of the time for that.
    pub fn limit(&self, task: &SubmitTask, parts: &mut [SubmitTask]) {
        let Some(deadline) = task.deadline_in.or(self.deadline) else { return };
        let split = task.links.as_ref().and_then(|links| links.split);
        let is_reduced = split.is_some_and(|split| split.join == Join::Reduce);
        let reserve = if is_reduced { deadline / REDUCE_RESERVE } else { 0 };
        for part in parts {
            part.deadline_in = Some(deadline - reserve);
        }
    }
}

/// Returns among how many agents a task is split; 0 or 1 if it is not.
fn agents(spec: &v1::TaskSpec, kind: Option<&TaskKind>) -> Result<u32, BadField> {
    let has_parts = !spec.inputs.is_empty() || spec.split.as_ref().is_some_and(|split| split.parts > 0);
    match spec.agents {
        agents if agents > MAX_SPREAD_PARTS => {
            Err(bad("agents", format!("is {agents}, must be 0 to {MAX_SPREAD_PARTS}")))
        }
        agents if agents > 1 && has_parts => {
            Err(bad("agents", "the task has parts already; leave them out, or give the whole as its input"))
        }
        0 if !has_parts && spec.verify.is_none() && spec.requires_approval.is_none() && spec.part_of.is_none() => {
            Ok(kind.map_or(0, |kind| kind.agents))
        }
        agents => Ok(agents),
    }
}

/// Returns the parts of an input among so many agents: at most as many, in order, and each with something unless the input
/// has nothing to divide. Their numbers of lines, bytes or elements differ by at most one.
///
/// # Errors
/// If the input is not what the splitter divides, as a sentence.
fn pieces(by: SplitBy, input: &Bytes, agents: u32) -> Result<Vec<Bytes>, String> {
    match by {
        SplitBy::Lines => {
            let ends = line_ends(input);
            Ok(shares(ends.len() - 1, agents).map(|of| input.slice(ends[of.start]..ends[of.end])).collect())
        }
        SplitBy::Chunks => Ok(shares(input.len(), agents).map(|of| input.slice(of)).collect()),
        SplitBy::Command => Err("an attempt divides it".to_owned()),
        SplitBy::Json => {
            let bounds = element_bounds(input)?;
            let array = |of: Range<usize>| {
                let elements = input.slice(bounds[of.start] + 1..bounds[of.end]);
                Bytes::from([&b"["[..], &elements[..], &b"]"[..]].concat())
            };
            Ok(shares(bounds.len() - 1, agents).map(array).collect())
        }
    }
}

/// Returns the ranges of so many items that go to each of several agents; one, without any, if there are none.
fn shares(items: usize, agents: u32) -> impl Iterator<Item = Range<usize>> {
    let parts = items.min(agents as usize).max(1);
    (0..parts).map(move |part| items * part / parts..items * (part + 1) / parts)
}

/// Returns 0 and the places after each line.
fn line_ends(input: &[u8]) -> Vec<usize> {
    let ends = input.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let last = Some(input.len()).filter(|len| *len > 0 && input.last() != Some(&b'\n'));
    [0].into_iter().chain(ends).chain(last).collect()
}

/// Returns the places of the brackets of a JSON array, and between them those of the commas between its elements.
fn element_bounds(input: &[u8]) -> Result<Vec<usize>, String> {
    let elements: Vec<IgnoredAny> = serde_json::from_slice(input)
        .map_err(|error| format!("it is no JSON array, which the splitter divides: {error}"))?;
    let (mut bounds, mut depth) = (Vec::with_capacity(elements.len() + 1), 0_u32);
    let (mut in_string, mut is_escaped) = (false, false);
    for (at, byte) in input.iter().enumerate() {
        if in_string {
            in_string = is_escaped || *byte != b'"';
            is_escaped = !is_escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth == 1 {
                    bounds.push(at);
                }
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    bounds.push(at);
                }
            }
            b',' if depth == 1 => bounds.push(at),
            _ => {}
        }
    }
    Ok(bounds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use robeing_fleet::{
        AskedLinks, Command, ControlCommand, FleetConfig, KindCommand, Split, Splitter, Stamp, TaskId, known_version,
    };

    use super::*;

    const ALL: [SplitBy; 3] = [SplitBy::Lines, SplitBy::Chunks, SplitBy::Json];

    fn texts(by: SplitBy, input: &str, agents: u32) -> Result<Vec<String>, String> {
        let parts = pieces(by, &Bytes::copy_from_slice(input.as_bytes()), agents)?;
        Ok(parts.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect())
    }

    #[test]
    fn an_input_is_divided_into_lines_bytes_or_elements_in_order() {
        let parts = |by, input: &str, agents| texts(by, input, agents).expect("it can be divided");
        assert_eq!(parts(SplitBy::Lines, "a\nb\n\nc", 2), ["a\nb\n", "\nc"]);
        assert_eq!(parts(SplitBy::Lines, "a\nb\n", 9), ["a\n", "b\n"], "no more parts than lines");
        assert_eq!(parts(SplitBy::Chunks, "abcde", 2), ["ab", "cde"]);
        let written = r#" [1.50, {"a": "x],[\"", "b": [2,3]} ,"\\", null ] "#;
        assert_eq!(parts(SplitBy::Json, written, 2), [r#"[1.50, {"a": "x],[\"", "b": [2,3]} ]"#, r#"["\\", null ]"#]);
        assert_eq!(parts(SplitBy::Json, written, 9).len(), 4);
    }

    #[test]
    fn an_input_with_nothing_to_divide_is_one_part() {
        for (by, input) in [(SplitBy::Lines, ""), (SplitBy::Chunks, ""), (SplitBy::Json, "[]"), (SplitBy::Json, "[ ]")]
        {
            assert_eq!(texts(by, input, 8), Ok(vec![input.to_owned()]));
        }
    }

    #[test]
    fn what_is_no_json_array_is_refused() {
        for input in ["", "{}", "[1", "[1,]", "[1] 2", "\"[1]\"", "7"] {
            assert!(texts(SplitBy::Json, input, 2).is_err_and(|problem| problem.contains("no JSON array")), "{input}");
        }
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(texts(SplitBy::Json, &deep, 2), Ok(vec![deep]), "at any depth");
    }

    /// Returns the items of an input: lines, bytes, or elements as they are written.
    fn items(by: SplitBy, input: &[u8]) -> Vec<Vec<u8>> {
        match by {
            SplitBy::Lines => input.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect(),
            SplitBy::Chunks | SplitBy::Command => input.iter().map(|byte| vec![*byte]).collect(),
            SplitBy::Json => {
                let values: Vec<serde_json::Value> = serde_json::from_slice(input).expect("it is an array");
                values.iter().map(|value| value.to_string().into_bytes()).collect()
            }
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i32>().prop_map(serde_json::Value::from),
            r#"[a\[\]{},:"\\]{0,6}"#.prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[a,\\]]{0,2}", inner, 0..3)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn input() -> impl Strategy<Value = (SplitBy, Vec<u8>)> {
        let lines = prop::collection::vec(prop::sample::select(vec![b'a', b'\n', 0xff]), 0..60);
        let array = (prop::collection::vec(json(), 0..12), any::<bool>()).prop_map(|(values, is_spaced)| {
            let array = serde_json::Value::from(values);
            let text = if is_spaced { serde_json::to_vec_pretty(&array) } else { serde_json::to_vec(&array) };
            text.expect("it is written")
        });
        let bytes = prop::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            lines.prop_map(|input| (SplitBy::Lines, input)),
            bytes.prop_map(|input| (SplitBy::Chunks, input)),
            array.prop_map(|input| (SplitBy::Json, input)),
        ]
    }

    proptest! {
        #[test]
        fn the_parts_of_an_input_are_all_of_it_in_order_and_of_about_the_same_size(
            (by, input) in input(), agents in 2..=MAX_SPREAD_PARTS,
        ) {
            let input = Bytes::from(input);
            let parts = pieces(by, &input, agents).expect("it can be divided");
            let all = items(by, &input);
            let counts: Vec<usize> = parts.iter().map(|part| items(by, part).len()).collect();
            prop_assert_eq!(parts.iter().flat_map(|part| items(by, part)).collect::<Vec<_>>(), all.clone());
            prop_assert_eq!(parts.len(), all.len().clamp(1, agents as usize));
            let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{:?}", counts);
            prop_assert!(all.is_empty() || least > Some(0), "{:?}", counts);
            if by != SplitBy::Json {
                prop_assert_eq!(parts.concat(), input.to_vec());
            }
            prop_assert_eq!(pieces(by, &input, agents), Ok(parts), "the same each time");
        }

        #[test]
        fn any_bytes_are_divided_or_refused(
            by in prop::sample::select(ALL.to_vec()), input in prop::collection::vec(any::<u8>(), 0..40), agents in 2..9u32,
        ) {
            let parts = pieces(by, &Bytes::from(input), agents);
            prop_assert!(parts.map_or(by == SplitBy::Json, |parts| (1..=agents as usize).contains(&parts.len())));
        }
    }

    /// What a coordinator knows whose fleet splits tasks of the kind `count` among three agents.
    fn preparing() -> Preparing {
        let mut fleet = Fleet::new(FleetConfig::default());
        let raise = ControlCommand::RaiseVersion(known_version());
        let splitter =
            Splitter { by: SplitBy::Lines, join: Join::Reduce, part_kind: "lines".to_owned(), kind: "cut".to_owned() };
        let kind = TaskKind {
            name: "count".to_owned(),
            agents: 3,
            splitter: Some(Box::new(splitter)),
            deadline_in: Some(1_000),
            ..TaskKind::default()
        };
        let set = KindCommand::Set { kinds: vec![kind], by: String::new() };
        for command in [Command::Control(raise), Command::Kind(set)] {
            fleet.apply(Stamp::at(1), command, &mut Vec::new());
        }
        Preparing::begin(&fleet)
    }

    fn spec(kind: &str, input: &'static str, agents: u32) -> v1::TaskSpec {
        v1::TaskSpec { kind: kind.to_owned(), input: input.into(), agents, ..v1::TaskSpec::default() }
    }

    fn split(by: v1::SplitBy) -> Option<v1::Split> {
        Some(v1::Split { by: by.into(), ..v1::Split::default() })
    }

    #[test]
    fn a_task_is_split_as_its_kind_says_unless_it_says_otherwise() {
        let join = |join: v1::Join| Some(v1::Split { join: join.into(), ..v1::Split::default() });
        let divided = |mut spec: v1::TaskSpec| {
            let is_divided = preparing().divide(&mut spec).expect("it can be divided").is_some();
            (is_divided, spec)
        };
        let (is_divided, of_kind) = divided(spec("count", "1\n2\n3\n4\n", 0));
        assert!(is_divided && of_kind.input.is_empty() && of_kind.inputs.len() == 3);
        let asked = of_kind.split.expect("it is split");
        assert_eq!((asked.join(), &*asked.part_kind, asked.spread), (v1::Join::Reduce, "lines", true));
        let passing = |spec: v1::TaskSpec| divided(v1::TaskSpec { kind: "count".to_owned(), ..spec }).1.passing();
        let input = Bytes::from_static(b"1\n2\n");
        for (spec, passed) in [
            (v1::TaskSpec::default(), v1::Passing::AsInput),
            (
                v1::TaskSpec { passing: v1::Passing::Separately.into(), ..v1::TaskSpec::default() },
                v1::Passing::Separately,
            ),
            (
                v1::TaskSpec { depends_on: vec![v1::Dependency::default()], ..v1::TaskSpec::default() },
                v1::Passing::Unspecified,
            ),
            (v1::TaskSpec { split: join(v1::Join::All), ..v1::TaskSpec::default() }, v1::Passing::Unspecified),
        ] {
            assert_eq!(passing(v1::TaskSpec { input: input.clone(), ..spec }), passed);
        }
        let own = v1::Split { join: v1::Join::Any.into(), part_kind: "own".to_owned(), ..v1::Split::default() };
        let (_, own) = divided(v1::TaskSpec { split: Some(own), ..spec("count", "1\n2\n3\n4\n", 2) });
        let asked = own.split.expect("it is split");
        assert_eq!((own.inputs.len(), asked.join(), &*asked.part_kind), (2, v1::Join::Any, "own"));
        let (_, chunks) = divided(v1::TaskSpec { split: split(v1::SplitBy::Chunks), ..spec("other", "abcd", 4) });
        assert_eq!((chunks.inputs.len(), chunks.agents), (4, 0));
        let verify = Some(v1::Verify::default());
        let part_of = Some(v1::PartOf::default());
        let whole = spec("count", "1\n2\n", 0);
        for kept in [
            spec("count", "1\n2\n", 1),
            spec("other", "1\n2\n", 0),
            v1::TaskSpec { verify, ..whole.clone() },
            v1::TaskSpec { part_of, ..whole.clone() },
            v1::TaskSpec { requires_approval: Some(v1::RequiredApproval::default()), ..whole.clone() },
            v1::TaskSpec { inputs: vec![Bytes::new()], ..whole.clone() },
            v1::TaskSpec { split: Some(v1::Split { parts: 2, ..v1::Split::default() }), ..whole },
        ] {
            let expected = v1::TaskSpec { agents: 0, ..kept.clone() };
            assert_eq!(divided(kept), (false, expected));
        }
    }

    #[test]
    fn an_attempt_divides_the_input_if_a_command_is_asked_for_and_the_kind_names_one() {
        let of = |kind: &str| {
            let mut spec = v1::TaskSpec { split: split(v1::SplitBy::Command), ..spec(kind, "abc", 3) };
            preparing().divide(&mut spec).map(|divided| (divided.and_then(|divided| divided.divider), spec))
        };
        let (divider, whole) = of("count").expect("it can be divided");
        let expected = Divider {
            kind: "cut".to_owned(),
            agents: 3,
            join: Join::Reduce,
            part_kind: "lines".to_owned(),
            ..Divider::default()
        };
        assert_eq!(divider.as_deref(), Some(&expected));
        let undivided = v1::TaskSpec { passing: v1::Passing::AsInput.into(), ..spec("count", "abc", 0) };
        assert_eq!(whole, undivided, "nothing is divided yet");
        assert!(of("other").is_err());
    }

    #[test]
    fn a_quorum_of_more_parts_than_there_are_to_divide_is_all_of_them() {
        let quorum = |input: &'static str, quorum| {
            let asked = v1::Split { join: v1::Join::Quorum.into(), quorum, ..v1::Split::default() };
            let mut spec = v1::TaskSpec { split: Some(asked), ..spec("count", input, 4) };
            preparing().divide(&mut spec).expect("it can be divided");
            spec.split.map(|split| split.quorum)
        };
        assert_eq!([quorum("1\n2\n", 3), quorum("1\n2\n3\n4\n", 3)], [Some(2), Some(3)]);
        assert_eq!(quorum("1\n2\n", 5), Some(5), "it is refused when the submission is checked");
    }

    #[test]
    fn what_can_not_be_split_among_agents_is_refused() {
        let chunks = || split(v1::SplitBy::Chunks);
        let divide = |mut spec: v1::TaskSpec| preparing().divide(&mut spec).map(|divided| divided.is_some());
        assert_eq!(divide(v1::TaskSpec { split: chunks(), ..spec("k", "abc", MAX_SPREAD_PARTS) }), Ok(true));
        assert!(divide(v1::TaskSpec { split: chunks(), ..spec("k", "abc", MAX_SPREAD_PARTS + 1) }).is_err());
        assert!(divide(spec("k", "abc", 2)).is_err(), "nothing says how");
        assert!(divide(v1::TaskSpec { inputs: vec![Bytes::new()], ..spec("count", "", 2) }).is_err());
        let unknown = Some(v1::Split { by: 99, ..v1::Split::default() });
        assert!(divide(v1::TaskSpec { split: unknown, ..spec("count", "a", 2) }).is_err());
        assert!(divide(v1::TaskSpec { split: split(v1::SplitBy::Json), ..spec("k", "{}", 2) }).is_err());
        let stored = |by, agents| {
            let input_ref = Some(v1::BlobRef::default());
            divide(v1::TaskSpec { input_ref, split: split(by), ..spec("count", "", agents) }).ok()
        };
        assert_eq!(stored(v1::SplitBy::Unspecified, 0), None, "nobody divides it here");
        assert_eq!([stored(v1::SplitBy::Command, 0), stored(v1::SplitBy::Lines, 1)], [Some(true), Some(false)]);
    }

    #[test]
    fn the_tasks_of_a_request_are_divided_into_no_more_parts_than_so_many() {
        let is_divided = |preparing: &mut Preparing, depends_on: usize| {
            let depends_on = vec![v1::Dependency::default(); depends_on];
            let split = split(v1::SplitBy::Chunks);
            let mut spec = v1::TaskSpec { split, depends_on, ..spec("k", "0123456789", 10) };
            preparing.divide(&mut spec).is_ok()
        };
        let mut many = preparing();
        assert!((0..MAX_DIVIDED / 10).all(|_| is_divided(&mut many, 0)));
        assert!(!is_divided(&mut many, 0));
        let mut linked = preparing();
        assert!((0..MAX_DIVIDED_DEPENDENCIES / 10_000).all(|_| is_divided(&mut linked, 1_000)));
        assert!(!is_divided(&mut linked, 1));
    }

    #[test]
    fn parts_have_the_deadline_of_their_task_or_leave_a_tenth_of_it_to_its_end() {
        let deadline = |own: Option<u64>, join| {
            let split = Some(Split { parts: 1, join, quorum: 0, spread: true });
            let links = Some(Box::new(AskedLinks { split, ..AskedLinks::default() }));
            let task = SubmitTask { deadline_in: own, links, ..SubmitTask::new(TaskId(1), "count", Bytes::new()) };
            let mut parts = vec![SubmitTask::new(TaskId(2), "lines", Bytes::new())];
            Divided { deadline: Some(1_000), divider: None }.limit(&task, &mut parts);
            parts[0].deadline_in
        };
        assert_eq!(deadline(Some(70), Join::All), Some(70));
        assert_eq!(deadline(Some(70), Join::Reduce), Some(63));
        assert_eq!(deadline(Some(1), Join::Reduce), Some(1));
        assert_eq!(deadline(None, Join::Reduce), Some(900), "that of its kind");
    }
}
