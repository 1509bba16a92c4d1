//! The calls of clients with their responses, and the check that a fleet which executes one call after the other could
//! have given these responses (linearizability): the search of Wing and Gong with Lowe's memoization. Tasks that share
//! no key are independent, so each group of calls is checked separately.
//!
//! The model omits what happens inside the fleet: that a task ends, and that a task whose result is kept only for a
//! moment is forgotten, may happen at any time, and is known once a client got a response that shows it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use robeing_proto::v1::{self, TaskState};

use crate::results::is_final;

/// The largest number of calls in a group; larger groups are undecided.
const MAX_CALLS: usize = 2_000;
/// The largest number of states that the search visits in one group; beyond it, the group is undecided.
const MAX_VISITED: usize = 1_000_000;

/// The request of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Submit this task.
    Submit {
        /// The id that the submitter generated.
        id: String,
        /// Its idempotency key.
        key: Option<String>,
        /// A checksum of kind and input.
        content: u32,
    },
    /// Get this task.
    Get(String),
    /// Cancel this task.
    Cancel(String),
    /// List all tasks.
    List,
}

impl Op {
    /// Returns the task that the request is about.
    fn task(&self) -> Option<&String> {
        match self {
            Self::Submit { id, .. } | Self::Get(id) | Self::Cancel(id) => Some(id),
            Self::List => None,
        }
    }
}

/// The response to a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// None, or an error that leaves open what happened.
    Unknown,
    /// Refused for a reason that is unrelated to other tasks.
    Refused,
    /// The task was accepted.
    New,
    /// The task had already been accepted as this one.
    Existing(String),
    /// The id or the key belongs to another task.
    Conflict,
    /// There is no such task.
    NotFound,
    /// The state of the task.
    Found(Seen),
    /// The state of the task after the cancellation.
    Ended(TaskState),
    /// The states of all tasks.
    All(BTreeMap<String, Seen>),
}

/// The state of a task in a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its final state, if it has ended.
    pub ended: Option<TaskState>,
    /// Its revision.
    pub revision: u64,
}

impl Seen {
    /// Returns the state of a task.
    pub fn of(task: &v1::Task) -> Self {
        Self { ended: is_final(task).then(|| task.state()), revision: task.revision }
    }
}

/// A call of a client.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its request.
    pub op: Op,
    /// When it began, as a sequence number within the run.
    pub began: u64,
    /// When its response came, if ever.
    pub ended: Option<u64>,
    /// Its response.
    pub answer: Answer,
}

/// The verdict on a group's history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An order explains all responses.
    Linearizable,
    /// No order does; the longest explanation ends before this call.
    Not(String),
    /// The search was given up.
    Undecided,
}

/// A task of the model.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Known {
    content: u32,
    key: Option<String>,
    ended: Option<i32>,
    /// A lower bound of its revision or, once a response showed it after the end, its exact revision.
    revision: u64,
    exact: bool,
}

type Model = BTreeMap<String, Known>;

/// Splits calls into groups that share no task and no key. A listing counts as a read of every task that was ever
/// submitted.
fn groups(calls: &[Call]) -> Vec<Vec<Call>> {
    let mut ids: BTreeSet<&String> = BTreeSet::new();
    // The group of a key is that of the first task that has it.
    let (mut owners, mut parents): (BTreeMap<&String, &String>, BTreeMap<&String, &String>) = Default::default();
    for call in calls {
        if let Op::Submit { id, key, .. } = &call.op {
            ids.insert(id);
            if let Some(key) = key {
                let owner = *owners.entry(key).or_insert(id);
                if owner != id {
                    parents.entry(id).or_insert(owner);
                }
            }
        }
    }
    let root = |id: &String| {
        let mut id = id;
        while let Some(parent) = parents.get(id) {
            id = *parent;
        }
        id.clone()
    };
    let mut groups: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for call in calls {
        match (&call.op, &call.answer) {
            (Op::Submit { id, .. } | Op::Get(id) | Op::Cancel(id), _) => {
                groups.entry(root(id)).or_default().push(call.clone());
            }
            (Op::List, Answer::All(all)) => {
                for id in &ids {
                    let answer = all.get(*id).map_or(Answer::NotFound, |seen| Answer::Found(*seen));
                    let get = Call { op: Op::Get((*id).clone()), answer, ..call.clone() };
                    groups.entry(root(id)).or_default().push(get);
                }
            }
            (Op::List, _) => {}
        }
    }
    groups.into_values().collect()
}

/// Returns the verdicts on all groups that are not linearizable.
pub fn check(calls: &[Call], fleeting: &BTreeSet<String>) -> Vec<Verdict> {
    let verdicts = groups(calls).into_iter().map(|group| explain(&group, fleeting));
    verdicts.filter(|verdict| *verdict != Verdict::Linearizable).collect()
}

/// Returns the models that may follow if this call takes effect with this response; none if it can't.
#[expect(clippy::too_many_lines, reason = "a table")]
fn follow(model: &Model, op: &Op, answer: &Answer, fleeting: &BTreeSet<String>) -> Vec<Model> {
    let absent = |id: &str| !model.contains_key(id) || fleeting.contains(id);
    let owner = |key: &Option<String>| {
        let key = key.as_ref()?;
        model.iter().find(|(_, known)| known.key.as_ref() == Some(key)).map(|(id, _)| id.clone())
    };
    let changed = |change: &dyn Fn(&mut Model)| {
        let mut next = model.clone();
        change(&mut next);
        vec![next]
    };
    match (op, answer) {
        (_, Answer::Refused) => vec![model.clone()],
        (Op::Submit { id, key, content }, Answer::New) => {
            let other = owner(key).filter(|other| other != id);
            if !absent(id) || other.as_ref().is_some_and(|other| !absent(other)) {
                return Vec::new();
            }
            let known = Known { content: *content, key: key.clone(), ended: None, revision: 0, exact: false };
            changed(&|next| {
                other.iter().for_each(|other| drop(next.remove(other)));
                next.insert(id.clone(), known.clone());
            })
        }
        (Op::Submit { id, key, content }, Answer::Existing(told)) => {
            let is_it = told == id || absent(id) && owner(key).as_ref() == Some(told);
            let same = model.get(told).is_some_and(|known| known.content == *content);
            // A coordinator proposes a command again if it does not know whether the first proposal was applied: a call
            // may find its own task.
            let itself = if told == id { follow(model, op, &Answer::New, fleeting) } else { Vec::new() };
            itself.into_iter().chain((is_it && same).then(|| model.clone())).collect()
        }
        (Op::Submit { id, key, content }, Answer::Conflict) => {
            let other = [Some(id.clone()), owner(key)].into_iter().flatten().filter_map(|id| model.get(&id)).next();
            if other.is_some_and(|known| known.content != *content) { vec![model.clone()] } else { Vec::new() }
        }
        (Op::Submit { .. }, Answer::Unknown) => {
            let mut all = follow(model, op, &Answer::New, fleeting);
            all.push(model.clone());
            all
        }
        (Op::Get(id), Answer::NotFound) => {
            if absent(id) {
                changed(&|next| drop(next.remove(id)))
            } else {
                Vec::new()
            }
        }
        (Op::Get(id), Answer::Found(seen)) => {
            let Some(known) = model.get(id) else { return Vec::new() };
            let ended = seen.ended.map(i32::from);
            let possible = match known.ended {
                None => seen.revision >= known.revision,
                Some(end) => ended == Some(end) && (!known.exact || known.revision == seen.revision),
            };
            if !possible {
                return Vec::new();
            }
            changed(&|next| {
                if let Some(known) = next.get_mut(id) {
                    (known.ended, known.revision, known.exact) = (ended, seen.revision, ended.is_some());
                }
            })
        }
        (Op::Cancel(id), Answer::NotFound) => {
            if absent(id) {
                changed(&|next| drop(next.remove(id)))
            } else {
                Vec::new()
            }
        }
        (Op::Cancel(id), Answer::Ended(state)) => {
            let state = i32::from(*state);
            let possible = model.get(id).is_some_and(|known| known.ended.is_none_or(|end| end == state));
            if !possible {
                return Vec::new();
            }
            changed(&|next| next.get_mut(id).into_iter().for_each(|known| known.ended = Some(state)))
        }
        (Op::Cancel(id), Answer::Unknown) => changed(&|next| {
            if let Some(known) = next.get_mut(id) {
                known.ended.get_or_insert(TaskState::Cancelled.into());
            }
        }),
        // A read without a response changes nothing.
        (Op::Get(_) | Op::List, Answer::Unknown) => vec![model.clone()],
        _ => Vec::new(),
    }
}

struct Search<'a> {
    calls: &'a [Call],
    fleeting: &'a BTreeSet<String>,
    /// No task of the group is ever forgotten.
    is_lasting: bool,
    /// Fingerprints of the visited states, because each state takes kilobytes.
    visited: HashSet<u128>,
    /// The length of the longest explanation so far, and the call that it can't include.
    best: (usize, usize),
}

/// A state of the search: the calls that are explained, and the resulting model.
struct Place {
    done: Vec<u64>,
    count: usize,
    first_open: usize,
    model: Model,
}

impl Place {
    /// Returns the state after one more call.
    fn after(&self, n: usize, calls: usize, model: Model) -> Self {
        let mut done = self.done.clone();
        done[n / 64] |= 1 << (n % 64);
        let first_open = (self.first_open..).find(|n| *n >= calls || !has(&done, *n)).unwrap_or(self.first_open);
        Self { done, count: self.count + 1, first_open, model }
    }

    fn fingerprint(&self) -> u128 {
        let of = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            (salt, &self.done, &self.model).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        of(0) << 64 | of(1)
    }
}

fn has(done: &[u64], n: usize) -> bool {
    done[n / 64] >> (n % 64) & 1 == 1
}

impl Search<'_> {
    /// Returns the states that follow; `None` if every call with a response is explained.
    fn next(&mut self, place: &Place) -> Option<Vec<Place>> {
        let open = (place.first_open..self.calls.len()).filter(|n| !has(&place.done, *n));
        let first_end = open.clone().filter_map(|n| self.calls[n].ended.map(|ended| (ended, n))).min()?;
        if place.count >= self.best.0 {
            self.best = (place.count, first_end.1);
        }
        let mut places = Vec::new();
        for n in open.clone().take_while(|n| self.calls[*n].began < first_end.0) {
            let call = &self.calls[n];
            let mut models = follow(&place.model, &call.op, &call.answer, self.fleeting);
            if self.is_lasting && call.answer != Answer::Unknown && models.len() == 1 && models[0] == place.model {
                // A call that changes nothing here changes nothing later either, in any explanation, so it may as well
                // take effect here. This does not hold for tasks that are forgotten: one that exists now may be gone
                // when it is submitted again.
                places = vec![place.after(n, self.calls.len(), models.remove(0))];
                break;
            }
            if call.ended.is_none() {
                // Without taking effect, it explains as much.
                models.retain(|model| *model != place.model);
            }
            if self.hides_an_earlier_one(call, open.clone()) {
                continue;
            }
            places.extend(models.into_iter().map(|model| place.after(n, self.calls.len(), model)));
        }
        places.retain(|place| self.visited.insert(place.fingerprint()));
        Some(places)
    }

    /// Returns whether a read reports a later revision of its task than another read that is not yet explained, and
    /// then never can be.
    fn hides_an_earlier_one(&self, call: &Call, mut open: impl Iterator<Item = usize>) -> bool {
        let (Op::Get(id), Answer::Found(seen)) = (&call.op, &call.answer) else { return false };
        let is_earlier = |other: &Call| match (&other.op, &other.answer) {
            (Op::Get(other), Answer::Found(earlier)) => other == id && earlier.revision < seen.revision,
            _ => false,
        };
        !self.fleeting.contains(id) && open.any(|n| is_earlier(&self.calls[n]))
    }
}

/// Searches for an order of a group's calls that explains every response.
fn explain(calls: &[Call], fleeting: &BTreeSet<String>) -> Verdict {
    if calls.len() > MAX_CALLS {
        return Verdict::Undecided;
    }
    let mut calls: Vec<Call> = calls
        .iter()
        .filter(|call| call.answer != Answer::Unknown || !matches!(call.op, Op::Get(_) | Op::List))
        .cloned()
        .collect();
    calls.sort_by_key(|call| call.began);
    let is_lasting = !calls.iter().any(|call| call.op.task().is_some_and(|id| fleeting.contains(id)));
    let mut search = Search { calls: &calls, fleeting, is_lasting, visited: HashSet::new(), best: (0, 0) };
    let start = Place { done: vec![0; calls.len() / 64 + 1], count: 0, first_open: 0, model: Model::new() };
    let mut places = vec![start];
    while let Some(place) = places.pop() {
        match search.next(&place) {
            None => return Verdict::Linearizable,
            Some(next) => places.extend(next),
        }
        if search.visited.len() > MAX_VISITED {
            return Verdict::Undecided;
        }
    }
    let (explained, at) = search.best;
    Verdict::Not(format!(
        "{:?} can't be explained after {explained} of {} calls: {:?}",
        calls[at],
        calls.len(),
        nearby(&calls, at)
    ))
}

/// Returns the calls around one, for the message of a violation.
fn nearby(calls: &[Call], at: usize) -> &[Call] {
    &calls[at.saturating_sub(6)..(at + 3).min(calls.len())]
}

#[cfg(test)]
mod tests;
