//! Invariants of ballots in any state.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Ballot, BallotOutcome, BallotState, KnownAuthority, Vote,
    indexes::{OpenOfOne, counted_bytes},
};
use crate::{
    Feature,
    audit::{Check, ensure},
    config::check_name,
    fleet::State,
    limits::*,
    numbered::Numbered,
};

/// Checks each ballot with its votes, and what there may be of all.
pub(crate) fn check_ballots(state: &State) -> Check {
    let ballots = &state.ballots;
    ensure(state.version >= Feature::Ballots.since() || *ballots == Default::default(), || {
        "ballots before their version".to_owned()
    })?;
    ballots.kept.check(MAX_BALLOTS)?;
    ballots.authorities.check(MAX_VOTE_AUTHORITIES)?;
    let now = state.now.fleet;
    check_authorities(&ballots.authorities, now)?;
    let (mut ids, mut unused) = (BTreeSet::new(), numbers(&ballots.authorities));
    let (mut open, mut bytes) = (0, 0_u64);
    let mut openers: BTreeMap<&str, OpenOfOne> = BTreeMap::new();
    for ballot in ballots.kept.iter() {
        let are_known = ballot.authorities().all(|number| ballots.authorities.get(number).is_some());
        ensure(are_known && is_sound(ballot, now) && ids.insert(ballot.id), || format!("ballot {}", ballot.id))?;
        ballot.authorities().for_each(|number| {
            unused.remove(&number);
        });
        let counted = counted_bytes(ballot, ballot.stored_bytes());
        bytes = bytes.saturating_add(counted);
        if ballot.is_open() {
            open += 1;
            let of_one = openers.entry(&ballot.opened_by).or_default();
            of_one.count += 1;
            of_one.bytes = of_one.bytes.saturating_add(counted);
        }
    }
    let fits = |of_one: &OpenOfOne| of_one.count <= MAX_OPEN_BALLOTS_OF_ONE && of_one.bytes <= MAX_BALLOT_BYTES_OF_ONE;
    ensure(openers.values().all(fits), || "more open ballots of one opener than its share".to_owned())?;
    ensure(unused.is_empty(), || "an authority that no vote refers to".to_owned())?;
    ensure(open <= MAX_OPEN_BALLOTS, || format!("{open} open ballots"))?;
    ensure(bytes <= MAX_BALLOT_BYTES, || format!("{bytes} bytes of ballots"))
}

fn numbers(authorities: &Numbered<KnownAuthority>) -> BTreeSet<u64> {
    authorities.iter().map(|authority| authority.number).collect()
}

fn check_authorities(authorities: &Numbered<KnownAuthority>, now: u64) -> Check {
    let mut known = BTreeSet::new();
    for authority in authorities.iter() {
        let sound = (1..=MAX_VOTE_AUTHORITY_BYTES).contains(&authority.der.len()) && authority.since.fleet <= now;
        ensure(sound && known.insert(&authority.der), || format!("authority {} of votes", authority.number))?;
    }
    Ok(())
}

fn is_sound(ballot: &Ballot, now: u64) -> bool {
    let decided = ballot.decided();
    let state = match &ballot.state {
        BallotState::Open => decided.is_none(),
        BallotState::Closed { outcome: BallotOutcome::Expired, at } => decided.is_none() && at.fleet <= now,
        BallotState::Closed { outcome, at } => decided == Some(*outcome) && at.fleet <= now,
    };
    let mut members = BTreeSet::new();
    state
        && ballot.content().check().is_ok()
        && ballot.opened.fleet <= now
        && ballot.expires == ballot.opened.fleet.saturating_add(ballot.ttl)
        && ballot.votes.iter().all(|vote| is_sound_vote(ballot, vote, now) && members.insert(&vote.member))
}

fn is_sound_vote(ballot: &Ballot, vote: &Vote, now: u64) -> bool {
    let evidence = vote.evidence.as_ref().is_none_or(|evidence| {
        (1..=MAX_ENVELOPE_BYTES).contains(&evidence.envelope.len())
            && (1..=MAX_BINDING_BYTES).contains(&evidence.binding.len())
            && (1..=MAX_VOTE_CERTIFICATE_BYTES).contains(&evidence.certificate.len())
    });
    evidence
        && ballot.elector(&vote.member).is_some_and(|elector| vote.evidence.is_some() || !elector.signs)
        && ballot.check_option(vote.choice, vote.option).is_ok()
        && vote.reason.len() <= MAX_VOTE_REASON_BYTES
        && check_name("attested_by", &vote.attested_by).is_ok()
        && (ballot.opened.fleet..=now).contains(&vote.at.fleet)
}
