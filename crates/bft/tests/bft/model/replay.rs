//! Carries out traces of the model on the code. After each step the replica must be where the model's member is, and
//! must have sent what the model says, and nothing else.

use robeing_bft::{
    Verified,
    certificate::{Checkpoint, Decision, Endorsement, Prepared, Proposal, Seq, Stable, View},
    crypto::{Context, Digest},
    epoch::ReplicaId,
    message::{Batch, Body, CheckpointVote, Message, NewView, Operation, PrePrepare, Request, ViewChange, Vote},
    new_view::select,
    replica::{Event, Input, Outputs, Replica},
};
use stateright::{Checker, Model, Property};

use super::{Change, N, NULL, Pbft, SEQS, State, Step, Value, primary, states};
use crate::{
    fixture::{Group, Random, parameters},
    ledger::Ledger,
};

/// The code that follows a trace.
struct Real {
    model: Pbft,
    group: Group,
    replicas: Vec<Replica<Ledger>>,
    /// The state's digest after each sequence number, as honest members report it.
    digests: [Option<Digest>; SEQS],
    /// The decisions' certificates are all verified.
    decided: Vec<Vec<Decision>>,
    begun: Vec<NewView>,
}

fn id(member: usize) -> ReplicaId {
    ReplicaId(u16::try_from(member).unwrap())
}

impl Real {
    fn new(model: &Pbft) -> Self {
        let (checkpoint_interval, window) = (1, SEQS as u64);
        let group =
            Group::with(N as u64, robeing_bft::epoch::Parameters { checkpoint_interval, window, ..parameters() });
        let start = |member: usize| {
            let records = group.enrolled(member);
            let signer = &group.members[member];
            Replica::start(&group.epoch, Ledger::default(), &group.initial, records, signer).unwrap().0
        };
        let replicas = (0..N).map(start).collect();
        let (digests, decided) = ([None; SEQS], vec![Vec::new(); N]);
        Self { model: model.clone(), group, replicas, digests, decided, begun: Vec::new() }
    }

    fn request(&self, value: Value) -> Request {
        let operation = Operation::Call(vec![value].into());
        Request::sign(&self.group.epoch, value.into(), operation, &self.group.clients[0])
    }

    fn batch(&self, value: Value) -> Batch {
        if value == NULL { Batch::null() } else { Batch::new(vec![self.request(value)]) }
    }

    fn proposal(&self, (view, seq, value): (usize, usize, Value)) -> Proposal {
        let batch = self.batch(value);
        Proposal { view: View(view as u64), seq: Seq(seq as u64 + 1), kind: batch.kind(), digest: batch.digest() }
    }

    fn vote(&self, context: Context, by: usize, of: (usize, usize, Value)) -> Vote {
        Vote::sign(context, self.group.epoch.domain(), id(by), self.proposal(of), &self.group.members[by])
    }

    fn endorse(&self, context: Context, by: usize, of: (usize, usize, Value)) -> Endorsement {
        Endorsement { replica: id(by), signature: self.vote(context, by, of).signature }
    }

    /// Who can have prepared, the liar included.
    fn preparers(&self, state: &State, (view, seq, value): (usize, usize, Value)) -> Vec<usize> {
        let liar = self.model.liar;
        let said = |by: &usize| *by == liar || state.prepares[*by][view][seq] == value;
        (0..N).filter(|by| *by != primary(view)).filter(said).collect()
    }

    fn certificate(&self, state: &State, of: (usize, usize, Value)) -> Prepared {
        let by = primary(of.0);
        let proposal = self.proposal(of);
        let primary = Context::PrePrepare.sign(self.group.epoch.domain(), &proposal, &self.group.members[by]);
        let preparers = self.preparers(state, of).into_iter().take(self.model.quorum - 1);
        let prepares = preparers.map(|by| self.endorse(Context::Prepare, by, of)).collect();
        Prepared { proposal, primary, prepares }
    }

    fn checkpoint_vote(&self, by: usize, seq: usize) -> CheckpointVote {
        let digest = self.digests[seq - 1].expect("an honest member was there");
        let checkpoint = Checkpoint { seq: Seq(seq as u64), digest };
        let signature = Context::Checkpoint.sign(self.group.epoch.domain(), &checkpoint, &self.group.members[by]);
        CheckpointVote { replica: id(by), checkpoint, signature }
    }

    fn checkpointers(&self, state: &State, seq: usize) -> Vec<usize> {
        (0..N).filter(|by| *by == self.model.liar || state.members[*by].executed() >= seq).collect()
    }

    fn stable(&self, state: &State, seq: usize) -> Option<Stable> {
        let voters: Vec<usize> = self.checkpointers(state, seq).into_iter().take(self.model.quorum).collect();
        let votes: Vec<CheckpointVote> =
            (seq > 0).then(|| voters.into_iter().map(|by| self.checkpoint_vote(by, seq)))?.collect();
        let endorse = |vote: &CheckpointVote| Endorsement { replica: vote.replica, signature: vote.signature };
        Some(Stable { checkpoint: votes[0].checkpoint, votes: votes.iter().map(endorse).collect() })
    }

    fn view_change(&self, state: &State, view: usize, (by, change): &(usize, Change)) -> ViewChange {
        let certs = change.prepared.iter().enumerate();
        let certs = certs.filter_map(|(seq, cert)| cert.map(|(of, value)| self.certificate(state, (of, seq, value))));
        let (domain, signer) = (self.group.epoch.domain(), &self.group.members[*by]);
        let at = (id(*by), View(view as u64));
        ViewChange::sign(domain, at, self.stable(state, change.stable), certs.collect(), signer)
    }

    fn give(&mut self, to: usize, message: Message) -> Outputs {
        let verified =
            Verified::check(message, &self.group.epoch, &self.group.verifier).expect("the model's messages are valid");
        self.step(to, Input::Message(Box::new(verified)))
    }

    fn step(&mut self, to: usize, input: Input) -> Outputs {
        let outputs = self.replicas[to].step(input, &self.group.members[to]);
        for decision in &outputs.decided {
            assert_eq!(decision.verify(&self.group.epoch, &self.group.verifier), Ok(()));
        }
        self.decided[to].extend(outputs.decided.iter().cloned());
        for (_, message) in &outputs.messages {
            match message {
                Message::Checkpoint(vote) => {
                    self.digests[vote.checkpoint.seq.0 as usize - 1] = Some(vote.checkpoint.digest);
                }
                Message::NewView(message) => self.begun.push((**message).clone()),
                _ => {}
            }
        }
        assert!(!outputs.events.iter().any(|event| matches!(event, Event::Halted(_))), "{:?}", outputs.events);
        outputs
    }

    /// The messages that make a step of the model happen.
    fn messages(&mut self, before: &State, step: &Step) -> (usize, Vec<Message>) {
        match step {
            Step::Propose { by, value } => (*by, vec![Message::Request(self.request(*value))]),
            Step::Accept { by, value } => {
                let Proposal { view, .. } = self.proposal((before.members[*by].view, 0, *value));
                let seq = Seq(before.members[*by].next as u64 + 1);
                let signer = &self.group.members[primary(view.0 as usize)];
                let message = PrePrepare::sign(self.group.epoch.domain(), (view, seq), self.batch(*value), signer);
                (*by, vec![Message::PrePrepare(message)])
            }
            Step::Prepare { by, seq } => {
                let (view, value) = before.members[*by].accepted[*seq].unwrap();
                let of = (view, *seq, value);
                let others = self.preparers(before, of).into_iter().filter(|other| other != by);
                (*by, others.map(|other| Message::Prepare(self.vote(Context::Prepare, other, of))).collect())
            }
            Step::Decide { by, seq, view, value } => {
                let of = (*view, *seq, *value);
                let said = |other: &usize| {
                    other != by && (*other == self.model.liar || before.commits[*other][*view][*seq] == *value)
                };
                let votes = (0..N).filter(said).map(|other| Message::Commit(self.vote(Context::Commit, other, of)));
                let body = Body { seq: Seq(*seq as u64 + 1), batch: self.batch(*value) };
                (*by, votes.chain([Message::Body(body)]).collect())
            }
            Step::Stabilize { by, seq } => {
                let others = self.checkpointers(before, *seq).into_iter().filter(|other| other != by);
                (*by, others.map(|other| Message::Checkpoint(self.checkpoint_vote(other, *seq))).collect())
            }
            Step::Leave { by } => (*by, Vec::new()),
            Step::Begin { by, changes } => {
                let view = before.members[*by].view;
                let others = changes.iter().filter(|(other, _)| other != by);
                let message =
                    |one: &(usize, Change)| Message::ViewChange(Box::new(self.view_change(before, view, one)));
                (*by, others.map(message).collect())
            }
            Step::Enter { by, view, changes } => {
                (*by, vec![Message::NewView(Box::new(self.new_view(before, *view, changes)))])
            }
        }
    }

    fn new_view(&self, before: &State, view: usize, changes: &[(usize, Change)]) -> NewView {
        if primary(view) != self.model.liar {
            return self.begun.iter().find(|begun| begun.view.0 as usize == view).cloned().unwrap();
        }
        let mut changes: Vec<ViewChange> = changes.iter().map(|one| self.view_change(before, view, one)).collect();
        changes.sort_by_key(|one| one.replica);
        let view = View(view as u64);
        let proposals = select(&self.group.epoch, view, &changes).proposals;
        let signer = &self.group.members[self.model.liar];
        NewView::sign(self.group.epoch.domain(), view, changes, proposals, signer)
    }

    /// Carries out a step, and compares.
    fn follow(&mut self, before: &State, step: &Step, after: &State) {
        let (by, messages) = self.messages(before, step);
        let mut outputs: Vec<Outputs> = Vec::new();
        if let Step::Leave { .. } = step {
            let view = View(before.members[by].view as u64);
            outputs.push(self.step(by, Input::Suspect(view)));
        }
        for message in messages {
            outputs.push(self.give(by, message));
        }
        let (replica, member) = (&self.replicas[by], &after.members[by]);
        assert_eq!(replica.view(), (View(member.view as u64), member.active), "{step:?}");
        assert_eq!(replica.executed(), Seq(member.executed() as u64), "{step:?} {member:?}");
        assert_eq!(replica.stable(), Seq(member.stable as u64), "{step:?}");
        self.compare_votes(by, &outputs, before, after, step);
    }

    fn compare_votes(&self, by: usize, outputs: &[Outputs], before: &State, after: &State, step: &Step) {
        let (mut prepares, mut commits) = (Vec::new(), Vec::new());
        for (_, message) in outputs.iter().flat_map(|outputs| &outputs.messages) {
            match message {
                Message::Prepare(vote) => prepares.push(vote.proposal),
                Message::Commit(vote) => commits.push(vote.proposal),
                _ => {}
            }
        }
        let new = |votes: &[[[Value; SEQS]; super::VIEWS]; N], old: &[[[Value; SEQS]; super::VIEWS]; N]| {
            let all = (0..super::VIEWS).flat_map(|view| (0..SEQS).map(move |seq| (view, seq)));
            let new = all.filter(|(view, seq)| votes[by][*view][*seq] != old[by][*view][*seq]);
            new.map(|(view, seq)| self.proposal((view, seq, votes[by][view][seq]))).collect::<Vec<_>>()
        };
        prepares.sort();
        commits.sort();
        assert_eq!(prepares, new(&after.prepares, &before.prepares), "prepares of {step:?}");
        assert_eq!(commits, new(&after.commits, &before.commits), "commits of {step:?}");
    }
}

fn replay(model: &Pbft, steps: impl IntoIterator<Item = Step>) {
    let mut real = Real::new(model);
    let mut state = model.init_states().remove(0);
    for step in steps {
        let after = model.next_state(&state, step.clone()).unwrap();
        real.follow(&state, &step, &after);
        state = after;
    }
}

/// The number of random traces for each model.
const TRACES: u64 = 200;
/// The number of steps of a trace that the checker finds, at most.
const DEPTH: usize = 40;
/// The number of steps of a random trace, at most.
const STEPS: usize = 40;

#[test]
fn the_code_follows_random_traces_of_the_model() {
    for (liar, seqs, views) in [(0, 2, 3), (1, 2, 3), (2, 2, 3), (3, 1, 3)] {
        let model = Pbft { liar, quorum: 3, seqs, views };
        for seed in 0..TRACES {
            let mut random = Random(seed);
            let mut state = model.init_states().remove(0);
            let mut trace = Vec::new();
            while trace.len() < STEPS {
                let mut steps = Vec::new();
                model.actions(&state, &mut steps);
                // Views are left rarely, or nothing else would happen.
                if random.percent(85) && steps.iter().any(|step| !matches!(step, Step::Leave { .. })) {
                    steps.retain(|step| !matches!(step, Step::Leave { .. }));
                }
                if steps.is_empty() {
                    break;
                }
                let step = steps.swap_remove(random.below(steps.len() as u64) as usize);
                state = model.next_state(&state, step.clone()).unwrap();
                trace.push(step);
            }
            replay(&model, trace);
        }
    }
}

#[test]
fn the_code_follows_the_traces_that_the_checker_finds() {
    for (liar, seqs, views) in [(0, 1, 2), (1, 1, 3), (1, 2, 2)] {
        let model = Pbft { liar, quorum: 3, seqs, views };
        // In depth, because what is wanted takes many steps.
        let checker = model.clone().checker().target_max_depth(DEPTH).target_state_count(states()).spawn_dfs().join();
        let discoveries = checker.discoveries();
        let wanted: Vec<Property<Pbft>> = model.properties();
        assert!(wanted.len() > discoveries.len(), "a property that must always hold was violated");
        assert!(!discoveries.is_empty());
        for path in discoveries.into_values() {
            replay(&model, path.into_actions());
        }
    }
}
