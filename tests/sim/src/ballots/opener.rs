//! The opener: a client that opens ballots at any coordinator and votes in them for people, repeats calls for whose
//! responses it did not wait, tries what must not count, and follows every ballot to its end.

use std::{rc::Rc, time::Duration};

use futures::future::join_all;
use robeing_net::limited;
use robeing_proto::v1::{
    self, BallotState, CastVoteRequest, GetBallotRequest, ListBallotsRequest, OpenBallotRequest,
    ballots_client::BallotsClient,
};
use robeing_settings::AgentRole;
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, Response, Status, transport::Channel};

use super::{
    draft::{Draft, PERSON},
    ledger::Since,
    rule::{Cast, Decided, decide},
};
use crate::{
    calls::{Calls, PAUSE, is_refusal},
    checks::Check,
    mail::agents,
    tasks,
};

/// The longest time for which a call waits for the end of a ballot, in milliseconds.
const WAIT: u64 = 3_000;
/// The longest pause before most votes, in milliseconds; one of [`LAST_ONE_OF`] comes at any time until the deadline.
const SOON: u64 = 1_500;
const LAST_ONE_OF: u64 = 4;
/// One of this many calls is made again, and one of as many with other content.
const AGAIN_ONE_OF: u64 = 3;
/// How often an address may stand for nobody before the ballot is given up.
const MOST_NOBODY: u32 = 40;
/// How often something that must be refused is tried, until there is a response.
const MOST_TRIES: u32 = 5;
/// The name of somebody who is in no electorate.
const OUTSIDER: &str = "client:mallory";
/// The page size of listings.
const PAGE: u32 = 100;

/// The opener.
pub struct Opener {
    /// Makes its calls.
    pub calls: Calls,
    /// The number of ballots.
    pub ballots: usize,
    /// The role of the last agent.
    pub odd_role: AgentRole,
}

impl Opener {
    /// Makes one call that may wait for so long.
    async fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        coordinator: usize,
        wait: Duration,
        call: impl FnOnce(BallotsClient<Channel>) -> F,
    ) -> Result<T, Status> {
        self.calls.call(coordinator, wait, |channel| call(limited!(BallotsClient::new(channel)))).await
    }

    fn since(&self, id: &str) -> Since {
        self.calls.record.notes().ballots.since(id)
    }

    fn told(&self, since: Since, ballot: &v1::Ballot) {
        self.calls.record.ballot(|ledger, now| ledger.told(now, since, ballot));
    }

    /// Records a refusal for which there is no reason.
    fn refused(&self, id: &str, status: &Status) {
        if is_refusal(status.code()) {
            self.calls.record.violation(Check::Opened, format!("ballot {id}: a call was refused: {status}"));
        }
    }

    /// Runs the opener; returns when every ballot has ended, and every coordinator reports it.
    pub async fn run(self) {
        let opener = Rc::new(self);
        let mut activities = JoinSet::new();
        for number in 0..opener.ballots {
            activities.spawn_local(Rc::clone(&opener).activity(number));
        }
        activities.join_all().await;
        // By now leaders have died, and all coordinators may have lost power.
        opener.calls.calm().await;
        for coordinator in 0..opener.calls.coordinators.len() {
            while !opener.list(coordinator).await {
                opener.calls.pause(PAUSE).await;
            }
        }
        let opened = opener.calls.record.notes().ballots.opened();
        for id in opened.keys() {
            while opener.look(id, 0).await.is_none() {
                opener.calls.pause(PAUSE).await;
            }
        }
    }

    /// Runs through the life of one ballot.
    async fn activity(self: Rc<Self>, number: usize) {
        self.calls.pause_to_begin().await;
        let draft = Draft::draw(&*self.calls.platform.random, number, self.odd_role);
        let Some(ballot) = self.open(draft).await else { return };
        let votes = self.vote_for_people(&ballot);
        let tries = self.try_what_must_not_be(&ballot);
        let ((), (), ended) = tokio::join!(votes, tries, self.follow(&ballot.id));
        self.vote_late(&ended).await;
    }

    /// Opens a ballot; returns it once that is acknowledged. `None`: its addresses stand for nobody.
    async fn open(&self, draft: Draft) -> Option<v1::Ballot> {
        let id = tasks::new_id(&self.calls.platform);
        let request = draft.request(&id);
        self.calls.record.ballot(|ledger, now| {
            ledger.asks(now, &id, draft);
            Ok(())
        });
        let mut nobody = 0;
        while nobody < MOST_NOBODY {
            match self.try_to_open(request.clone()).await {
                Ok(ballot) => {
                    self.calls.record.notes().ballots.opens(&id);
                    return Some(ballot);
                }
                Err(status) if status.code() == Code::NotFound => nobody += 1,
                // The coordinators have not agreed on the version that has ballots yet.
                Err(status) if status.code() == Code::FailedPrecondition => {}
                Err(status) => self.refused(&id, &status),
            }
            self.calls.pause(PAUSE).await;
        }
        None
    }

    /// Makes one call to open a ballot.
    async fn try_to_open(&self, request: OpenBallotRequest) -> Result<v1::Ballot, Status> {
        let since = self.since(&request.id);
        let opening = self.call(self.calls.any(), Duration::ZERO, async |mut client| client.open_ballot(request).await);
        let ballot = opening.await?.ballot.unwrap_or_default();
        self.told(since, &ballot);
        Ok(ballot)
    }

    /// Opens a ballot again that is acknowledged, asks something else under its id, and votes from outside.
    async fn try_what_must_not_be(&self, ballot: &v1::Ballot) {
        if self.calls.below(AGAIN_ONE_OF) == 0 {
            self.calls.pause(SOON).await;
            let request = self.calls.record.notes().ballots.request(&ballot.id);
            self.open_again(request).await;
        }
        self.calls.pause(SOON).await;
        let is_outside = |name: &String| ballot.electorate.iter().all(|member| member.name != *name);
        let mut outside = agents();
        outside.push(OUTSIDER.to_owned());
        outside.retain(is_outside);
        let member = outside.swap_remove(self.calls.below(outside.len() as u64) as usize);
        let cast = Cast::approval(ballot.options.len());
        self.vote_in_vain(&ballot.id, &member, &cast, (Check::Electors, Code::PermissionDenied)).await;
    }

    /// Opens a ballot again, or one with another question under its id, which must be refused.
    async fn open_again(&self, request: Option<OpenBallotRequest>) {
        let Some(mut request) = request else { return };
        let (id, is_other) = (request.id.clone(), self.calls.below(2) == 0);
        if is_other {
            request.question.push_str(" Or not?");
        }
        match self.try_to_open(request).await {
            Ok(_) if is_other => {
                self.calls.record.violation(Check::Opened, format!("ballot {id} was opened with another question"));
            }
            Err(status) if is_other && status.code() == Code::AlreadyExists => {}
            Err(status) => self.refused(&id, &status),
            Ok(_) => {}
        }
    }

    /// Casts the votes of the people among the members of a ballot.
    pub async fn vote_for_people(&self, ballot: &v1::Ballot) {
        let people = ballot.electorate.iter().filter(|member| member.name.starts_with(PERSON));
        join_all(people.map(|person| self.vote(ballot, &person.name))).await;
    }

    /// Casts the vote of a person until it counts or comes too late. May cast it again then, and another one.
    async fn vote(&self, ballot: &v1::Ballot, person: &str) {
        let id = &ballot.id;
        let Decided { cast: Some(cast), after } = decide(id, person, ballot.options.len()) else { return };
        let most = if self.calls.below(LAST_ONE_OF) == 0 { ballot.ttl_ms } else { SOON };
        sleep(after).await;
        self.calls.pause(most).await;
        self.calls.record.notes().ballots.casts(id, person);
        loop {
            match self.try_to_vote(id, person, &cast).await {
                Ok(()) => break,
                Err(status) if status.code() == Code::FailedPrecondition => {
                    self.calls.record.ballot(|ledger, now| ledger.is_late(now, id, person));
                    return;
                }
                Err(status) => self.refused(id, &status),
            }
            self.calls.pause(PAUSE).await;
        }
        self.calls.record.ballot(|ledger, _| ledger.counts(id, person));
        if self.calls.below(AGAIN_ONE_OF) == 0 {
            self.calls.pause(SOON).await;
            if let Err(status) = self.try_to_vote(id, person, &cast).await {
                self.refused(id, &status);
            }
        }
        if self.calls.below(AGAIN_ONE_OF) == 0 {
            self.calls.pause(SOON).await;
            let other = cast.other(ballot.options.len());
            self.vote_in_vain(id, person, &other, (Check::Counted, Code::AlreadyExists)).await;
        }
    }

    /// Makes one call to cast a vote, in the name of any member: nobody has a certificate here.
    async fn try_to_vote(&self, id: &str, member: &str, cast: &Cast) -> Result<(), Status> {
        let since = self.since(id);
        let request = CastVoteRequest {
            ballot: id.to_owned(),
            choice: cast.choice.into(),
            option: cast.option,
            reason: cast.reason.clone(),
            member: member.to_owned(),
            ..CastVoteRequest::default()
        };
        let casting = self.call(self.calls.any(), Duration::ZERO, async |mut client| client.cast_vote(request).await);
        self.told(since, &casting.await?.ballot.unwrap_or_default());
        Ok(())
    }

    /// Casts a vote that must be refused with this code.
    async fn vote_in_vain(&self, id: &str, member: &str, cast: &Cast, (check, code): (Check, Code)) {
        for _ in 0..MOST_TRIES {
            let what = match self.try_to_vote(id, member, cast).await {
                Ok(()) => "was counted".to_owned(),
                Err(status) if status.code() == code => return,
                Err(status) if is_refusal(status.code()) => format!("was refused otherwise: {status}"),
                Err(_) => {
                    self.calls.pause(PAUSE).await;
                    continue;
                }
            };
            let what = format!("ballot {id}: a vote of {member}, which must be refused with {code:?}, {what}");
            return self.calls.record.violation(check, what);
        }
    }

    /// Reads a ballot until it has ended, and returns it then. Casts other votes in the names of those who have voted.
    pub async fn follow(&self, id: &str) -> v1::Ballot {
        loop {
            let Some(ballot) = self.look(id, WAIT).await else {
                self.calls.pause(PAUSE).await;
                continue;
            };
            if ballot.state() != BallotState::Open {
                return ballot;
            }
            if let Some(vote) = ballot.votes.last().filter(|_| self.calls.below(AGAIN_ONE_OF) == 0) {
                let cast = Cast { choice: vote.choice(), option: vote.option, reason: vote.reason.clone() };
                let other = cast.other(ballot.options.len());
                self.vote_in_vain(id, &vote.member, &other, (Check::Counted, Code::AlreadyExists)).await;
            }
        }
    }

    /// Casts a vote of a member who has not voted in a ballot that is closed: it must be refused.
    async fn vote_late(&self, ballot: &v1::Ballot) {
        let has_voted = |name: &str| ballot.votes.iter().any(|vote| vote.member == name);
        let names = ballot.electorate.iter().map(|member| member.name.as_str());
        let mut silent: Vec<&str> = names.filter(|name| !has_voted(name)).collect();
        if silent.is_empty() {
            return;
        }
        let member = silent.swap_remove(self.calls.below(silent.len() as u64) as usize);
        let cast = Cast::approval(ballot.options.len());
        self.vote_in_vain(&ballot.id, member, &cast, (Check::Counted, Code::FailedPrecondition)).await;
    }

    /// Reads a ballot that was acknowledged, and may wait for its end for at most `wait` ms.
    pub async fn look(&self, id: &str, wait: u64) -> Option<v1::Ballot> {
        let (since, wait) = (self.since(id), if wait == 0 { 0 } else { self.calls.below(wait) });
        let request = GetBallotRequest { id: id.to_owned(), wait: Some(tasks::millis(wait)), evidence: false };
        let within = Duration::from_millis(wait);
        match self.call(self.calls.any(), within, async |mut client| client.get_ballot(request).await).await {
            Ok(ballot) => {
                self.told(since, &ballot);
                Some(ballot)
            }
            Err(status) => {
                self.refused(id, &status);
                None
            }
        }
    }

    /// Lists all ballots at a coordinator, of which none may be missing. Returns whether there was a response.
    async fn list(&self, coordinator: usize) -> bool {
        let opened = self.calls.record.notes().ballots.opened();
        let request = ListBallotsRequest { limit: PAGE, ..ListBallotsRequest::default() };
        let listing = self.call(coordinator, Duration::ZERO, async |mut client| client.list_ballots(request).await);
        let page = match listing.await {
            Ok(page) => page,
            Err(status) => {
                self.refused("of a listing", &status);
                return false;
            }
        };
        for ballot in &page.ballots {
            self.told(opened.get(&ballot.id).copied().unwrap_or_default(), ballot);
        }
        for id in opened.keys().filter(|id| page.ballots.iter().all(|ballot| ballot.id != **id)) {
            let at = &self.calls.coordinators[coordinator];
            self.calls.record.violation(Check::Opened, format!("ballot {id} was opened, but {at} does not list it"));
        }
        true
    }
}
