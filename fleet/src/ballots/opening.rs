//! How ballots are opened, and how room is made for them.

use super::command::OpenBallot;
use crate::{
    Effect, Fleet, PostLetter, Refusal, Reply,
    limits::{MAX_BALLOT_BYTES, MAX_BALLOT_BYTES_OF_ONE, MAX_BALLOTS, MAX_OPEN_BALLOTS, MAX_OPEN_BALLOTS_OF_ONE},
    steps::{Job, Jobs},
};

impl Fleet {
    /// Returns the refusal that this ballot would get now, if it is out of bounds or the state has no room for it or for
    /// its letters. A ballot whose id is known needs no room.
    pub fn refusal_of_ballot(&self, ballot: &OpenBallot) -> Option<Refusal> {
        if let Err(refusal) = ballot.check() {
            return Some(refusal);
        }
        let refusal = self.check_ballot_room(ballot).err()?;
        self.opened_before(ballot).is_none().then_some(refusal)
    }

    pub(super) fn open_ballot(&mut self, ballot: OpenBallot, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = ballot.check() {
            return Reply::Refused(refusal);
        }
        if let Some(reply) = self.opened_before(&ballot) {
            return reply;
        }
        let notices = match self.check_ballot_room(&ballot) {
            Ok(notices) => notices,
            Err(refusal) => return Reply::Refused(refusal),
        };
        self.open_new_ballot(ballot, notices, jobs, effects);
        Reply::BallotOpened { existing: false }
    }

    /// Opens a ballot that is new, and for which there is room, and posts its letters.
    pub(crate) fn open_new_ballot(
        &mut self,
        ballot: OpenBallot,
        notices: Vec<PostLetter>,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.state.now;
        self.make_room_for_ballot(ballot.counted_bytes());
        let id = ballot.id;
        let opened = self.state.ballots.kept.add(|seq| ballot.opened(seq, now));
        self.indexes.enter_ballot(opened);
        effects.push(Effect::BallotOpened { id });
        if !notices.is_empty() {
            jobs.push(Job::Post(notices.into_iter()));
        }
    }

    /// Returns the reply to a ballot whose id is known; `None` if it is new.
    fn opened_before(&self, ballot: &OpenBallot) -> Option<Reply> {
        let known = self.ballot(ballot.id)?;
        Some(match known.digest == ballot.digest {
            true => Reply::BallotOpened { existing: true },
            false => Reply::Refused(Refusal::BallotConflict { ballot: ballot.id }),
        })
    }

    /// Refuses a ballot if there is no room for it or for the letters to its members. Returns these, which are only made
    /// if there is room for the ballot.
    pub(crate) fn check_ballot_room(&self, ballot: &OpenBallot) -> Result<Vec<PostLetter>, Refusal> {
        self.check_room_for_ballots(&ballot.opened_by, 1, ballot.counted_bytes())?;
        let notices = ballot.notices(self.state.now.wall);
        if let Some(notice) = notices.iter().find(|notice| self.letter(notice.id).is_some()) {
            return Err(Refusal::LetterConflict { letter: notice.id });
        }
        self.check_mail_room(&notices)?;
        Ok(notices)
    }

    /// Refuses so many more ballots of an opener, which count for `bytes` together, if there is no room for all of them.
    /// Nothing is read but counters.
    ///
    /// # Errors
    /// [`Refusal::Full`], with the limit that they exceed.
    pub fn check_room_for_ballots(&self, opener: &str, more: usize, bytes: u64) -> Result<(), Refusal> {
        let full = |what: &str, limit: u64, remedy: &str| {
            Err(Refusal::Full { what: what.to_owned(), limit, remedy: remedy.to_owned() })
        };
        let indexes = &self.indexes.ballots;
        if indexes.open.len().saturating_add(more) > MAX_OPEN_BALLOTS {
            return full("open ballots", MAX_OPEN_BALLOTS as u64, "open this one when some are closed");
        }
        let of_one = indexes.open_of(opener);
        if of_one.count.saturating_add(more) > MAX_OPEN_BALLOTS_OF_ONE {
            let remedy = "open this one when some of yours are closed";
            return full("open ballots of one opener", MAX_OPEN_BALLOTS_OF_ONE as u64, remedy);
        }
        if of_one.bytes.saturating_add(bytes) > MAX_BALLOT_BYTES_OF_ONE {
            let remedy = "open this one when some of yours are closed, or let fewer members vote";
            let what = "bytes of the open ballots of one opener and of the votes that they wait for";
            return full(what, MAX_BALLOT_BYTES_OF_ONE, remedy);
        }
        // Closed ballots make room, and open ones never do.
        if indexes.open_bytes.saturating_add(bytes) > MAX_BALLOT_BYTES {
            let remedy = "open this one when some are closed, or let fewer members vote";
            return full("bytes of open ballots and of the votes that they wait for", MAX_BALLOT_BYTES, remedy);
        }
        Ok(())
    }

    /// Drops the ballots that were closed first, as many as it takes to keep another one of so many bytes. Each counts
    /// for at least [`LEAST_BALLOT_BYTES`](crate::limits::LEAST_BALLOT_BYTES), so these are few.
    fn make_room_for_ballot(&mut self, bytes: u64) {
        while self.lacks_room_for_ballot(bytes)
            && let Some((_, seq)) = self.indexes.ballots.closed.first().copied()
        {
            self.forget_ballot(seq);
        }
    }

    fn lacks_room_for_ballot(&self, bytes: u64) -> bool {
        let counted = self.indexes.ballots.counted_bytes().saturating_add(bytes);
        self.state.ballots.kept.len() >= MAX_BALLOTS || counted > MAX_BALLOT_BYTES
    }

    /// Removes a ballot, and the authorities that no other one refers to.
    pub(super) fn forget_ballot(&mut self, seq: u64) {
        let Some(ballot) = self.state.ballots.kept.remove(seq, &self.snapshots) else { return };
        self.indexes.leave_ballot(&ballot);
        for number in ballot.authorities() {
            if self.indexes.ballots.uses.contains_key(&number) {
                continue;
            }
            if let Some(authority) = self.state.ballots.authorities.remove(number, &self.snapshots) {
                self.indexes.ballots.leave_authority(&authority);
            }
        }
    }
}
