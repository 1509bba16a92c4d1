//! Tasks that wait for ballots: when each started and how it ended, and the checks that none started before its ballot
//! had approved it, and that it failed if the ballot never did.

use std::collections::BTreeSet;

use robeing_proto::v1::{self, BallotState, FailureKind, TaskState, ballot::Vote};

use super::{
    ledger::{BallotLedger, Known},
    recount::Recount,
    rule::decide,
};
use crate::checks::{Check, Wrong};

/// What is known of a task that waits for a ballot.
#[derive(Default)]
pub struct Gate {
    /// The members that have begun to vote, whether their votes count or not.
    cast: BTreeSet<String>,
    /// Those of them that had when an executor first started the task.
    started: Option<BTreeSet<String>>,
    /// Whether the task has failed because it was not approved, once it has ended.
    is_refused: Option<bool>,
}

impl Gate {
    /// Records that a member begins to vote.
    pub fn casts(&mut self, member: &str) {
        self.cast.insert(member.to_owned());
    }
}

impl Known {
    /// Returns why the task must not have started with no more votes than those of these members.
    fn early(&self, id: &str, cast: &BTreeSet<String>) -> Option<String> {
        if let Some(ended) = self.ended.as_ref().filter(|ended| ended.outcome.0 != BallotState::Approved) {
            return Some(format!("task {id} was started, but its ballot is {:?}", ended.outcome.0));
        }
        let electorate = &self.fixed.as_ref()?.electorate;
        let members = electorate.iter().filter(|member| cast.contains(&member.name));
        let votes: Vec<Vote> = members
            .filter_map(|member| {
                let cast = decide(id, &member.name, 0).cast?;
                Some(Vote { member: member.name.clone(), choice: cast.choice.into(), ..Vote::default() })
            })
            .collect();
        let recount = Recount { threshold: self.draft.threshold, electorate, options: 0 };
        let is_approved = recount.decided(&votes) == Some((BallotState::Approved, 0));
        (!is_approved).then(|| format!("task {id} was started when no more than {cast:?} had voted on it"))
    }
}

impl BallotLedger {
    /// Records that a member begins to vote.
    pub fn casts(&mut self, id: &str, member: &str) {
        if let Some(known) = self.ballots.get_mut(id) {
            known.gate.casts(member);
        }
    }

    /// Records that an executor starts a task, which may wait for a ballot.
    pub fn starts(&mut self, task: &str) {
        if let Some(known) = self.ballots.get_mut(task).filter(|known| known.draft.is_of_task) {
            let gate = &mut known.gate;
            gate.started.get_or_insert_with(|| gate.cast.clone());
        }
    }

    /// Records how a task has ended that waited for a ballot, after a client was told that the ballot is closed.
    ///
    /// # Errors
    /// If that does not follow from the ballot.
    pub fn task_ends(&mut self, task: &v1::Task) -> Result<(), Wrong> {
        let Some(known) = self.ballots.get_mut(&task.id).filter(|known| known.draft.is_of_task) else { return Ok(()) };
        let failure = task.failure.as_ref().filter(|_| task.state() == TaskState::Failed);
        let failure = failure.filter(|failure| failure.kind() == FailureKind::NotApproved);
        known.gate.is_refused = Some(failure.is_some());
        let state = known.ended.as_ref().map(|ended| ended.outcome.0);
        let is_right = match (state, failure) {
            (Some(BallotState::Approved), None) => task.approval.as_ref().is_some_and(|approval| approval.approved),
            (Some(BallotState::Rejected), Some(failure)) => failure.message.contains("was rejected"),
            (Some(BallotState::Expired), Some(failure)) => failure.message.contains("expired"),
            _ => false,
        };
        if is_right && (failure.is_none() || task.attempts.is_empty()) {
            return Ok(());
        }
        let (end, attempts) = (task.state(), task.attempts.len());
        let what = format!("{end:?} after {attempts} attempts, with {:?} and {:?}", task.approval, task.failure);
        Err((Check::Approved, format!("the ballot of task {} is {state:?}, but the task is {what}", task.id)))
    }

    /// Returns what is wrong with when tasks started that wait for ballots.
    pub fn early_starts(&self) -> Vec<Wrong> {
        let started = self.ballots.iter().filter_map(|(id, known)| Some((id, known, known.gate.started.as_ref()?)));
        let early = started.filter_map(|(id, known, cast)| known.early(id, cast));
        early.map(|what| (Check::Approved, what)).collect()
    }

    /// Returns the number of tasks that ended and were approved, and of those that were not.
    pub fn tasks_of(&self) -> [usize; 2] {
        let ended = |is_refused| self.ballots.values().filter(|of| of.gate.is_refused == Some(is_refused)).count();
        [ended(false), ended(true)]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use robeing_platform::simulated::SeededRandom;
    use robeing_proto::v1::{Failure, TaskApproval, VoteChoice, ballot::Member};
    use robeing_settings::AgentRole;

    use super::*;
    use crate::ballots::{
        draft::{Draft, PEOPLE},
        ledger::Ended,
        recount::Threshold,
    };

    /// Returns the id of a task that two of three people approve.
    fn id() -> String {
        let says = |id: &str, person| decide(id, person, 0).cast.map(|cast| cast.choice);
        let wanted = [VoteChoice::Approve, VoteChoice::Approve, VoteChoice::Reject].map(Some);
        let is_wanted = |id: &String| PEOPLE.map(|person| says(id, person)) == wanted;
        (0..100_000).map(|n| n.to_string()).find(is_wanted).expect("they decide so about some task")
    }

    /// Returns a ledger with the ballot of a task, which is closed so.
    fn ledger(id: &str, state: Option<BallotState>) -> BallotLedger {
        let threshold = Threshold { text: "", numerator: 2, denominator: 3 };
        let draft = Draft { threshold, ..Draft::of_task(&SeededRandom::new(1), 0, AgentRole::Specialist) };
        let mut ledger = BallotLedger::default();
        ledger.asks(Duration::ZERO, id, draft);
        let known = ledger.ballots.get_mut(id).expect("it was asked for");
        let member = |name: &str| Member { name: name.to_owned(), weight: 1, ..Member::default() };
        known.fixed = Some(v1::Ballot { electorate: PEOPLE.map(member).into(), ..v1::Ballot::default() });
        known.ended = state.map(|state| Ended { outcome: (state, 0), at: String::new() });
        ledger
    }

    fn task(id: &str, state: TaskState, message: &str) -> v1::Task {
        let kind = FailureKind::NotApproved.into();
        let failure = Failure { kind, message: message.to_owned(), ..Failure::default() };
        let approved = state == TaskState::Succeeded;
        v1::Task {
            id: id.to_owned(),
            state: state.into(),
            failure: (!approved).then_some(failure),
            approval: Some(TaskApproval { ballot: id.to_owned(), approved }),
            ..v1::Task::default()
        }
    }

    #[test]
    fn a_task_starts_only_once_those_have_voted_who_can_approve_it() {
        let id = id();
        for (voted, found) in [(&PEOPLE[..1], 1), (&PEOPLE[1..], 1), (&PEOPLE[..2], 0), (&PEOPLE[..], 0)] {
            let mut ledger = ledger(&id, None);
            voted.iter().for_each(|person| ledger.casts(&id, person));
            ledger.starts(&id);
            PEOPLE.iter().for_each(|person| ledger.casts(&id, person));
            ledger.starts(&id);
            assert_eq!(ledger.early_starts().len(), found, "{voted:?}");
        }
        let mut rejected = ledger(&id, Some(BallotState::Rejected));
        assert!(rejected.early_starts().is_empty());
        PEOPLE.iter().for_each(|person| rejected.casts(&id, person));
        rejected.starts(&id);
        assert_eq!(rejected.early_starts().len(), 1);
    }

    #[test]
    fn a_task_ends_as_its_ballot_does() {
        use BallotState::{Approved, Expired, Rejected};
        let id = id();
        let ended = |state, task: &v1::Task| {
            let mut ledger = ledger(&id, state);
            let is_right = ledger.task_ends(task).is_ok();
            assert_eq!(ledger.tasks_of().iter().sum::<usize>(), 1);
            is_right
        };
        let done = task(&id, TaskState::Succeeded, "");
        let [rejected, expired] = ["was rejected", "expired"].map(|why| task(&id, TaskState::Failed, why));
        assert!(ended(Some(Approved), &done) && ended(Some(Rejected), &rejected) && ended(Some(Expired), &expired));
        assert!(!ended(None, &done) && !ended(Some(Rejected), &done) && !ended(Some(Expired), &done));
        assert!(!ended(Some(Approved), &rejected) && !ended(Some(Rejected), &expired));
        let ran = v1::Task { attempts: vec![v1::Attempt::default()], ..rejected };
        assert!(!ended(Some(Rejected), &ran));
        let unapproved = v1::Task { approval: None, ..done };
        assert!(!ended(Some(Approved), &unapproved));
    }
}
