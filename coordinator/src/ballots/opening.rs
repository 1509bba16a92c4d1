//! Opens ballots.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{
    Ballot, BallotCommand, BallotId, Command, Elector, Fleet, Fraction, OpenBallot, Refusal, Reply,
    limits::{MAX_BALLOT_DURATION_MS, MAX_BALLOT_OPTIONS, MAX_OPTION_BYTES, MAX_QUESTION_BYTES, MIN_BALLOT_OPTIONS},
};
use robeing_platform::uuid_v7;
use robeing_proto::v1;
use robeing_settings::BallotDefaults;
use robeing_votes::{BallotContent, MAX_OPENED_TOGETHER, hex};
use serde::Serialize;
use tokio::{task::yield_now, time::Instant};

use super::{
    BallotError, Ballots, MAX_OPENING,
    approving::Resolving,
    check_count,
    electorate::{Addressed, Member},
    unexpected,
};
use crate::api::convert::{self, BadField};

/// Stands for the number of a ballot that is gone: the state machine numbered it, but nobody is told the number.
const UNTOLD: u64 = 0;
/// Longest threshold as text, bytes.
const MAX_THRESHOLD_BYTES: usize = 32;

/// A ballot as a caller wants to open it, checked as far as it can be without the fleet's state.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: BallotId,
    pub question: String,
    pub options: Vec<String>,
    pub electorate: Vec<Addressed>,
    /// `None`: the fleet's.
    pub threshold: Option<Fraction>,
    /// How long members have to vote, ms; `None`: as long as the fleet sets.
    pub ttl: Option<u64>,
}

/// Refuses a ballot that others than the coordinators would have to count.
fn check_mode(mode: i32) -> Result<(), BadField> {
    match v1::BallotMode::try_from(mode) {
        Ok(v1::BallotMode::Unspecified | v1::BallotMode::Majority) => Ok(()),
        Ok(v1::BallotMode::Byzantine) => {
            let problem = "coordinators have no part in such a ballot: open it at a member of a group, as `robeing \
                           vote open --group` does";
            Err(convert::bad("mode", problem))
        }
        Err(_) => Err(convert::bad("mode", "it is not known to this coordinator; upgrade it")),
    }
}

impl Draft {
    /// Checks a ballot. `fresh` draws an id.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn check(request: v1::OpenBallotRequest, fresh: impl FnOnce() -> u128) -> Result<Self, BadField> {
        let v1::OpenBallotRequest { id, question, options, electorate, threshold, deadline, mode } = request;
        check_mode(mode)?;
        let id = if id.is_empty() { BallotId(fresh()) } else { convert::ballot_id("id", &id)? };
        check_bytes("question", &question, MAX_QUESTION_BYTES)?;
        if !options.is_empty() && !(MIN_BALLOT_OPTIONS..=MAX_BALLOT_OPTIONS).contains(&options.len()) {
            let (count, least, most) = (options.len(), MIN_BALLOT_OPTIONS, MAX_BALLOT_OPTIONS);
            let problem = format!("it has {count} entries, must have none or {least} to {most}");
            return Err(convert::bad("options", problem));
        }
        let check_option = |option: &String| match option.len() {
            1..=MAX_OPTION_BYTES => Ok(()),
            bytes => Err(convert::bad("options", format!("one has {bytes} bytes, must have 1 to {MAX_OPTION_BYTES}"))),
        };
        options.iter().try_for_each(check_option)?;
        let threshold = match threshold.as_str() {
            "" => None,
            text => {
                check_bytes("threshold", text, MAX_THRESHOLD_BYTES)?;
                Some(text.parse::<Fraction>().map_err(|problem| convert::bad("threshold", problem))?)
            }
        };
        let ttl = convert::millis("deadline", deadline)?;
        if let Some(ttl) = ttl.filter(|ttl| !(1..=MAX_BALLOT_DURATION_MS).contains(ttl)) {
            let problem = format!("it is {ttl} ms, must be 1 to {MAX_BALLOT_DURATION_MS} ms (30 days)");
            return Err(convert::bad("deadline", problem));
        }
        Ok(Self { id, question, options, electorate: Addressed::check_all(electorate)?, threshold, ttl })
    }

    /// Returns whether agents may be among the members, so that it depends on the fleet's state who they are.
    fn names_agents(&self) -> bool {
        self.electorate.iter().any(Addressed::names_agents)
    }

    /// Returns whether this is the ballot that `opener` has opened before. Whom its addresses stood for does not count:
    /// they may stand for others by now. How they are written does. What it leaves to the fleet does not count either:
    /// the fleet may set something else by now.
    fn is_same_as(&self, known: &Ballot, opener: &str) -> bool {
        *known.opened_by == *opener
            && *known.question == *self.question
            && known.options == self.options
            && self.threshold.is_none_or(|threshold| threshold == known.threshold)
            && self.ttl.is_none_or(|ttl| ttl == known.ttl)
            && known.asked == Addressed::digest(&self.electorate)
    }

    /// Returns the command that opens the ballot in this fleet, with the defaults for what it does not set.
    pub(super) fn opened(
        &self,
        fleet: &str,
        defaults: BallotDefaults,
        opener: &str,
        members: Vec<Member>,
    ) -> OpenBallot {
        let asked = Addressed::digest(&self.electorate);
        let Self { id, question, options, .. } = self;
        let threshold = self.threshold.unwrap_or(defaults.threshold);
        let ttl = self.ttl.unwrap_or_else(|| defaults.ttl_ms());
        let content = BallotContent {
            fleet,
            id: id.0,
            question,
            options,
            electorate: members.iter().map(|member| (&*member.name, member.weight)).collect(),
            threshold: (threshold.numerator, threshold.denominator),
            ttl,
        };
        let digest = content.digest();
        let electorate: Vec<Elector> = members.into_iter().map(|member| member.elector(*id, &digest)).collect();
        let notice = Notice {
            ballot: id.to_string(),
            fleet,
            question,
            options,
            electorate: electorate.iter().map(NoticeElector::from).collect(),
            threshold: threshold.to_string(),
            ttl_ms: ttl,
            digest: hex(&digest),
            opened_by: opener,
        };
        // Nobody else gets it.
        let has_agents = electorate.iter().any(|elector| elector.letter.is_some());
        let notice = if has_agents { notice.to_json() } else { Bytes::new() };
        let (id, question, options) = (*id, question.clone(), options.clone());
        let (opened_by, fleet) = (opener.to_owned(), fleet.to_owned());
        OpenBallot { id, opened_by, question, options, electorate, threshold, ttl, digest, notice, fleet, asked }
    }
}

/// What the letters to the agents among a ballot's members say.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notice<'a> {
    /// Its id.
    ballot: String,
    fleet: &'a str,
    question: &'a str,
    options: &'a [String],
    electorate: Vec<NoticeElector<'a>>,
    threshold: String,
    ttl_ms: u64,
    /// In hexadecimal.
    digest: String,
    opened_by: &'a str,
}

#[derive(Serialize)]
struct NoticeElector<'a> {
    name: &'a str,
    weight: u32,
}

impl<'a> From<&'a Elector> for NoticeElector<'a> {
    fn from(elector: &'a Elector) -> Self {
        Self { name: &elector.name, weight: elector.weight }
    }
}

impl Notice<'_> {
    fn to_json(&self) -> Bytes {
        // Numbers and texts can always be written.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

fn check_bytes(field: &'static str, text: &str, most: usize) -> Result<(), BadField> {
    if !(1..=most).contains(&text.len()) {
        return Err(convert::bad(field, format!("it has {} bytes, must have 1 to {most}", text.len())));
    }
    Ok(())
}

/// A ballot that is about to be opened.
enum Prepared<'a> {
    /// It was opened before.
    Before(Arc<Ballot>),
    /// It is proposed.
    New(Box<New<'a>>),
}

/// A ballot that is proposed.
struct New<'a> {
    draft: &'a Draft,
    open: OpenBallot,
}

impl Prepared<'_> {
    /// Returns the command that opens the ballot, if it was not opened before.
    fn command(&self) -> Option<Command> {
        match self {
            Self::Before(_) => None,
            Self::New(new) => Some(Command::Ballot(BallotCommand::Open(new.open.clone()))),
        }
    }
}

/// Returns whether the reply to an opening is about a ballot that had been opened before, maybe as another one.
fn is_about_another(reply: &Reply) -> bool {
    matches!(reply, Reply::BallotOpened { existing: true } | Reply::Refused(Refusal::BallotConflict { .. }))
}

impl Ballots {
    /// Opens a ballot in the name of `opener`, and returns it as it is then. If the future is dropped, it may be opened
    /// nevertheless.
    ///
    /// # Errors
    /// [`BallotError`] if it was not opened, or is not known to be.
    pub async fn open(&self, opener: &str, request: v1::OpenBallotRequest) -> Result<Arc<Ballot>, BallotError> {
        self.open_all(opener, vec![request]).await?.pop().unwrap_or_else(|| Err(unexpected(None)))
    }

    /// Opens several ballots in the name of `opener`. Returns for each, in the same order, the ballot as it is then, or
    /// why it was not opened. If the future is dropped, they may be opened nevertheless.
    ///
    /// # Errors
    /// [`BallotError`] if none was opened, or it is not known which of them were.
    pub async fn open_all(
        &self,
        opener: &str,
        requests: Vec<v1::OpenBallotRequest>,
    ) -> Result<Vec<Result<Arc<Ballot>, BallotError>>, BallotError> {
        check_count("ballots", requests.len(), MAX_OPENED_TOGETHER)?;
        let full = |_| BallotError::TooManyOpening { most: MAX_OPENING };
        let _room = self.opening.try_acquire().map_err(full)?;
        let fresh = || uuid_v7(&*self.platform.clock, &*self.platform.random);
        let draft = |request| Draft::check(request, fresh).map_err(BallotError::from);
        let drafts: Vec<Result<Draft, BallotError>> = requests.into_iter().map(draft).collect();
        // An agent may have joined a moment ago, and a ballot that is known have votes, which may not be applied here yet.
        let needs_newest = |draft: &Draft| draft.names_agents() || self.known(draft.id).is_some();
        let (mut prepared, mut resolving) = (Vec::with_capacity(drafts.len()), Resolving::default());
        if drafts.iter().flatten().any(needs_newest) {
            self.catch_up().await?;
            resolving.is_newest = true;
        }
        for draft in &drafts {
            prepared.push(match draft {
                Ok(draft) => self.prepare(opener, draft, &mut resolving).await,
                Err(error) => Err(error.clone()),
            });
            // A ballot of many members takes a while, and users are found without waiting for anything.
            yield_now().await;
        }
        let commands: Vec<Command> = prepared.iter().flatten().filter_map(Prepared::command).collect();
        let replies = self.propose_all(&commands).await?;
        // Right after the opening of a new ballot, a state that knows it is new enough.
        if replies.iter().any(is_about_another) || prepared.iter().flatten().any(|one| self.is_behind(one)) {
            self.catch_up().await?;
        }
        let mut replies = replies.into_iter();
        let mut opened = |prepared| match prepared {
            Prepared::Before(ballot) => Ok(ballot),
            Prepared::New(new) => self.opened(opener, *new, replies.next()),
        };
        Ok(prepared.into_iter().map(|one: Result<Prepared<'_>, BallotError>| one.and_then(&mut opened)).collect())
    }

    /// Finds the members of a ballot, unless it was opened before. The same call opens those ballots before it that are
    /// being resolved.
    async fn prepare<'a>(
        &self,
        opener: &str,
        draft: &'a Draft,
        resolving: &mut Resolving,
    ) -> Result<Prepared<'a>, BallotError> {
        match self.prepare_here(opener, draft, resolving).await {
            Err(BallotError::Refused(refusal))
                if !resolving.is_newest && !matches!(refusal, Refusal::BallotConflict { .. }) =>
            {
                // What is applied here may be out of date, and there be room by now.
                self.catch_up().await?;
                resolving.is_newest = true;
                self.prepare_here(opener, draft, resolving).await
            }
            prepared => prepared,
        }
    }

    /// Same as [`Ballots::prepare`], by the state that is applied here.
    async fn prepare_here<'a>(
        &self,
        opener: &str,
        draft: &'a Draft,
        resolving: &mut Resolving,
    ) -> Result<Prepared<'a>, BallotError> {
        if let Some(ballot) = self.opened_before(opener, draft)? {
            return Ok(Prepared::Before(ballot));
        }
        let open = self.resolved(opener, draft, resolving).await?;
        if let Some(refusal) = self.without_room(&open) {
            return Err(BallotError::Refused(refusal));
        }
        resolving.take(&open);
        Ok(Prepared::New(Box::new(New { draft, open })))
    }

    /// Returns whether a new ballot that may be opened by now is not known here.
    fn is_behind(&self, prepared: &Prepared<'_>) -> bool {
        matches!(prepared, Prepared::New(new) if self.known(new.draft.id).is_none())
    }

    /// Returns the ballot for whose opening there is a reply, by the state that is applied here.
    fn opened(
        &self,
        opener: &str,
        New { draft, open }: New<'_>,
        reply: Option<Reply>,
    ) -> Result<Arc<Ballot>, BallotError> {
        match reply {
            // One that existed may be somebody else's, or asked otherwise, although the same members vote.
            Some(Reply::BallotOpened { .. }) => {
                let opened = self.opened_before(opener, draft)?;
                // It may be closed and dropped already, to make room.
                Ok(opened.unwrap_or_else(|| Arc::new(open.opened(UNTOLD, self.state.look(Fleet::now)))))
            }
            // The same may have been opened at another coordinator meanwhile, where the addresses stood for others.
            Some(Reply::Refused(refusal @ Refusal::BallotConflict { .. })) => {
                self.opened_before(opener, draft)?.ok_or(BallotError::Refused(refusal))
            }
            reply => Err(unexpected(reply)),
        }
    }

    /// Returns the ballot that this draft has opened before; `None` if its id is new.
    fn opened_before(&self, opener: &str, draft: &Draft) -> Result<Option<Arc<Ballot>>, BallotError> {
        match self.known(draft.id) {
            Some(known) if !draft.is_same_as(&known, opener) => {
                Err(BallotError::Refused(Refusal::BallotConflict { ballot: draft.id }))
            }
            known => Ok(known),
        }
    }

    /// Returns why a ballot need not be proposed: it is certain to be refused, because it is invalid, or there is no
    /// room for it in the state or on the coordinators' disks.
    fn without_room(&self, open: &OpenBallot) -> Option<Refusal> {
        let of_state = self.state.look(|fleet| fleet.refusal_of_ballot(open));
        of_state.or_else(|| self.rooms.refusal(Instant::now()).map(|reason| Refusal::NoRoom { reason }))
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Duration as WireDuration;
    use robeing_fleet::Stamp;
    use serde_json::{Value, json};

    use super::*;

    fn request() -> v1::OpenBallotRequest {
        let electorate = vec![v1::ElectorAddress { address: "everyone".into(), weight: 2 }];
        v1::OpenBallotRequest { question: "Ship it?".into(), electorate, ..v1::OpenBallotRequest::default() }
    }

    fn check(change: impl FnOnce(&mut v1::OpenBallotRequest)) -> Result<Draft, String> {
        let mut request = request();
        change(&mut request);
        Draft::check(request, || 9).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_fleet() {
        let draft = check(|_| {}).expect("a ballot");
        assert_eq!((draft.id, draft.threshold, draft.ttl), (BallotId(9), None, None));
        let threshold = Fraction { numerator: 66, denominator: 100 };
        let of = BallotDefaults { threshold, deadline: std::time::Duration::from_secs(90) };
        let open = draft.opened("one", of, "client:ann", Vec::new());
        assert_eq!((open.threshold, open.ttl), (threshold, 90_000));
        let open = draft.opened("one", BallotDefaults::default(), "client:ann", Vec::new());
        assert_eq!((open.threshold, open.ttl), (Fraction::TWO_THIRDS, 30_000));
        let set = check(|request| request.threshold = "1/2".into()).expect("a ballot");
        let open = set.opened("one", of, "client:ann", Vec::new());
        assert_eq!((open.threshold, open.ttl), (Fraction { numerator: 1, denominator: 2 }, 90_000));
    }

    #[test]
    fn every_field_has_its_limit() {
        let options = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        let seconds = |seconds: u64| Some(WireDuration { seconds: seconds as i64, nanos: 0 });
        let most_seconds = MAX_BALLOT_DURATION_MS / 1000;
        type Change<'a> = &'a dyn Fn(&mut v1::OpenBallotRequest);
        let good: [Change<'_>; 7] = [
            &|request| request.question = "q".repeat(MAX_QUESTION_BYTES),
            &|request| request.options = options(2),
            &|request| request.options = options(MAX_BALLOT_OPTIONS),
            &|request| request.options = vec!["a".repeat(MAX_OPTION_BYTES), "b".into()],
            &|request| request.threshold = "66%".into(),
            &|request| request.deadline = seconds(most_seconds),
            &|request| request.set_mode(v1::BallotMode::Majority),
        ];
        for (n, change) in good.into_iter().enumerate() {
            assert!(check(change).is_ok(), "{n}: {:?}", check(change));
        }
        let bad: [(&str, Change<'_>); 13] = [
            ("id", &|request| request.id = "seven".into()),
            ("question", &|request| request.question = String::new()),
            ("question", &|request| request.question = "q".repeat(MAX_QUESTION_BYTES + 1)),
            ("options", &|request| request.options = options(1)),
            ("options", &|request| request.options = options(MAX_BALLOT_OPTIONS + 1)),
            ("options", &|request| request.options = vec!["a".repeat(MAX_OPTION_BYTES + 1), "b".into()]),
            ("electorate", &|request| request.electorate = Vec::new()),
            ("threshold", &|request| request.threshold = "4/3".into()),
            ("threshold", &|request| request.threshold = format!("{}2/3", "0".repeat(MAX_THRESHOLD_BYTES - 2))),
            ("deadline", &|request| request.deadline = seconds(0)),
            ("deadline", &|request| request.deadline = seconds(most_seconds + 1)),
            ("mode", &|request| request.set_mode(v1::BallotMode::Byzantine)),
            ("mode", &|request| request.mode = 3),
        ];
        for (field, change) in bad {
            let problem = check(change).expect_err(field);
            assert!(problem.starts_with(field), "{field}: {problem}");
        }
    }

    #[test]
    fn a_ballot_is_the_same_if_the_same_opener_asks_the_same_in_the_same_words() {
        let draft = check(|_| {}).expect("a ballot");
        let opened = draft.opened("one", BallotDefaults::default(), "client:ann", Vec::new());
        let known = opened.opened(UNTOLD, Stamp::default());
        assert!(draft.is_same_as(&known, "client:ann"));
        assert!(!draft.is_same_as(&known, "client:bob"));
        let heavier = check(|request| request.electorate[0].weight = 3).expect("a ballot");
        assert!(!heavier.is_same_as(&known, "client:ann"), "the weight is another one");
        let others = check(|request| request.electorate[0].address = "role:worker".into()).expect("a ballot");
        assert!(!others.is_same_as(&known, "client:ann"), "others vote");
        let said = check(|request| request.threshold = "2/3".into()).expect("a ballot");
        assert!(said.is_same_as(&known, "client:ann"), "it is the fleet's threshold");
        let easier = check(|request| request.threshold = "1/2".into()).expect("a ballot");
        assert!(!easier.is_same_as(&known, "client:ann"), "the threshold is another one");
        let longer = WireDuration { seconds: 31, nanos: 0 };
        let longer = check(|request| request.deadline = Some(longer)).expect("a ballot");
        assert!(!longer.is_same_as(&known, "client:ann"), "the deadline is another one");
    }

    #[test]
    fn the_notice_has_what_an_agent_needs_to_compute_the_digest() {
        let elector =
            |name: &str, weight| Member { name: name.to_owned(), weight, is_agent: !name.contains(':'), signs: true };
        let draft = check(|request| request.options = vec!["a".into(), "\"b\"".into()]).expect("a ballot");
        let members = vec![elector("a", 1), elector("client:ann", 3)];
        let open = draft.opened("spiffe://x", BallotDefaults::default(), "client:ann", members);
        let content = BallotContent {
            fleet: "spiffe://x",
            id: 9,
            question: "Ship it?",
            options: &["a".to_owned(), "\"b\"".to_owned()],
            electorate: vec![("a", 1), ("client:ann", 3)],
            threshold: (2, 3),
            ttl: 30_000,
        };
        assert_eq!(open.digest, content.digest());
        assert_eq!((open.fleet.as_str(), open.electorate[0].signs), ("spiffe://x", true));
        let letters = open.electorate.iter().map(|elector| elector.letter.is_some()).collect::<Vec<_>>();
        assert_eq!(letters, [true, false], "agents are told by letters");
        let notice: Value = serde_json::from_slice(&open.notice).expect("it is JSON");
        let expected = json!({
            "ballot": BallotId(9).to_string(), "fleet": "spiffe://x", "question": "Ship it?", "options": ["a", "\"b\""],
            "electorate": [{"name": "a", "weight": 1}, {"name": "client:ann", "weight": 3}], "threshold": "2/3",
            "ttlMs": 30_000, "digest": hex(&open.digest), "openedBy": "client:ann",
        });
        assert_eq!(notice, expected);
    }
}
