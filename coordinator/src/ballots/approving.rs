//! The ballots that tasks wait for. Each is opened by the command that accepts its task; here its members are found.

use std::collections::BTreeMap;

use robeing_fleet::{OpenBallot, SubmitTask, TaskId, limits::LEAST_BALLOT_BYTES};
use robeing_policy::ApprovalSpec;
use robeing_proto::v1;

use super::{
    BallotError, Ballots,
    electorate::{Addressed, Member},
    opening::Draft,
};
use crate::api::convert::{self, BadField};

/// The field of a submission that its approval is in.
const FIELD: &str = "requires_approval";

impl Draft {
    /// Checks the approval that a task asks for.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn of_task(task: &SubmitTask, asked: v1::RequiredApproval) -> Result<Self, BadField> {
        let v1::RequiredApproval { electorate, threshold, deadline, question } = asked;
        let question = match question.is_empty() {
            true => format!("May task {} of the kind {:?} run?", task.id, task.kind),
            false => question,
        };
        let (id, options) = (task.id.to_string(), Vec::new());
        let request = v1::OpenBallotRequest { id, question, options, electorate, threshold, deadline };
        Self::check(request, || task.id.0).map_err(|problem| convert::bad(FIELD, problem))
    }

    /// Checks the approval that a policy requires of a task.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn of_policy(task: &SubmitTask, by: &ApprovalSpec, reason: &str) -> Result<Self, BadField> {
        let electorate: Vec<_> = by.electorate.iter().map(|text| elector(text)).collect::<Result<_, _>>()?;
        let deadline = by.deadline_seconds.map(|seconds| prost_types::Duration { seconds: seconds.into(), nanos: 0 });
        let question = format!("May task {} of the kind {:?} run? {reason}", task.id, task.kind);
        let threshold = by.threshold.clone().unwrap_or_default();
        Self::of_task(task, v1::RequiredApproval { electorate, threshold, deadline, question })
    }
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
            found.insert(n, self.resolved(opener, draft, &mut resolving).await);
        }
        found
    }

    /// Returns the ballot of a draft. One that is certain to be refused, because those before it take the room that is
    /// left, costs no search for its members, and takes no memory.
    async fn resolved(&self, opener: &str, draft: Draft, resolving: &mut Resolving) -> Result<OpenBallot, BallotError> {
        let (more, bytes) = (resolving.ballots + 1, resolving.bytes.saturating_add(LEAST_BALLOT_BYTES));
        let room = self.state.look(|fleet| fleet.check_room_for_ballots(opener, more, bytes));
        room.map_err(BallotError::Refused)?;
        let asked = Addressed::digest(&draft.electorate);
        let members = match resolving.members.get(&asked) {
            Some(members) => members.clone(),
            None => {
                let members = self.electors(draft.id, &draft.electorate).await?;
                resolving.members.insert(asked, members.clone());
                members
            }
        };
        let ballot = draft.opened(&self.fleet, opener, members);
        let bytes = resolving.bytes.saturating_add(ballot.counted_bytes());
        let room = self.state.look(|fleet| fleet.check_room_for_ballots(opener, more, bytes));
        room.map_err(BallotError::Refused)?;
        (resolving.ballots, resolving.bytes) = (more, bytes);
        Ok(ballot)
    }
}

/// What was found of the ballots of one call.
#[derive(Default)]
struct Resolving {
    /// How many ballots the call opens, and the bytes that they count for.
    ballots: usize,
    bytes: u64,
    /// The members of electorates, by the digests of their addresses: tasks that are submitted together mostly ask the
    /// same members.
    members: BTreeMap<[u8; 32], Vec<Member>>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::{BallotId, Fraction};

    use super::*;
    use crate::ballots::opening::DEFAULT_TTL_MS;

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
        assert_eq!((draft.id, draft.threshold, draft.ttl), (BallotId(7), Fraction::TWO_THIRDS, DEFAULT_TTL_MS));
        assert_eq!(draft.question, format!("May task {} of the kind \"deploy\" run?", TaskId(7)));
        let nobody = v1::RequiredApproval { electorate: Vec::new(), ..asked };
        let problem = Draft::of_task(&task(), nobody).expect_err("nobody approves").to_string();
        assert!(problem.starts_with("requires_approval: electorate: "), "{problem}");
    }

    #[test]
    fn who_approves_by_a_policy_may_have_weights() {
        let spec = ApprovalSpec { deadline_seconds: Some(60), threshold: Some("1/2".into()), ..by(&["a", "client:b=3"]) };
        let draft = Draft::of_policy(&task(), &spec, "it is large").expect("it is right");
        assert_eq!((draft.electorate.len(), draft.ttl), (2, 60_000));
        assert!(draft.question.ends_with(" run? it is large"), "{}", draft.question);
        assert_eq!(check_approval(&spec), Ok(()));
        for wrong in [by(&["a=0"]), by(&["a=x"]), by(&["role:coordinator"]), by(&[]), by(&["a=1001"])] {
            assert!(check_approval(&wrong).is_err(), "{wrong:?}");
        }
        assert!(check_approval(&ApprovalSpec { threshold: Some("4/3".into()), ..by(&["a"]) }).is_err());
    }
}
