//! The applicant: a client that submits tasks which wait for ballots, votes in these for people, and follows each task
//! to its end.

use futures::future::join_all;
use robeing_proto::v1::{self, OpenBallotRequest, RequiredApproval};
use robeing_settings::AgentRole;
use tonic::Code;

use super::{draft::Draft, opener::Opener};
use crate::{
    calls::{Calls, PAUSE},
    executor::{Course, Needs},
    results, tasks,
};

/// The number of tasks.
const TASKS: usize = 3;
/// How often the members of a ballot may be nobody before its task is given up.
const MOST_NOBODY: u32 = 40;
/// How long a task takes at most, in milliseconds.
const LASTS: u64 = 300;

/// The applicant.
pub struct Applicant {
    /// Makes its calls.
    pub calls: Calls,
    /// The role of the last agent.
    pub odd_role: AgentRole,
}

impl Applicant {
    /// Runs the applicant; returns when every task has ended.
    pub async fn run(self) {
        // It opens no ballots itself.
        let opener = Opener { calls: self.calls.clone(), ballots: 0, odd_role: self.odd_role };
        join_all((0..TASKS).map(|number| self.activity(&opener, number))).await;
    }

    /// Runs through the life of one task.
    async fn activity(&self, opener: &Opener, number: usize) {
        self.calls.pause_to_begin().await;
        let draft = Draft::of_task(&*self.calls.platform.random, number, self.odd_role);
        let Some(id) = self.submit(draft).await else { return };
        let ballot = loop {
            match opener.look(&id, 0).await {
                Some(ballot) => break ballot,
                None => self.calls.pause(PAUSE).await,
            }
        };
        tokio::join!(opener.vote_for_people(&ballot), opener.follow(&id));
        while !self.has_ended(&id).await {
            self.calls.pause(PAUSE).await;
        }
    }

    /// Submits a task until it is accepted, and returns its id. `None`: the ballot's addresses stand for nobody.
    async fn submit(&self, draft: Draft) -> Option<String> {
        let Calls { name, platform, record, .. } = &self.calls;
        let id = tasks::new_id(platform);
        let OpenBallotRequest { question, electorate, threshold, deadline, .. } = draft.request(&id);
        let spec = v1::TaskSpec {
            id: id.clone(),
            kind: Needs::Nothing.kind(),
            input: Course::Succeed(self.calls.below(LASTS)).input(0),
            submitter: name.clone(),
            requires_approval: Some(RequiredApproval { electorate, threshold, deadline, question }),
            ..v1::TaskSpec::default()
        };
        record.notes().ask(&spec);
        record.ballot(|ledger, now| {
            ledger.asks(now, &id, draft);
            Ok(())
        });
        let mut nobody = 0;
        while nobody < MOST_NOBODY {
            match self.calls.submit(&spec).await {
                Ok(()) => {
                    record.notes().ballots.opens(&id);
                    return Some(id);
                }
                Err(Code::NotFound) => nobody += 1,
                Err(_) => {}
            }
            self.calls.pause(PAUSE).await;
        }
        None
    }

    async fn has_ended(&self, id: &str) -> bool {
        let Some(task) = self.calls.task(id).await else { return false };
        let has_ended = results::note(&self.calls.record, &task);
        if has_ended {
            self.calls.record.ballot(|ledger, _| ledger.task_ends(&task));
        }
        has_ended
    }
}
