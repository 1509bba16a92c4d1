//! The ballots that tasks wait for. Each is opened by the command that accepts its task; here its members are found.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use robeing_fleet::{OpenBallot, SubmitTask, TaskId, limits::LEAST_BALLOT_BYTES};
use robeing_platform::compute;
use robeing_policy::ApprovalSpec;
use robeing_proto::v1;
use robeing_votes::hex;

use super::{
    BallotError, Ballots,
    electorate::{Addressed, Member},
    opening::Draft,
};
use crate::api::convert::{self, BadField};

/// The field of a submission that its approval is in.
const FIELD: &str = "requires_approval";

impl Draft {
    /// Checks the approval that a task asks for. Its question is to be completed by [`asked_about`](Self::asked_about).
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn of_task(task: &SubmitTask, asked: v1::RequiredApproval) -> Result<Self, BadField> {
        let v1::RequiredApproval { electorate, threshold, deadline, question } = asked;
        let (id, options) = (task.id.to_string(), Vec::new());
        // The longest that it gets: all digests have the same length.
        let whole = question_about(task, &[0; 32], &question);
        let mode = v1::BallotMode::Majority.into();
        let request = v1::OpenBallotRequest { id, question: whole, options, electorate, threshold, deadline, mode };
        let draft = Self::check(request, || task.id.0).map_err(|problem| convert::bad(FIELD, problem))?;
        Ok(Self { question, ..draft })
    }

    /// Returns the draft with a question that names the task as it is proposed, with what policies have left of its input:
    /// whoever votes or verifies the ballot later knows what was approved.
    #[must_use]
    pub fn asked_about(self, task: &SubmitTask) -> Self {
        let mut input = [0; 32];
        match &task.input_ref {
            // The agent that fetches it checks that it has this digest.
            Some(stored) => input = stored.sha256,
            None => input.copy_from_slice(compute(|| digest(&SHA256, &task.input)).as_ref()),
        }
        Self { question: question_about(task, &input, &self.question), ..self }
    }

    /// Checks the approval that a policy requires of a task.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn of_policy(task: &SubmitTask, by: &ApprovalSpec, reason: &str) -> Result<Self, BadField> {
        let electorate: Vec<_> = by.electorate.iter().map(|text| elector(text)).collect::<Result<_, _>>()?;
        let deadline = by.deadline_seconds.map(|seconds| prost_types::Duration { seconds: seconds.into(), nanos: 0 });
        let threshold = by.threshold.clone().unwrap_or_default();
        Self::of_task(task, v1::RequiredApproval { electorate, threshold, deadline, question: reason.to_owned() })
    }
}

/// Returns the question of a task's ballot, with what the submitter or a policy adds.
fn question_about(task: &SubmitTask, input: &[u8; 32], more: &str) -> String {
    let (space, SubmitTask { id, kind, .. }) = (if more.is_empty() { "" } else { " " }, task);
    format!("May task {id} of the kind {kind:?} run with the input of SHA-256 {}?{space}{more}", hex(input))
}

/// Reads `ADDRESS` or `ADDRESS=WEIGHT`.
fn elector(text: &str) -> Result<v1::ElectorAddress, BadField> {
    let (address, weight) = match text.rsplit_once('=') {
        None => (text, 1),
        Some((address, weight)) => match weight.parse() {
            Ok(weight) if weight > 0 => (address, weight),
            _ => return Err(convert::bad(FIELD, format!("the weight in {text:?} is no number from 1"))),
        },
    };
    Ok(v1::ElectorAddress { address: address.to_owned(), weight })
}

/// Checks who approves by a policy, as far as it can be without a task and without the fleet's state.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_approval(by: &ApprovalSpec) -> Result<(), BadField> {
    let task = SubmitTask::new(TaskId(0), "any", bytes::Bytes::new());
    Draft::of_policy(&task, by, "").map(|_| ())
}

impl Ballots {
    /// Returns the ballots that these tasks of `opener` wait for, or why they can't be opened, by the same numbers.
    pub async fn approvals(
        &self,
        opener: &str,
        drafts: BTreeMap<usize, Draft>,
    ) -> BTreeMap<usize, Result<OpenBallot, BallotError>> {
        if drafts.is_empty() {
            return BTreeMap::new();
        }
        // An agent may have joined a moment ago, which may not be applied here yet.
        if let Err(error) = self.catch_up().await {
            return drafts.into_keys().map(|n| (n, Err(error.clone()))).collect();
        }
        let (mut found, mut resolving) = (BTreeMap::new(), Resolving::default());
        for (n, draft) in drafts {
            // The semaphore is never closed.
            let _room = self.opening.acquire().await;
            let ballot = self.resolved(opener, &draft, &mut resolving).await;
            ballot.iter().for_each(|ballot| resolving.take(ballot));
            found.insert(n, ballot);
        }
        found
    }

    /// Returns the ballot of a draft, for which there is room beside those that are resolved. One that is certain to be
    /// refused, because those before it take the room that is left, costs no search for its members, and takes no memory.
    pub(super) async fn resolved(
        &self,
        opener: &str,
        draft: &Draft,
        resolving: &mut Resolving,
    ) -> Result<OpenBallot, BallotError> {
        self.check_room(opener, resolving, LEAST_BALLOT_BYTES)?;
        let asked = Addressed::digest(&draft.electorate);
        let members = match resolving.members.get(&asked) {
            Some(members) => members.clone(),
            None => {
                let members = self.electors(draft.id, &draft.electorate).await?;
                resolving.members.insert(asked, members.clone());
                members
            }
        };
        let ballot = draft.opened(&self.fleet, self.defaults, opener, members);
        self.check_room(opener, resolving, ballot.counted_bytes())?;
        Ok(ballot)
    }

    /// Refuses a ballot that counts for so many bytes if there is no room for it beside those that are resolved.
    fn check_room(&self, opener: &str, resolving: &Resolving, bytes: u64) -> Result<(), BallotError> {
        let (more, bytes) = (resolving.ballots + 1, resolving.bytes.saturating_add(bytes));
        self.state.look(|fleet| fleet.check_room_for_ballots(opener, more, bytes)).map_err(BallotError::Refused)
    }
}

/// What was found of the ballots of one call.
#[derive(Default)]
pub(super) struct Resolving {
    /// How many ballots the call opens, and the bytes that they count for.
    ballots: usize,
    bytes: u64,
    /// The members of electorates, by the digests of their addresses: tasks that are submitted together, and ballots that
    /// are opened together, mostly ask the same members.
    members: BTreeMap<[u8; 32], Vec<Member>>,
    /// Whether what is applied here is no older than the call.
    pub(super) is_newest: bool,
}

impl Resolving {
    /// Takes the room of a ballot that is proposed.
    pub(super) fn take(&mut self, ballot: &OpenBallot) {
        self.ballots += 1;
        self.bytes = self.bytes.saturating_add(ballot.counted_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::{BallotId, limits::MAX_QUESTION_BYTES};

    use super::*;

    fn task() -> SubmitTask {
        SubmitTask::new(TaskId(7), "deploy", Bytes::new())
    }

    fn by(electorate: &[&str]) -> ApprovalSpec {
        let electorate = electorate.iter().map(|&address| address.to_owned()).collect();
        ApprovalSpec { electorate, threshold: None, deadline_seconds: None }
    }

    #[test]
    fn the_ballot_of_a_task_has_its_id_and_asks_whether_it_may_run() {
        let electorate = vec![v1::ElectorAddress { address: "client:ann".into(), weight: 0 }];
        let asked = v1::RequiredApproval { electorate, ..v1::RequiredApproval::default() };
        let draft = Draft::of_task(&task(), asked.clone()).expect("it is right");
        assert_eq!((draft.id, draft.threshold, draft.ttl), (BallotId(7), None, None));
        // The digest of nothing.
        let input = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let sentence = format!("May task {} of the kind \"deploy\" run with the input of SHA-256 {input}?", TaskId(7));
        assert_eq!(draft.asked_about(&task()).question, sentence);
        let also = v1::RequiredApproval { question: "It is Friday.".into(), ..asked.clone() };
        let also = Draft::of_task(&task(), also).expect("it is right");
        let other = SubmitTask { input: Bytes::from_static(b"x"), ..task() };
        assert_ne!(also.clone().asked_about(&other).question, also.clone().asked_about(&task()).question);
        assert_eq!(also.asked_about(&task()).question, format!("{sentence} It is Friday."));
        let most = |bytes| v1::RequiredApproval { question: "q".repeat(bytes), ..asked.clone() };
        let room = MAX_QUESTION_BYTES - sentence.len() - 1;
        assert!(Draft::of_task(&task(), most(room)).is_ok() && Draft::of_task(&task(), most(room + 1)).is_err());
        let nobody = v1::RequiredApproval { electorate: Vec::new(), ..asked };
        let problem = Draft::of_task(&task(), nobody).expect_err("nobody approves").to_string();
        assert!(problem.starts_with("requires_approval: electorate: "), "{problem}");
    }

    #[test]
    fn who_approves_by_a_policy_may_have_weights() {
        let spec =
            ApprovalSpec { deadline_seconds: Some(60), threshold: Some("1/2".into()), ..by(&["a", "client:b=3"]) };
        let draft = Draft::of_policy(&task(), &spec, "it is large").expect("it is right");
        assert_eq!((draft.electorate.len(), draft.ttl), (2, Some(60_000)));
        let question = draft.asked_about(&task()).question;
        assert!(question.starts_with("May task ") && question.ends_with("? it is large"), "{question}");
        assert_eq!(check_approval(&spec), Ok(()));
        for wrong in [by(&["a=0"]), by(&["a=x"]), by(&["role:coordinator"]), by(&[]), by(&["a=1001"])] {
            assert!(check_approval(&wrong).is_err(), "{wrong:?}");
        }
        assert!(check_approval(&ApprovalSpec { threshold: Some("4/3".into()), ..by(&["a"]) }).is_err());
    }
}
