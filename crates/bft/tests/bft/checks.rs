//! What must hold in every run.

use std::collections::{BTreeMap, BTreeSet};

use robeing_bft::{
    certificate::{Decision, Kind, Proposal, Seq},
    crypto::Digest,
    epoch::Membership,
    limits::{BODIES_PER_SLOT, CHECKPOINTS_PER_MEMBER},
    message::{Message, Operation, PrePrepare, Request},
    replica::{Event, Replica},
};

use crate::{fixture::Group, keys::TestVerifier, ledger::Ledger};

pub struct Checks {
    membership: Membership,
    verifier: TestVerifier,
    pub honest: Vec<bool>,
    /// What honest replicas decided at each sequence number.
    decided: BTreeMap<Seq, Digest>,
    /// The next decision of each replica.
    next: BTreeMap<usize, Seq>,
    /// The calls of honest clients.
    made: BTreeSet<Digest>,
    /// Calls of lying clients of which only one may be executed, because they have the same id.
    doubles: Vec<[Digest; 2]>,
    pub violation: Option<String>,
    /// What each honest replica said about a sequence number in a view: digests by kind of message.
    said: BTreeMap<(usize, &'static str, u64, Seq), Digest>,
    /// The commits of honest replicas.
    commits: BTreeMap<Proposal, BTreeSet<usize>>,
    /// The last decision of the epoch.
    end: Option<Seq>,
    /// How many views were left, views were begun, checkpoints became stable, states were transferred.
    pub happened: [u64; 4],
}

impl Checks {
    pub fn new(group: &Group) -> Self {
        Self {
            membership: Membership::clone(&group.epoch),
            verifier: group.verifier.clone(),
            honest: Vec::new(),
            decided: BTreeMap::new(),
            next: BTreeMap::new(),
            made: BTreeSet::new(),
            doubles: Vec::new(),
            violation: None,
            said: BTreeMap::new(),
            commits: BTreeMap::new(),
            end: None,
            happened: [0; 4],
        }
    }

    pub fn digest(request: &Request) -> Digest {
        match &request.operation {
            Operation::Call(call) => Ledger::digest(&request.client, call),
            Operation::NewEpoch(_) => Digest::default(),
        }
    }

    /// An honest client makes a request.
    pub fn made(&mut self, request: &Request) {
        self.made.insert(Self::digest(request));
    }

    /// A lying client makes two requests with the same id.
    pub fn double(&mut self, both: &[Request; 2]) {
        self.doubles.push([Self::digest(&both[0]), Self::digest(&both[1])]);
    }

    pub fn has_all(&self, calls: &[Digest]) -> bool {
        let calls: BTreeSet<&Digest> = calls.iter().collect();
        self.made.iter().all(|call| calls.contains(call))
    }

    pub fn fail(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }

    /// Checks the outputs of a step of an honest replica.
    pub fn stepped(&mut self, node: usize, replica: &Replica<Ledger>, decided: &[Decision], events: &[Event]) {
        for event in events {
            match event {
                Event::ViewChange(_) => self.happened[0] += 1,
                Event::NewView(_) => self.happened[1] += 1,
                Event::Stable(_) => self.happened[2] += 1,
                Event::Halted(fault) => self.fail(format!("replica {node} halted: {fault:?}")),
                Event::Restored { from, to } => {
                    self.happened[3] += 1;
                    let next = self.next.entry(node).or_insert(Seq(1));
                    if *from > *next || to < from {
                        self.violation.get_or_insert(format!("replica {node} skipped from {from:?} at {next:?}"));
                    }
                    // Decisions of the same step may come before it or after it.
                    *next = to.next();
                }
                Event::Refused { .. } => {}
            }
        }
        decided.iter().for_each(|decision| self.decided(node, decision));
        self.bounded(node, replica);
        if !decided.is_empty() {
            let calls = &replica.application().calls;
            if calls.iter().collect::<BTreeSet<_>>().len() != calls.len() {
                self.fail(format!("replica {node} executed a request twice"));
            }
            if self.doubles.iter().any(|both| both.iter().all(|call| calls.contains(call))) {
                self.fail(format!("replica {node} executed two requests with the same id"));
            }
        }
    }

    /// Checks a message that an honest replica sends: none contradicts an earlier one, also after restarts.
    pub fn sends(&mut self, node: usize, message: &Message) {
        let (kind, view, seq, digest) = match message {
            Message::PrePrepare(PrePrepare { proposal, .. }) => {
                ("pre-prepare", proposal.view.0, proposal.seq, proposal.digest)
            }
            Message::Prepare(vote) => ("prepare", vote.proposal.view.0, vote.proposal.seq, vote.proposal.digest),
            Message::Commit(vote) => {
                self.commits.entry(vote.proposal).or_default().insert(node);
                ("commit", vote.proposal.view.0, vote.proposal.seq, vote.proposal.digest)
            }
            Message::Checkpoint(vote) => ("checkpoint", 0, vote.checkpoint.seq, vote.checkpoint.digest),
            _ => return,
        };
        let before = *self.said.entry((node, kind, view, seq)).or_insert(digest);
        if before != digest {
            self.fail(format!("replica {node} sent two {kind}s for {seq:?} in view {view}"));
        }
    }

    /// Checks that nothing could be decided after the end of the epoch, not even unseen.
    pub fn nothing_after_the_end(&mut self, faulty: usize, quorum: usize) {
        let Some(end) = self.end else { return };
        let after = |(proposal, by): &(&Proposal, &BTreeSet<usize>)| proposal.seq > end && by.len() + faulty >= quorum;
        if let Some((proposal, _)) = self.commits.iter().find(after) {
            self.violation.get_or_insert(format!("{proposal:?} could be decided after the end at {end:?}"));
        }
    }

    fn decided(&mut self, node: usize, decision: &Decision) {
        let seq = decision.seq();
        if let Err(error) = decision.verify(&self.membership, &self.verifier) {
            self.fail(format!("the certificate of {seq:?} at replica {node} does not verify: {error}"));
        }
        if decision.certificate.proposal.kind == Kind::Epoch {
            self.end = Some(seq);
        }
        let digest = decision.batch.digest();
        let agreed = *self.decided.entry(seq).or_insert(digest);
        if agreed != digest {
            self.fail(format!("agreement: replica {node} decided {digest:?} at {seq:?}, another one {agreed:?}"));
        }
        // A replica that restarts may decide again what it had not synced.
        let next = *self.next.entry(node).or_insert(Seq(1));
        if seq > next {
            self.fail(format!("replica {node} decided {seq:?} before {next:?}"));
        }
        self.next.insert(node, next.max(seq.next()));
    }

    fn bounded(&mut self, node: usize, replica: &Replica<Ledger>) {
        let [log, bodies, view_changes, votes, states] = replica.kept();
        let parameters = self.membership.parameters;
        let (window, members) = (parameters.window as usize, self.membership.members.len());
        let within = log <= window
            && bodies <= window * (BODIES_PER_SLOT + 1)
            && view_changes <= members
            && votes <= members * CHECKPOINTS_PER_MEMBER
            && states <= window / parameters.checkpoint_interval as usize + 1;
        if !within {
            self.fail(format!("replica {node} keeps too much: {:?}", replica.kept()));
        }
    }
}
