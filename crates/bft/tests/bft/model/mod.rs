//! A model of view changes and checkpoints for four members of which one lies, small enough to be checked exhaustively.
//! Messages are never lost in it, but anyone may get any of them at any time or never; the liar has said everything that
//! it can say. [`replay`] carries out traces of the model on the code.

mod replay;

use std::collections::BTreeMap;

use stateright::{Checker, Model, Property};

/// The honest members' number, and that of all.
const N: usize = 4;
/// Sequence numbers, each with a checkpoint.
const SEQS: usize = 2;
/// Views.
const VIEWS: usize = 3;

/// What can be decided: 0 stands for nothing yet, 1 for the null request, 2 and 3 for requests.
type Value = u8;
const NULL: Value = 1;
const REQUESTS: [Value; 2] = [2, 3];

/// A prepared certificate: view and value.
type Cert = Option<(usize, Value)>;

/// A view change: the stable checkpoint, and the certificates after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Change {
    stable: usize,
    prepared: [Cert; SEQS],
}

/// The outcome of a new view: the checkpoint from which it goes on, and the values that it proposes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Begin {
    low: usize,
    values: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Member {
    view: usize,
    active: bool,
    /// The next sequence number to accept, counted from 0.
    next: usize,
    stable: usize,
    /// A stable checkpoint that it has heard of and not executed to.
    ahead: usize,
    accepted: [Cert; SEQS],
    prepared: [Cert; SEQS],
    decided: [Value; SEQS],
}

impl Member {
    fn executed(&self) -> usize {
        self.decided.iter().take_while(|value| **value != 0).count().max(self.stable)
    }
}

/// What everyone has said; the liar's part is left out, since it has said everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    members: [Member; N],
    proposed: [[Value; SEQS]; VIEWS],
    prepares: [[[Value; SEQS]; VIEWS]; N],
    commits: [[[Value; SEQS]; VIEWS]; N],
    changes: [[Option<Change>; VIEWS]; N],
    begun: [Option<Begin>; VIEWS],
}

/// A step of one honest member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The primary proposes a request.
    Propose { by: usize, value: Value },
    /// A backup accepts a proposal for its next sequence number.
    Accept { by: usize, value: Value },
    /// A member learns of enough prepares.
    Prepare { by: usize, seq: usize },
    /// A member learns of enough commits of a view.
    Decide { by: usize, seq: usize, view: usize, value: Value },
    /// A member learns of enough checkpoints.
    Stabilize { by: usize, seq: usize },
    /// A member gives up its view.
    Leave { by: usize },
    /// The primary learns of enough view changes.
    Begin { by: usize, changes: Vec<(usize, Change)> },
    /// A backup learns of the new view that was begun, or, of a lying primary, could have been.
    Enter { by: usize, view: usize, changes: Vec<(usize, Change)> },
}

/// The model, with its bounds.
#[derive(Clone, Debug)]
pub struct Pbft {
    /// Who lies.
    pub liar: usize,
    /// The size of quorums; 3 is right.
    pub quorum: usize,
    pub seqs: usize,
    pub views: usize,
}

fn primary(view: usize) -> usize {
    view % N
}

impl Pbft {
    fn honest(&self) -> impl Iterator<Item = usize> + use<> {
        let liar = self.liar;
        (0..N).filter(move |member| *member != liar)
    }

    /// Whether a prepared certificate can exist.
    fn can_be_prepared(&self, state: &State, (view, seq, value): (usize, usize, Value)) -> bool {
        let backups = self.honest().filter(|by| *by != primary(view));
        let count = backups.filter(|by| state.prepares[*by][view][seq] == value).count();
        let liar = usize::from(primary(view) != self.liar);
        let proposed = primary(view) == self.liar || state.proposed[view][seq] == value;
        proposed && count + liar >= self.quorum - 1
    }

    fn committed(&self, state: &State, (view, seq, value): (usize, usize, Value)) -> usize {
        1 + self.honest().filter(|by| state.commits[*by][view][seq] == value).count()
    }

    fn can_be_stable(&self, state: &State, seq: usize) -> bool {
        seq == 0 || 1 + self.honest().filter(|by| state.members[*by].executed() >= seq).count() >= self.quorum
    }

    /// All view changes for a view that the liar can send.
    fn lies(&self, state: &State, view: usize) -> Vec<Change> {
        let mut lies = Vec::new();
        for stable in (0..=self.seqs).filter(|stable| self.can_be_stable(state, *stable)) {
            let mut partial = vec![[None; SEQS]];
            for seq in stable..self.seqs {
                let mut options: Vec<Cert> = vec![None];
                for of in 0..view {
                    let values = (NULL..=3).filter(|value| self.can_be_prepared(state, (of, seq, *value)));
                    options.extend(values.map(|value| Some((of, value))));
                }
                let extend = |certs: [Cert; SEQS]| {
                    options.clone().into_iter().map(move |option| {
                        let mut certs = certs;
                        certs[seq] = option;
                        certs
                    })
                };
                partial = partial.into_iter().flat_map(extend).collect();
            }
            lies.extend(partial.into_iter().map(|prepared| Change { stable, prepared }));
        }
        lies
    }

    /// What follows from view changes (1999, section 4.4).
    fn select(&self, changes: &[(usize, Change)]) -> Begin {
        let low = changes.iter().map(|(_, change)| change.stable).max().unwrap_or(0);
        let best = |seq: usize| changes.iter().filter_map(|(_, change)| change.prepared[seq]).max_by_key(|cert| cert.0);
        let high = (low..self.seqs).filter(|seq| best(*seq).is_some()).max();
        let values = (low..high.map_or(low, |high| high + 1)).map(|seq| best(seq).map_or(NULL, |cert| cert.1));
        Begin { low, values: values.collect() }
    }

    /// The choices of view changes with which a view can begin, one for each outcome. `with` is in all of them.
    fn choices(&self, state: &State, view: usize, with: Option<usize>) -> Vec<Vec<(usize, Change)>> {
        let mut all: Vec<(usize, Change)> =
            self.honest().filter_map(|by| state.changes[by][view].map(|change| (by, change))).collect();
        all.extend(self.lies(state, view).into_iter().map(|lie| (self.liar, lie)));
        let mut outcomes: BTreeMap<Begin, Vec<(usize, Change)>> = BTreeMap::new();
        let mut partial: Vec<Vec<(usize, Change)>> = vec![Vec::new()];
        for one in all {
            let fits = |chosen: &&Vec<(usize, Change)>| {
                chosen.len() < self.quorum && chosen.iter().all(|(by, _)| *by != one.0)
            };
            let longer: Vec<_> = partial.iter().filter(fits).map(|chosen| [&chosen[..], &[one]].concat()).collect();
            partial.extend(longer);
        }
        for chosen in partial.into_iter().filter(|chosen| chosen.len() == self.quorum) {
            if with.is_none_or(|with| chosen.iter().any(|(by, _)| *by == with)) {
                outcomes.entry(self.select(&chosen)).or_insert(chosen);
            }
        }
        outcomes.into_values().collect()
    }

    /// Sends the commits that have become possible: in order.
    fn commit(state: &mut State, by: usize) {
        let member = state.members[by];
        for seq in (0..SEQS).filter(|_| member.active) {
            let commits = state.commits[by][member.view];
            let safe = |seq: usize| seq < member.executed() || member.decided[seq] != 0 || commits[seq] != 0;
            if let Some((view, value)) = member.prepared[seq]
                && view == member.view
                && seq >= member.stable
                && (seq == 0 || safe(seq - 1))
            {
                state.commits[by][view][seq] = value;
            }
        }
    }

    fn accept(state: &mut State, by: usize, seq: usize, value: Value) {
        let view = state.members[by].view;
        state.members[by].accepted[seq] = Some((view, value));
        state.members[by].next = seq + 1;
        if primary(view) == by {
            state.proposed[view][seq] = value;
        } else {
            state.prepares[by][view][seq] = value;
        }
    }

    fn stabilize(member: &mut Member, seq: usize) {
        member.stable = seq;
        member.next = member.next.max(member.executed());
        for old in 0..seq {
            (member.accepted[old], member.prepared[old]) = (None, None);
        }
    }

    fn catch_up(member: &mut Member) {
        if member.ahead > member.stable && member.executed() >= member.ahead {
            Self::stabilize(member, member.ahead);
        }
    }

    fn enter(&self, state: &mut State, by: usize, view: usize, begin: &Begin) {
        let member = &mut state.members[by];
        (member.view, member.active) = (view, true);
        member.ahead = member.ahead.max(begin.low);
        Self::catch_up(member);
        member.next = begin.low;
        let stable = member.stable;
        for (seq, value) in (begin.low..).zip(&begin.values) {
            if seq >= stable {
                Self::accept(state, by, seq, *value);
            }
        }
        let member = &mut state.members[by];
        member.next = member.next.max(begin.low + begin.values.len()).max(member.executed());
    }

    fn steps_of(&self, state: &State, by: usize, steps: &mut Vec<Step>) {
        let member = &state.members[by];
        let (view, next) = (member.view, member.next);
        if member.active && next < self.seqs {
            let used = |value: Value| {
                let accepted = member.accepted.iter().flatten().any(|cert| *cert == (view, value));
                accepted || member.decided.contains(&value)
            };
            if primary(view) == by {
                steps.extend(
                    REQUESTS.into_iter().filter(|value| !used(*value)).map(|value| Step::Propose { by, value }),
                );
            } else {
                let lying = primary(view) == self.liar;
                let there = REQUESTS.into_iter().filter(|value| lying || state.proposed[view][next] == *value);
                steps.extend(there.map(|value| Step::Accept { by, value }));
            }
        }
        for seq in member.stable..self.seqs {
            if let Some((of, value)) = member.accepted[seq]
                && member.active
                && of == view
                && member.prepared[seq].is_none_or(|cert| cert.0 != view)
                && self.can_be_prepared(state, (view, seq, value))
            {
                steps.push(Step::Prepare { by, seq });
            }
            self.decisions_of(state, by, seq, steps);
            if member.executed() > seq && self.can_be_stable(state, seq + 1) {
                steps.push(Step::Stabilize { by, seq: seq + 1 });
            }
        }
        self.view_changes_of(state, by, steps);
    }

    fn decisions_of(&self, state: &State, by: usize, seq: usize, steps: &mut Vec<Step>) {
        if state.members[by].decided[seq] != 0 {
            return;
        }
        for view in 0..self.views {
            // Of each member the latest commit counts.
            let later = state.commits[by][view + 1..].iter().any(|of| of[seq] != 0);
            for value in NULL..=3 {
                let own = later && state.commits[by][view][seq] == value;
                if self.committed(state, (view, seq, value)) - usize::from(own) >= self.quorum {
                    steps.push(Step::Decide { by, seq, view, value });
                }
            }
        }
    }

    fn view_changes_of(&self, state: &State, by: usize, steps: &mut Vec<Step>) {
        let member = &state.members[by];
        if member.view + 1 < self.views {
            steps.push(Step::Leave { by });
        }
        if !member.active && primary(member.view) == by {
            let choices = self.choices(state, member.view, Some(by));
            steps.extend(choices.into_iter().map(|changes| Step::Begin { by, changes }));
        }
        for view in member.view.max(1)..self.views {
            if member.view == view && member.active || primary(view) == by {
                continue;
            }
            if primary(view) == self.liar {
                let choices = self.choices(state, view, None);
                steps.extend(choices.into_iter().map(|changes| Step::Enter { by, view, changes }));
            } else if state.begun[view].is_some() {
                steps.push(Step::Enter { by, view, changes: Vec::new() });
            }
        }
    }
}

impl Model for Pbft {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            members: [Member { active: true, ..Member::default() }; N],
            proposed: Default::default(),
            prepares: Default::default(),
            commits: Default::default(),
            changes: Default::default(),
            begun: Default::default(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.honest().for_each(|by| self.steps_of(state, by, steps));
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        let by = match step {
            Step::Propose { by, value } | Step::Accept { by, value } => {
                let seq = state.members[by].next;
                Self::accept(&mut state, by, seq, value);
                by
            }
            Step::Prepare { by, seq } => {
                state.members[by].prepared[seq] = state.members[by].accepted[seq];
                by
            }
            Step::Decide { by, seq, value, .. } => {
                let member = &mut state.members[by];
                member.decided[seq] = value;
                member.next = member.next.max(member.executed());
                Self::catch_up(member);
                by
            }
            Step::Stabilize { by, seq } => {
                Self::stabilize(&mut state.members[by], seq);
                by
            }
            Step::Leave { by } => {
                let member = &mut state.members[by];
                (member.view, member.active) = (member.view + 1, false);
                let change = Change { stable: member.stable, prepared: member.prepared };
                state.changes[by][member.view] = Some(change);
                by
            }
            Step::Begin { by, changes } => {
                let (view, begin) = (state.members[by].view, self.select(&changes));
                self.enter(&mut state, by, view, &begin);
                state.begun[view] = Some(begin);
                by
            }
            Step::Enter { by, view, changes } => {
                let begin = state.begun[view].clone().unwrap_or_else(|| self.select(&changes));
                self.enter(&mut state, by, view, &begin);
                by
            }
        };
        Self::commit(&mut state, by);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no two decisions can be proven for a sequence number", |model: &Self, state: &State| {
                (0..model.seqs).all(|seq| {
                    let provable = |value: &Value| {
                        let in_view = |view| model.committed(state, (view, seq, *value)) >= model.quorum;
                        (0..model.views).any(in_view)
                    };
                    (NULL..=3).filter(provable).count() <= 1
                })
            }),
            Property::always("honest members decide the same", |model: &Self, state: &State| {
                (0..model.seqs).all(|seq| {
                    let mut decided: Vec<Value> = model.honest().map(|by| state.members[by].decided[seq]).collect();
                    decided.retain(|value| *value != 0);
                    decided.windows(2).all(|two| two[0] == two[1])
                })
            }),
            Property::sometimes("a later view decides", |model: &Self, state: &State| {
                let all = model.honest().all(|by| state.members[by].view > 0 && state.members[by].executed() > 0);
                all && model.honest().any(|by| state.commits[by][1][0] != 0)
            }),
            Property::sometimes("a view begins after a checkpoint", |_: &Self, state: &State| {
                state.begun.iter().flatten().any(|begin| begin.low > 0)
            }),
        ]
    }
}

/// Checks a model in breadth, up to a number of states.
fn check(model: Pbft, states: usize) -> impl Checker<Pbft> {
    model.checker().target_state_count(states).spawn_bfs().join()
}

/// How many states are generated for each model, unless the environment variable `ROBEING_BFT_STATES` says otherwise.
/// With 4,000,000, those with one sequence number and two views are checked completely.
const STATES: usize = 120_000;

fn states() -> usize {
    std::env::var("ROBEING_BFT_STATES").ok().and_then(|states| states.parse().ok()).unwrap_or(STATES)
}

fn assert_safe(model: Pbft, limit: usize) {
    let (liar, seqs, views) = (model.liar, model.seqs, model.views);
    let checker = check(model, limit);
    let done = if checker.state_count() < limit { "all" } else { "the first" };
    println!("liar {liar}, {seqs} numbers, {views} views: {done} {} states", checker.unique_state_count());
    for property in ["no two decisions can be proven for a sequence number", "honest members decide the same"] {
        assert!(checker.discovery(property).is_none(), "{:?}", checker.discovery(property));
    }
}

#[test]
fn the_model_of_a_view_change_between_honest_primaries_is_safe_in_all_states() {
    assert_safe(Pbft { liar: 2, quorum: 3, seqs: 1, views: 2 }, usize::MAX);
}

#[test]
fn the_model_of_view_changes_and_checkpoints_is_safe_as_far_as_it_is_checked() {
    for (liar, seqs, views) in [(0, 1, 2), (1, 1, 2), (1, 1, 3), (0, 2, 2), (1, 2, 2)] {
        assert_safe(Pbft { liar, quorum: 3, seqs, views }, states());
    }
}

#[test]
fn the_model_with_a_quorum_of_one_less_is_not_safe() {
    let checker = check(Pbft { liar: 0, quorum: 2, seqs: 1, views: 2 }, states());
    assert!(checker.discovery("honest members decide the same").is_some());
}
