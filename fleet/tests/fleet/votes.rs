//! The domain of ballots in the simplest form, as a check of every history: a list that is searched from end to end, and
//! votes that are counted one by one.

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    Ballot, BallotCommand, BallotId, BallotOutcome, BallotState, CastVote, Choice, Command, ControlCommand, Effect,
    Elector, FIRST_VERSION, Feature, Fleet, Fraction, LetterId, NOTICE_KIND, NOTICE_SENDER, OpenBallot, PostLetter,
    Refusal, Reply, Stamp, SubmitTask, TaskCommand, Vote, VoteEvidence,
    limits::{BALLOT_TTL_MS, MAX_BALLOT_DURATION_MS, MAX_LETTER_TTL_MS, MAX_PAGE},
};

use crate::{letters, ops::name_of};

const BALLOTS: u128 = 6;

/// An electorate of agents, some of which are told by a letter whose id may be taken, and one client.
fn electorate() -> impl Strategy<Value = Vec<Elector>> {
    let elector = |(name, weight, letter, signs): (u8, u32, Option<u128>, bool)| Elector {
        name: if name < 6 { name_of(name) } else { "client:carol".to_owned() },
        weight,
        letter: letter.map(LetterId),
        signs,
    };
    let letter = prop::option::of(prop_oneof![1 => 0..12u128, 6 => 100..100_000u128]);
    let signs = prop::bool::weighted(0.3);
    prop::collection::vec((0..7u8, 1..4u32, letter, signs).prop_map(elector), 1..5).prop_map(|mut electorate| {
        electorate.sort_by(|one, other| one.name.cmp(&other.name));
        electorate.dedup_by(|one, other| one.name == other.name);
        electorate
    })
}

prop_compose! {
    fn opening()(
        id in 0..BALLOTS, content in 0..2u8, options in prop_oneof![Just(0usize), Just(2usize), Just(3usize)],
        electorate in electorate(), numerator in 1..5u32, denominator in 1..5u32,
        ttl in prop_oneof![12 => 1..600_000u64, 1 => Just(0), 1 => Just(MAX_BALLOT_DURATION_MS + 1)],
    ) -> OpenBallot {
        OpenBallot {
            id: BallotId(id),
            opened_by: "history".to_owned(),
            question: "Now?".to_owned(),
            options: (0..options).map(|n| format!("option {n}")).collect(),
            electorate,
            threshold: Fraction { numerator: numerator.min(denominator), denominator },
            ttl,
            digest: [content; 32],
            notice: Bytes::from_static(b"{}"),
            fleet: "fleet".to_owned(),
            asked: [content + 100; 32],
        }
    }
}

/// Ballots that approve a task, whose id they get.
pub fn approval() -> impl Strategy<Value = OpenBallot> {
    opening().prop_map(|ballot| OpenBallot { options: Vec::new(), ..ballot })
}

prop_compose! {
    fn casting()(
        ballot in 0..=2 * BALLOTS, member in 0..8u8, choice in 0..6u8, option in 0..4u32,
        evidence in prop::option::of((0..3u8, 0..2u8)), reason in prop_oneof![Just("because"), Just("so")],
    ) -> CastVote {
        let evidence = evidence.map(|(authority, envelope)| VoteEvidence {
            envelope: Bytes::from(vec![envelope; 3]),
            binding: Bytes::from_static(b"bound"),
            certificate: Bytes::from_static(b"certified"),
            authority: Bytes::from(vec![authority; 4]),
        });
        let choice = *[Choice::Reject, Choice::Abstain].get(usize::from(choice)).unwrap_or(&Choice::Approve);
        CastVote {
            ballot: BallotId(ballot),
            member: if member < 6 { name_of(member) } else { "client:carol".to_owned() },
            choice,
            option: if choice == Choice::Approve || option == 3 { option } else { 0 },
            reason: reason.to_owned(),
            evidence,
            attested_by: "c-0".to_owned(),
        }
    }
}

/// Returns the command that casts votes like these of the first one's member, which are proven by the same as that one.
fn cast_alike(votes: Vec<CastVote>) -> BallotCommand {
    let first = votes.first().cloned().expect("there are votes");
    let alike = |vote: CastVote| {
        let evidence = first.evidence.clone().map(|proof| {
            let envelope = vote.evidence.map_or_else(|| proof.envelope.clone(), |own| own.envelope);
            VoteEvidence { envelope, ..proof }
        });
        CastVote { member: first.member.clone(), evidence, ..vote }
    };
    let mut commands = BallotCommand::cast_all(votes.into_iter().map(alike).collect());
    assert_eq!(commands.len(), 1, "one command casts all");
    commands.pop().expect("it is one")
}

/// Commands for ballots.
pub fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        1 => opening().prop_map(|ballot| Command::Ballot(BallotCommand::Open(ballot))),
        4 => casting().prop_map(|vote| Command::Ballot(BallotCommand::Cast(vote))),
        1 => prop::collection::vec(casting(), 1..5).prop_map(|votes| Command::Ballot(cast_alike(votes))),
    ]
}

/// Returns the letters that a ballot should post.
pub fn notices(ballot: &OpenBallot, sent: u64) -> Vec<PostLetter> {
    let mut letters = Vec::new();
    for elector in &ballot.electorate {
        let Some(id) = elector.letter else { continue };
        letters.push(PostLetter {
            id,
            sender: NOTICE_SENDER.to_owned(),
            receiver: elector.name.clone(),
            kind: NOTICE_KIND.to_owned(),
            payload: ballot.notice.clone(),
            key_id: String::new(),
            priority: 8,
            sent,
            digest: ballot.digest,
            ttl: ballot.ttl.min(MAX_LETTER_TTL_MS),
            to: format!("agent:{}", elector.name),
        });
    }
    letters
}

struct Known {
    ballot: OpenBallot,
    opened: Stamp,
    votes: Vec<(CastVote, Stamp)>,
    closed: Option<(BallotOutcome, Stamp)>,
}

impl Known {
    fn weight_of(&self, member: &str) -> u64 {
        let members = self.ballot.electorate.iter().filter(|elector| elector.name == member);
        members.map(|elector| u64::from(elector.weight)).sum()
    }

    fn outcome(&self) -> Option<BallotOutcome> {
        self.closed.map(|(outcome, _)| outcome)
    }

    /// Returns what is decided: an option wins when its weight is enough; when not even all who are silent could make one
    /// win, the ballot is rejected.
    fn decided(&self) -> Option<BallotOutcome> {
        let Fraction { numerator, denominator } = self.ballot.threshold;
        let total: u64 = self.ballot.electorate.iter().map(|elector| u64::from(elector.weight)).sum();
        let is_enough = |weight: u64| weight * u64::from(denominator) >= total * u64::from(numerator);
        let mut silent = total;
        let mut approved = vec![0; self.ballot.options.len() + 1];
        for (vote, _) in &self.votes {
            silent -= self.weight_of(&vote.member);
            if vote.choice == Choice::Approve {
                approved[vote.option as usize] += self.weight_of(&vote.member);
            }
        }
        // The first one is of the votes without an option, of which there are none if there are options.
        let first = usize::from(!self.ballot.options.is_empty());
        let winner = (first..approved.len()).find(|option| is_enough(approved[*option]));
        match winner {
            Some(option) => Some(BallotOutcome::Approved { option: option as u32 }),
            None if approved[first..].iter().any(|weight| is_enough(weight + silent)) => None,
            None => Some(BallotOutcome::Rejected),
        }
    }

    /// Returns whether a vote names an option exactly if it must.
    fn fits(&self, vote: &CastVote) -> bool {
        match (vote.choice, self.ballot.options.len()) {
            (Choice::Approve, options) if options > 0 => (1..=options).contains(&(vote.option as usize)),
            _ => vote.option == 0,
        }
    }

    /// Returns what the ballot should count for.
    fn bytes(&self) -> u64 {
        let ballot = &self.ballot;
        let options: usize = ballot.options.iter().map(String::len).sum();
        let mut bytes = (ballot.opened_by.len() + ballot.question.len() + ballot.fleet.len() + options) as u64;
        for elector in &ballot.electorate {
            bytes += elector.name.len() as u64 + 32;
            let vote = self.votes.iter().find(|(vote, _)| vote.member == elector.name);
            bytes += match vote {
                Some((vote, _)) => {
                    let texts = vote.member.len() + vote.reason.len() + vote.attested_by.len();
                    let evidence = vote.evidence.as_ref().map_or(0, |evidence| {
                        let VoteEvidence { envelope, binding, certificate, authority: _ } = evidence;
                        [envelope, binding, certificate].map(Bytes::len).iter().sum::<usize>()
                    });
                    128 + (texts + evidence) as u64
                }
                None if self.closed.is_some() => 0,
                None => 128 + elector.name.len() as u64 + 1024 + 253 + 4096 + 1024 + 2048,
            };
        }
        bytes.max(4096)
    }
}

/// What there should be of ballots, in the order of opening.
pub struct Twin {
    version: u32,
    ballots: Vec<Known>,
}

impl Default for Twin {
    fn default() -> Self {
        Twin { version: FIRST_VERSION, ballots: Vec::new() }
    }
}

impl Twin {
    /// Does what a command should do, and compares the reply, the effects and the state. The letters are those before the
    /// command.
    pub fn check(
        &mut self,
        fleet: &Fleet,
        (command, reply): (&Command, &Reply),
        effects: &[Effect],
        letters: &letters::Twin,
    ) {
        let now = fleet.now();
        let mut expected = self.pass(now);
        match command {
            Command::Control(ControlCommand::RaiseVersion(version)) if *reply == Reply::Done => self.version = *version,
            Command::Ballot(_) if self.version < Feature::Ballots.since() => {
                assert!(matches!(reply, Reply::Refused(Refusal::NotInForce { .. })), "{reply:?}");
            }
            Command::Ballot(BallotCommand::Open(ballot)) => {
                assert_eq!(*reply, self.open(ballot, now, letters), "{ballot:?}");
                let is_new = *reply == Reply::BallotOpened { existing: false };
                expected.extend(is_new.then_some(Effect::BallotOpened { id: ballot.id }));
            }
            Command::Task(TaskCommand::Submit(SubmitTask { approval: Some(ballot), .. }))
                if matches!(reply, Reply::Submitted { existing: false, .. }) =>
            {
                assert_eq!(self.open(ballot, now, letters), Reply::BallotOpened { existing: false });
                expected.push(Effect::BallotOpened { id: ballot.id });
            }
            Command::Ballot(BallotCommand::Cast(vote)) => {
                expected.extend(self.check_cast(vote, reply, now));
            }
            Command::Ballot(BallotCommand::CastAll(votes)) => {
                let Reply::VotesCast { votes: counted } = reply else { panic!("{reply:?}") };
                assert_eq!(counted.len(), votes.votes.len());
                for (vote, counted) in votes.clone().into_votes().zip(counted) {
                    expected.extend(self.check_cast(&vote, &counted.clone().into_reply(), now));
                }
            }
            _ => {}
        }
        let told = |effect: &&Effect| {
            matches!(effect, Effect::BallotOpened { .. } | Effect::VoteCast { .. } | Effect::BallotClosed { .. })
        };
        let mut told: Vec<String> = effects.iter().filter(told).map(|effect| format!("{effect:?}")).collect();
        let mut expected: Vec<String> = expected.iter().map(|effect| format!("{effect:?}")).collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected);
        self.compare(fleet);
    }

    /// Casts a vote, and compares the reply. Returns the effects.
    fn check_cast(&mut self, vote: &CastVote, reply: &Reply, now: Stamp) -> Vec<Effect> {
        assert_eq!(*reply, self.cast(vote, now), "{vote:?}");
        let Reply::VoteCast { existing: false, outcome } = reply else { return Vec::new() };
        let closed = outcome.map(|_| Effect::BallotClosed { id: vote.ballot });
        [Effect::VoteCast { id: vote.ballot, choice: vote.choice }].into_iter().chain(closed).collect()
    }

    /// Forgets closed ballots, and closes those whose deadline has passed. Returns the effects.
    fn pass(&mut self, now: Stamp) -> Vec<Effect> {
        let kept = |at: &Stamp| at.fleet + BALLOT_TTL_MS > now.fleet;
        self.ballots.retain(|known| known.closed.as_ref().is_none_or(|(_, at)| kept(at)));
        let mut effects = Vec::new();
        for known in &mut self.ballots {
            if known.closed.is_none() && known.opened.fleet + known.ballot.ttl <= now.fleet {
                known.closed = Some((BallotOutcome::Expired, now));
                effects.push(Effect::BallotClosed { id: known.ballot.id });
            }
        }
        effects
    }

    fn open(&mut self, ballot: &OpenBallot, now: Stamp, letters: &letters::Twin) -> Reply {
        if let Err(refusal) = ballot.check() {
            let is_in_bounds = (1..=MAX_BALLOT_DURATION_MS).contains(&ballot.ttl);
            let mut ids: Vec<_> = ballot.electorate.iter().filter_map(|elector| elector.letter).collect();
            let count = ids.len();
            ids.sort();
            ids.dedup();
            assert!(!is_in_bounds || ids.len() < count, "{refusal}");
            return Reply::Refused(refusal);
        }
        if let Some(known) = self.ballots.iter().find(|known| known.ballot.id == ballot.id) {
            let conflict = Reply::Refused(Refusal::BallotConflict { ballot: ballot.id });
            return if known.ballot.digest == ballot.digest {
                Reply::BallotOpened { existing: true }
            } else {
                conflict
            };
        }
        let mut ids = ballot.electorate.iter().filter_map(|elector| elector.letter);
        if let Some(letter) = ids.find(|id| letters.knows(*id)) {
            return Reply::Refused(Refusal::LetterConflict { letter });
        }
        self.ballots.push(Known { ballot: ballot.clone(), opened: now, votes: Vec::new(), closed: None });
        Reply::BallotOpened { existing: false }
    }

    fn cast(&mut self, vote: &CastVote, now: Stamp) -> Reply {
        let (ballot, member) = (vote.ballot, vote.member.clone());
        let Some(known) = self.ballots.iter_mut().find(|known| known.ballot.id == ballot) else {
            return Reply::Refused(Refusal::UnknownBallot { ballot });
        };
        if known.weight_of(&member) == 0 {
            return Reply::Refused(Refusal::NotElector { ballot, member });
        }
        let envelope = |vote: &CastVote| vote.evidence.as_ref().map(|evidence| evidence.envelope.clone());
        if let Some((first, _)) = known.votes.iter().find(|(vote, _)| vote.member == member) {
            let same = (first.choice, first.option) == (vote.choice, vote.option)
                && (envelope(first) == envelope(vote) || first.reason == vote.reason);
            let again = Reply::VoteCast { existing: true, outcome: known.outcome() };
            return if same { again } else { Reply::Refused(Refusal::AlreadyVoted { ballot, member }) };
        }
        if known.closed.is_some() {
            return Reply::Refused(Refusal::BallotClosed { ballot });
        }
        if vote.evidence.is_none() && known.ballot.electorate.iter().any(|one| one.name == member && one.signs) {
            let problem = format!("is missing: in this ballot, {member} signs its vote with its certificate");
            return Reply::Refused(Refusal::Invalid { field: "evidence".to_owned(), problem });
        }
        if !known.fits(vote) {
            let problem = match (vote.choice, known.ballot.options.len()) {
                (Choice::Approve, 0) => format!("is {}, must be 0: the ballot has no options", vote.option),
                (Choice::Approve, most) => {
                    format!("is {}, must be 1 to {most}: the number of the approved option", vote.option)
                }
                _ => format!("is {}, must be 0: only an approval is for an option", vote.option),
            };
            return Reply::Refused(Refusal::Invalid { field: "option".to_owned(), problem });
        }
        known.votes.push((vote.clone(), now));
        known.closed = known.decided().map(|outcome| (outcome, now));
        Reply::VoteCast { existing: false, outcome: known.outcome() }
    }

    fn compare(&self, fleet: &Fleet) {
        for known in &self.ballots {
            compare_one(known, fleet);
        }
        let open = self.ballots.iter().filter(|known| known.closed.is_none());
        let counts = fleet.ballot_counts();
        let (opened, bytes) = (open.clone().count(), self.ballots.iter().map(Known::bytes).sum::<u64>());
        let found = (counts.open as usize, counts.closed as usize, counts.bytes);
        assert_eq!(found, (opened, self.ballots.len() - opened, bytes));
        let ids = |fleet: &Fleet, before: Option<u64>, limit: usize, only_open: bool| -> Vec<(BallotId, u64)> {
            fleet.ballots(before, limit, only_open).iter().map(|ballot| (ballot.id, ballot.seq)).collect()
        };
        let newest = |known: Vec<&Known>| known.iter().rev().map(|known| known.ballot.id).collect::<Vec<_>>();
        for (only_open, expected) in [(true, newest(open.collect())), (false, newest(self.ballots.iter().collect()))] {
            let all = ids(fleet, None, MAX_PAGE, only_open);
            assert_eq!(all.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected);
            let (mut paged, mut before) = (Vec::new(), None);
            loop {
                let page = ids(fleet, before, 2, only_open);
                let Some((_, last)) = page.last() else { break };
                before = Some(*last);
                paged.extend(page);
            }
            assert_eq!(paged, all);
        }
    }
}

fn compare_one(known: &Known, fleet: &Fleet) {
    let Known { ballot, opened, votes, closed } = known;
    let found = fleet.ballot(ballot.id).expect("it is kept");
    let same = |vote: &Vote, (cast, at): &(CastVote, Stamp)| {
        let evidence = vote.evidence.as_ref().map(|evidence| VoteEvidence {
            envelope: evidence.envelope.clone(),
            binding: evidence.binding.clone(),
            certificate: evidence.certificate.clone(),
            authority: fleet.authority(evidence.authority).expect("it is kept").der.clone(),
        });
        let found = CastVote {
            ballot: ballot.id,
            member: vote.member.clone(),
            choice: vote.choice,
            option: vote.option,
            reason: vote.reason.clone(),
            evidence,
            attested_by: vote.attested_by.clone(),
        };
        assert_eq!((&found, &vote.at), (cast, at));
    };
    assert_eq!(found.votes.len(), votes.len());
    found.votes.iter().zip(votes).for_each(|(vote, cast)| same(vote, cast));
    let state = match *closed {
        None => BallotState::Open,
        Some((outcome, at)) => BallotState::Closed { outcome, at },
    };
    let expected = Ballot {
        seq: found.seq,
        id: ballot.id,
        opened_by: ballot.opened_by.clone(),
        question: ballot.question.clone(),
        options: ballot.options.clone(),
        electorate: ballot.electorate.clone(),
        threshold: ballot.threshold,
        opened: *opened,
        expires: opened.fleet + ballot.ttl,
        ttl: ballot.ttl,
        digest: ballot.digest,
        votes: found.votes.clone(),
        state,
        fleet: ballot.fleet.clone(),
        asked: ballot.asked,
    };
    assert_eq!(**found, expected);
    let tally = found.tally();
    let weight = |choice: Choice| -> u64 {
        let of_choice = votes.iter().filter(|(vote, _)| vote.choice == choice);
        of_choice.map(|(vote, _)| known.weight_of(&vote.member)).sum()
    };
    let expected = [Choice::Approve, Choice::Reject, Choice::Abstain].map(weight);
    assert_eq!([tally.approve, tally.reject, tally.abstain], expected);
}
