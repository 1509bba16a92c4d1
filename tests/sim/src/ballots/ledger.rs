//! What is known of every ballot of a run, and the checks of what clients are told: that a ballot stays what was asked
//! for and closes, that a vote counts once and none from outside does, and that the outcome is right and final.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use robeing_proto::v1::{self, BallotState, OpenBallotRequest, ballot::Vote};

use super::{
    draft::Draft,
    gate::Gate,
    recount::{Outcome, Recount},
    rule::decide,
};
use crate::{
    checks::{Check, Wrong},
    record::ROUNDING,
};

/// What clients knew of a ballot when a call began. Its response must not know less.
#[derive(Clone, Copy, Default)]
pub struct Since {
    votes: usize,
    is_closed: bool,
}

/// The end of a ballot, as a client was told.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Ended {
    pub outcome: Outcome,
    /// When the coordinators closed it, by their clocks.
    pub at: String,
}

/// A ballot that a client has asked for.
pub(super) struct Known {
    pub draft: Draft,
    /// When a client asked for it first.
    at: Duration,
    /// Whether a client was told that it is opened.
    is_opened: bool,
    /// What is fixed, as a client was told first.
    pub fixed: Option<v1::Ballot>,
    /// The most votes that a client was told of.
    votes: Vec<Vote>,
    /// The members whose votes were refused because the ballot was closed.
    late: BTreeSet<String>,
    /// When a client learned first that it is closed.
    closed: Option<Duration>,
    pub ended: Option<Ended>,
    /// What is known of the task that waits for it.
    pub gate: Gate,
    /// The agents whose handlers have decided it, with their runs.
    decided: BTreeSet<(String, u64)>,
}

/// The ballots of a run.
#[derive(Default)]
pub struct BallotLedger {
    pub(super) ballots: BTreeMap<String, Known>,
}

/// Returns what never changes of a ballot.
fn fixed(told: &v1::Ballot) -> v1::Ballot {
    v1::Ballot {
        expires_at: None,
        closed_at: None,
        state: BallotState::Unspecified.into(),
        option: 0,
        votes: Vec::new(),
        tally: None,
        ..told.clone()
    }
}

impl Known {
    fn told(&mut self, now: Duration, since: Since, told: &v1::Ballot) -> Result<(), Wrong> {
        self.check_content(told)?;
        self.check_votes(since, told)?;
        self.check_outcome(now, since, told)
    }

    fn check_content(&mut self, told: &v1::Ballot) -> Result<(), Wrong> {
        let content = fixed(told);
        match &self.fixed {
            Some(known) if *known != content => Err((Check::Opened, format!("was {known:?} and is {content:?}"))),
            Some(_) => Ok(()),
            None => {
                if let Some(wrong) = self.draft.wrong(told) {
                    return Err((Check::Opened, format!("{wrong}, although {:?} was asked for", self.draft)));
                }
                if let Some(wrong) = self.draft.wrong_members(&told.electorate) {
                    let asked = &self.draft.electorate;
                    return Err((Check::Electors, format!("is wrong: its members {wrong}; asked for: {asked:?}")));
                }
                self.fixed = Some(content);
                Ok(())
            }
        }
    }

    fn check_votes(&mut self, since: Since, told: &v1::Ballot) -> Result<(), Wrong> {
        let wrong = |what: String| Err((Check::Counted, what));
        let both = self.votes.len().min(told.votes.len());
        if self.votes[..both] != told.votes[..both] {
            return wrong(format!("had the votes {:?} and has {:?}", self.votes, told.votes));
        }
        if told.votes.len() < since.votes {
            return wrong(format!("had {} votes and has {:?}", since.votes, told.votes));
        }
        if self.ended.is_some() && told.votes.len() > self.votes.len() {
            return wrong(format!("closed with {} votes and has {:?}", self.votes.len(), told.votes));
        }
        let mut members = BTreeSet::new();
        for vote in &told.votes {
            let member = &vote.member;
            if !told.electorate.iter().any(|elector| elector.name == *member) {
                return Err((Check::Electors, format!("counts a vote of {member}, which is no member")));
            }
            if !members.insert(member) {
                return wrong(format!("counts {member} twice"));
            }
            if self.late.contains(member) {
                return wrong(format!("counts a vote of {member} that was refused as too late"));
            }
            let decided = decide(&told.id, member, told.options.len()).cast;
            if !decided.as_ref().is_some_and(|cast| cast.is_listed_as(vote)) {
                return wrong(format!("has {vote:?}, but {member} decided {decided:?}"));
            }
        }
        if told.votes.len() > self.votes.len() {
            self.votes.clone_from(&told.votes);
        }
        Ok(())
    }

    fn check_outcome(&mut self, now: Duration, since: Since, told: &v1::Ballot) -> Result<(), Wrong> {
        let wrong = |what: String| Err((Check::Verdict, what));
        let (threshold, options) = (self.draft.threshold, told.options.len());
        let recount = Recount { threshold, electorate: &told.electorate, options };
        if !told.tally.as_ref().is_some_and(|tally| recount.is_tally(tally, &told.votes)) {
            return wrong(format!("has the tally {:?} of the votes {:?}", told.tally, told.votes));
        }
        let decided = recount.decided(&told.votes);
        if told.state() == BallotState::Open {
            return match decided {
                Some(outcome) => wrong(format!("is open, but its votes amount to {outcome:?}: {:?}", told.votes)),
                None if since.is_closed => wrong("was closed and is open".to_owned()),
                None => Ok(()),
            };
        }
        let outcome = (told.state(), told.option);
        let expected = decided.unwrap_or((BallotState::Expired, 0));
        if outcome != expected {
            let check = if told.state() == BallotState::Expired { Check::Expired } else { Check::Verdict };
            let (of, votes) = (told.threshold.as_str(), &told.votes);
            return Err((check, format!("is {outcome:?}, but at {of} its votes amount to {expected:?}: {votes:?}")));
        }
        if told.votes.len() != self.votes.len() {
            return Err((Check::Counted, format!("closed with {:?}, but had {:?}", told.votes, self.votes)));
        }
        if let Some((last, earlier)) = told.votes.split_last()
            && let Some(outcome) = recount.decided(earlier)
        {
            return Err((Check::Counted, format!("was {outcome:?} already when it counted {last:?}")));
        }
        let ended = Ended { outcome, at: format!("{:?}", told.closed_at) };
        if let Some(known) = self.ended.as_ref().filter(|known| **known != ended) {
            return wrong(format!("was {known:?} and is {ended:?}"));
        }
        self.ended = Some(ended);
        self.closes(now)
    }

    /// Records that the ballot is closed. Whatever clocks do, fleet time is at most 5 % fast.
    fn closes(&mut self, now: Duration) -> Result<(), Wrong> {
        let closed = *self.closed.get_or_insert(now);
        let is_expired = self.ended.as_ref().is_some_and(|ended| ended.outcome.0 == BallotState::Expired);
        if is_expired && closed + ROUNDING < self.at + self.draft.ttl.mul_f64(0.95) {
            let (at, ttl) = (self.at, self.draft.ttl);
            return Err((
                Check::Expired,
                format!("was asked for at {at:?} for {ttl:?}, and has expired by {closed:?}"),
            ));
        }
        Ok(())
    }
}

impl BallotLedger {
    /// Records that a client asks for a ballot for the first time.
    pub fn asks(&mut self, now: Duration, id: &str, draft: Draft) {
        let known = Known {
            draft,
            at: now,
            is_opened: false,
            fixed: None,
            votes: Vec::new(),
            late: BTreeSet::new(),
            closed: None,
            ended: None,
            gate: Gate::default(),
            decided: BTreeSet::new(),
        };
        self.ballots.insert(id.to_owned(), known);
    }

    /// Records that a client was told that a ballot is opened: from now on it exists.
    pub fn opens(&mut self, id: &str) {
        if let Some(known) = self.ballots.get_mut(id) {
            known.is_opened = true;
        }
    }

    /// Returns the request that opens a ballot.
    pub fn request(&self, id: &str) -> Option<OpenBallotRequest> {
        self.ballots.get(id).map(|known| known.draft.request(id))
    }

    /// Returns what clients know of a ballot now.
    pub fn since(&self, id: &str) -> Since {
        let of = |known: &Known| Since { votes: known.votes.len(), is_closed: known.ended.is_some() };
        self.ballots.get(id).map(of).unwrap_or_default()
    }

    /// Returns the ids of the opened ballots, with what clients know of each now.
    pub fn opened(&self) -> BTreeMap<String, Since> {
        let opened = self.ballots.iter().filter(|(_, known)| known.is_opened);
        opened.map(|(id, _)| (id.clone(), self.since(id))).collect()
    }

    /// Records a ballot in a response to a call.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn told(&mut self, now: Duration, since: Since, told: &v1::Ballot) -> Result<(), Wrong> {
        let id = &told.id;
        let Some(known) = self.ballots.get_mut(id) else {
            return Err((Check::Opened, format!("there is a ballot {id:?}, for which nobody asked: {told:?}")));
        };
        known.told(now, since, told).map_err(|(check, what)| (check, format!("ballot {id} {what}")))
    }

    /// Records that a member's vote was acknowledged, after [`BallotLedger::told`].
    ///
    /// # Errors
    /// If it is not listed.
    pub fn counts(&mut self, id: &str, member: &str) -> Result<(), Wrong> {
        let votes = self.ballots.get(id).map(|known| &known.votes);
        match votes.into_iter().flatten().any(|vote| vote.member == member) {
            true => Ok(()),
            false => Err((Check::Counted, format!("ballot {id} lacks the vote of {member}, which was acknowledged"))),
        }
    }

    /// Records that a member's vote was refused because the ballot is closed: it never counts.
    ///
    /// # Errors
    /// If it counts nevertheless, or the ballot has closed too early.
    pub fn is_late(&mut self, now: Duration, id: &str, member: &str) -> Result<(), Wrong> {
        let Some(known) = self.ballots.get_mut(id) else { return Ok(()) };
        if known.votes.iter().any(|vote| vote.member == member) {
            return Err((
                Check::Counted,
                format!("ballot {id} counts a vote of {member} that was refused as too late"),
            ));
        }
        known.late.insert(member.to_owned());
        known.closes(now).map_err(|(check, what)| (check, format!("ballot {id} {what}")))
    }

    /// Records that an agent's handler decides a ballot with these options.
    ///
    /// # Errors
    /// If nobody asked for it so, or this run of the agent has decided it before.
    pub fn decides(&mut self, id: &str, options: &[String], agent: &str, run: u64) -> Result<(), Wrong> {
        let Some(known) = self.ballots.get_mut(id).filter(|known| known.draft.options == options) else {
            return Err((Check::Opened, format!("{agent} decides ballot {id} of {options:?}, for which nobody asked")));
        };
        known.gate.casts(agent);
        match known.decided.insert((agent.to_owned(), run)) {
            true => Ok(()),
            false => Err((Check::Twice, format!("the handler of {agent}, run {run}, decides ballot {id} twice"))),
        }
    }

    /// Returns the ids of the opened ballots that nobody knows to be closed.
    pub fn unfinished(&self) -> Vec<String> {
        let open = self.ballots.iter().filter(|(_, known)| known.is_opened && known.ended.is_none());
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Returns the number of votes, and of the ballots that were approved, were rejected, and expired.
    pub fn counts_of(&self) -> [usize; 4] {
        let votes = self.ballots.values().map(|known| known.votes.len()).sum();
        let ended = |state: BallotState| {
            let ended = self.ballots.values().filter_map(|known| known.ended.as_ref());
            ended.filter(|ended| ended.outcome.0 == state).count()
        };
        [votes, ended(BallotState::Approved), ended(BallotState::Rejected), ended(BallotState::Expired)]
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SeededRandom;
    use robeing_proto::v1::{
        VoteChoice::{self, Abstain, Approve, Reject},
        ballot::{Member, Tally},
    };
    use robeing_settings::AgentRole;

    use super::*;
    use crate::ballots::{draft::PEOPLE, recount::Threshold};

    const TTL: Duration = Duration::from_secs(10);

    /// Returns the id of a ballot in which the people decide so.
    fn id_of(wanted: [VoteChoice; 3]) -> String {
        let is_wanted = |id: &String| {
            let says = PEOPLE.map(|person| decide(id, person, 0).cast.map(|cast| cast.choice));
            says == wanted.map(Some)
        };
        (0..100_000).map(|n| n.to_string()).find(is_wanted).expect("they decide so in some ballot")
    }

    fn ledger(id: &str) -> BallotLedger {
        let mut draft = Draft::draw(&SeededRandom::new(1), 0, AgentRole::Specialist);
        draft.electorate.iter_mut().for_each(|of| of.weight = 0);
        let threshold = Threshold { text: "", numerator: 2, denominator: 3 };
        let draft = Draft { question: "?".to_owned(), options: Vec::new(), threshold, ttl: TTL, ..draft };
        let mut ledger = BallotLedger::default();
        ledger.asks(Duration::ZERO, id, draft);
        ledger
    }

    fn vote(id: &str, member: &str) -> Vote {
        let cast = decide(id, member, 0).cast.expect("it votes");
        Vote { member: member.to_owned(), choice: cast.choice.into(), reason: cast.reason, ..Vote::default() }
    }

    /// Returns a ballot as a client is told of it, with these votes.
    fn told(id: &str, votes: Vec<Vote>, state: BallotState) -> v1::Ballot {
        let of = |choice: VoteChoice| votes.iter().filter(|vote| vote.choice() == choice).count() as u64;
        let (approve, reject, abstain) = (of(Approve), of(Reject), of(Abstain));
        let member = |name: &str| Member { name: name.to_owned(), weight: 1, ..Member::default() };
        v1::Ballot {
            id: id.to_owned(),
            question: "?".to_owned(),
            electorate: PEOPLE.map(member).into(),
            threshold: "2/3".to_owned(),
            ttl_ms: TTL.as_millis() as u64,
            state: state.into(),
            tally: Some(Tally { approve, reject, abstain, total: 3, ..Tally::default() }),
            votes,
            ..v1::Ballot::default()
        }
    }

    fn check(ledger: &mut BallotLedger, since: Since, ballot: &v1::Ballot) -> Option<Check> {
        ledger.told(TTL, since, ballot).err().map(|(check, _)| check)
    }

    /// Returns the check that fails if a client is told this first.
    fn first(id: &str, votes: Vec<Vote>, state: BallotState) -> Option<Check> {
        check(&mut ledger(id), Since::default(), &told(id, votes, state))
    }

    #[test]
    fn an_outcome_is_what_the_votes_amount_to() {
        let id = id_of([Approve, Approve, Reject]);
        let of = |people: &[usize]| people.iter().map(|n| vote(&id, PEOPLE[*n])).collect::<Vec<_>>();
        assert_eq!(first(&id, of(&[0]), BallotState::Open), None);
        assert_eq!(first(&id, of(&[0, 1]), BallotState::Approved), None);
        assert_eq!(first(&id, of(&[0]), BallotState::Expired), None);
        assert_eq!(first(&id, of(&[0, 1]), BallotState::Open), Some(Check::Verdict));
        assert_eq!(first(&id, of(&[0]), BallotState::Approved), Some(Check::Verdict));
        assert_eq!(first(&id, of(&[0, 1]), BallotState::Expired), Some(Check::Expired), "it had enough votes");
        assert_eq!(first(&id, of(&[0, 2]), BallotState::Rejected), Some(Check::Verdict));
        assert_eq!(first(&id, of(&[0, 1, 2]), BallotState::Approved), Some(Check::Counted), "it was decided before");
        let mut tally = told(&id, of(&[0]), BallotState::Open);
        tally.tally = Some(Tally { approve: 2, total: 3, ..Tally::default() });
        assert_eq!(check(&mut ledger(&id), Since::default(), &tally), Some(Check::Verdict));
    }

    #[test]
    fn a_vote_counts_once_as_its_member_cast_it() {
        let id = id_of([Approve, Abstain, Reject]);
        let [ada, bob] = [0, 1].map(|n| vote(&id, PEOPLE[n]));
        let outsider = Vote { member: "client:eve".to_owned(), ..ada.clone() };
        let other = Vote { choice: Reject.into(), ..ada.clone() };
        assert_eq!(first(&id, vec![ada.clone(), ada.clone()], BallotState::Open), Some(Check::Counted));
        assert_eq!(first(&id, vec![outsider], BallotState::Open), Some(Check::Electors));
        assert_eq!(first(&id, vec![other], BallotState::Open), Some(Check::Counted));
        let mut ledger = ledger(&id);
        assert!(ledger.counts(&id, PEOPLE[0]).is_err(), "it is not listed");
        let both = told(&id, vec![ada.clone(), bob.clone()], BallotState::Open);
        assert_eq!(check(&mut ledger, Since::default(), &both), None);
        assert!(ledger.counts(&id, PEOPLE[0]).is_ok());
        let one = told(&id, vec![ada], BallotState::Open);
        assert_eq!(check(&mut ledger, Since::default(), &one), None, "the call began before");
        let since = ledger.since(&id);
        assert_eq!(check(&mut ledger, since, &one), Some(Check::Counted), "a vote is lost");
        let swapped = told(&id, vec![bob], BallotState::Open);
        assert_eq!(check(&mut ledger, Since::default(), &swapped), Some(Check::Counted));
    }

    #[test]
    fn a_vote_that_was_refused_as_too_late_never_counts() {
        let id = id_of([Approve, Abstain, Reject]);
        let (mut early, mut late) = (ledger(&id), ledger(&id));
        let ada = told(&id, vec![vote(&id, PEOPLE[0])], BallotState::Open);
        assert!(late.is_late(TTL, &id, PEOPLE[0]).is_ok());
        assert_eq!(check(&mut late, Since::default(), &ada), Some(Check::Counted));
        assert_eq!(check(&mut early, Since::default(), &ada), None);
        assert!(early.is_late(TTL, &id, PEOPLE[0]).is_err());
    }

    #[test]
    fn an_end_is_final_and_comes_not_before_the_deadline() {
        let id = id_of([Approve, Approve, Reject]);
        let expired = told(&id, Vec::new(), BallotState::Expired);
        for (ms, found) in [(9_400, Some(Check::Expired)), (9_500, None)] {
            let ended = ledger(&id).told(Duration::from_millis(ms), Since::default(), &expired);
            assert_eq!(ended.err().map(|(check, _)| check), found, "{ms} ms");
        }
        let mut ledger = ledger(&id);
        ledger.opens(&id);
        assert_eq!(ledger.unfinished(), [id.as_str()]);
        assert_eq!(check(&mut ledger, Since::default(), &expired), None);
        assert!(ledger.unfinished().is_empty());
        assert_eq!(ledger.counts_of(), [0, 0, 0, 1]);
        let open = told(&id, Vec::new(), BallotState::Open);
        assert_eq!(check(&mut ledger, Since::default(), &open), None, "the call began before");
        let since = ledger.since(&id);
        assert_eq!(check(&mut ledger, since, &open), Some(Check::Verdict));
        let again = v1::Ballot { closed_at: Some(prost_types::Timestamp::default()), ..expired };
        assert_eq!(check(&mut ledger, since, &again), Some(Check::Verdict));
        let [ada, bob] = [0, 1].map(|n| vote(&id, PEOPLE[n]));
        let approved = told(&id, vec![ada, bob], BallotState::Approved);
        assert_eq!(check(&mut ledger, since, &approved), Some(Check::Counted));
    }

    #[test]
    fn a_ballot_is_what_was_asked_for_and_stays_it() {
        let id = id_of([Approve, Approve, Reject]);
        let right = told(&id, Vec::new(), BallotState::Open);
        let others = v1::Ballot { electorate: right.electorate[..2].to_vec(), ..right.clone() };
        let question = v1::Ballot { question: "!".to_owned(), ..right.clone() };
        let opener = v1::Ballot { opened_by: "client:eve".to_owned(), ..right.clone() };
        let unknown = v1::Ballot { id: "unknown".to_owned(), ..right.clone() };
        assert_eq!(check(&mut ledger(&id), Since::default(), &others), Some(Check::Electors));
        for wrong in [question, unknown] {
            assert_eq!(check(&mut ledger(&id), Since::default(), &wrong), Some(Check::Opened));
        }
        let mut ledger = ledger(&id);
        assert_eq!(check(&mut ledger, Since::default(), &right), None);
        assert_eq!(check(&mut ledger, Since::default(), &opener), Some(Check::Opened));
    }

    #[test]
    fn a_handler_decides_a_ballot_once_in_each_run() {
        let mut ledger = ledger("1");
        let mut decides = |id: &str, run| ledger.decides(id, &[], "agent-0", run).err().map(|(check, _)| check);
        let found = [decides("1", 1), decides("1", 2), decides("1", 2), decides("2", 2)];
        assert_eq!(found, [None, None, Some(Check::Twice), Some(Check::Opened)]);
    }
}
