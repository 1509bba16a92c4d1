//! The domain of durable messages in the simplest form, as a check of every history: a list that is searched from end
//! to end.

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    BallotCommand, Command, ControlCommand, Effect, FIRST_VERSION, Feature, Fleet, Letter, LetterAnswer, LetterId,
    LetterOutcome, LetterState, MailCommand, PostLetter, Refusal, Reply, Stamp, SubmitTask, TaskCommand,
    limits::{LETTER_OUTCOME_TTL_MS, MAX_LETTER_TTL_MS},
};

use crate::{fixture::letters_for, ops::name_of, votes::notices};

prop_compose! {
    fn posting()(
        id in 0..12u128, receiver in 0..9u8, content in 0..3u8, priority in 0..12u8, sealed in any::<bool>(),
        ttl in prop_oneof![8 => 1..20_000u64, 4 => 20_000..1_000_000u64, 1 => Just(0), 1 => Just(MAX_LETTER_TTL_MS + 1)],
    ) -> PostLetter {
        PostLetter {
            id: LetterId(id),
            sender: "history".to_owned(),
            receiver: name_of(receiver),
            kind: "note".to_owned(),
            payload: Bytes::from(vec![content; usize::from(content)]),
            key_id: if sealed { "k".to_owned() } else { String::new() },
            priority,
            sent: 3,
            digest: [content; 32],
            ttl,
            to: "pool:data".to_owned(),
        }
    }
}

/// Commands for letters. An answer is from the receiver of some letter, or from another agent.
pub fn command() -> impl Strategy<Value = Command> {
    let answer = prop_oneof![
        3 => Just(LetterAnswer::Accepted),
        1 => Just(LetterAnswer::Refused { reason: "no".to_owned() }),
        1 => (0..100usize).prop_map(|bytes| LetterAnswer::Replied { reply: Bytes::from(vec![7; bytes]) }),
        1 => Just(LetterAnswer::ReplyDropped),
    ];
    let settle = (0..12u128, 0..9u8, answer).prop_map(|(id, receiver, answer)| {
        let (id, receiver) = (LetterId(id), name_of(receiver));
        MailCommand::Settle { id, receiver, answer }
    });
    prop_oneof![
        1 => posting().prop_map(|letter| Command::Mail(MailCommand::Post(letter))),
        1 => settle.prop_map(Command::Mail),
    ]
}

struct Known {
    letter: PostLetter,
    posted: Stamp,
    settled: Option<(LetterOutcome, Stamp)>,
}

/// What there should be of letters, in the order of posting.
pub struct Twin {
    version: u32,
    letters: Vec<Known>,
}

impl Default for Twin {
    fn default() -> Self {
        Twin { version: FIRST_VERSION, letters: Vec::new() }
    }
}

impl Twin {
    /// Does what a command should do, and compares the reply, the effects and the state.
    pub fn check(&mut self, fleet: &Fleet, (command, reply): (&Command, &Reply), effects: &[Effect]) {
        let now = fleet.now();
        let mut settled = self.pass(now);
        let mut delivered = Vec::new();
        match command {
            Command::Control(ControlCommand::RaiseVersion(version)) if *reply == Reply::Done => self.version = *version,
            Command::Mail(_) if self.version < Feature::Mail.since() => {
                assert!(matches!(reply, Reply::Refused(Refusal::NotInForce { .. })), "{reply:?}");
            }
            Command::Mail(MailCommand::Post(letter)) => {
                let expected = self.post(letter, now);
                assert_eq!(*reply, expected, "{letter:?}");
                delivered.extend((expected == Reply::Posted { existing: false }).then(|| letter.clone()));
            }
            Command::Mail(MailCommand::Settle { id, receiver, answer }) => {
                let waited = self.find(*id).is_some_and(|known| known.settled.is_none());
                let expected = self.settle(*id, receiver, answer, now);
                assert_eq!(*reply, expected, "{command:?}");
                settled.extend((waited && matches!(expected, Reply::Settled(_))).then_some(*id));
            }
            Command::Ballot(BallotCommand::Open(ballot)) if *reply == Reply::BallotOpened { existing: false } => {
                for letter in notices(ballot, now.wall) {
                    assert_eq!(self.post(&letter, now), Reply::Posted { existing: false });
                    delivered.push(letter);
                }
            }
            Command::Task(TaskCommand::Submit(SubmitTask { approval: Some(ballot), .. }))
                if matches!(reply, Reply::Submitted { existing: false, .. }) =>
            {
                for letter in notices(ballot, now.wall) {
                    assert_eq!(self.post(&letter, now), Reply::Posted { existing: false });
                    delivered.push(letter);
                }
            }
            _ => {}
        }
        let told: Vec<LetterId> = effects.iter().filter_map(settled_of).collect();
        assert_eq!(told.len(), settled.len());
        assert!(settled.iter().all(|id| told.contains(id)), "{told:?} instead of {settled:?}");
        let sent = |letter: PostLetter| Effect::Mail { receiver: letter.receiver.into(), id: letter.id };
        let told: Vec<&Effect> = effects.iter().filter(|effect| matches!(effect, Effect::Mail { .. })).collect();
        let sent: Vec<Effect> = delivered.into_iter().map(sent).collect();
        assert_eq!(told, sent.iter().collect::<Vec<_>>());
        self.compare(fleet);
    }

    /// Forgets outcomes, and expires letters. Returns those that expired.
    fn pass(&mut self, now: Stamp) -> Vec<LetterId> {
        let kept = |at: &Stamp| at.fleet + LETTER_OUTCOME_TTL_MS > now.fleet;
        self.letters.retain(|known| known.settled.as_ref().is_none_or(|(_, at)| kept(at)));
        let mut expired = Vec::new();
        for known in &mut self.letters {
            if known.settled.is_none() && known.posted.fleet + known.letter.ttl <= now.fleet {
                known.settled = Some((LetterOutcome::Expired, now));
                expired.push(known.letter.id);
            }
        }
        expired
    }

    /// Returns whether a letter has this id.
    pub fn knows(&self, id: LetterId) -> bool {
        self.letters.iter().any(|known| known.letter.id == id)
    }

    fn find(&mut self, id: LetterId) -> Option<&mut Known> {
        self.letters.iter_mut().find(|known| known.letter.id == id)
    }

    fn post(&mut self, letter: &PostLetter, now: Stamp) -> Reply {
        if !(1..=10).contains(&letter.priority) || !(1..=MAX_LETTER_TTL_MS).contains(&letter.ttl) {
            return Reply::Refused(letter.check().expect_err("it is out of bounds"));
        }
        if let Some(known) = self.find(letter.id) {
            let same = known.letter.digest == letter.digest;
            let conflict = Reply::Refused(Refusal::LetterConflict { letter: letter.id });
            return if same { Reply::Posted { existing: true } } else { conflict };
        }
        self.letters.push(Known { letter: letter.clone(), posted: now, settled: None });
        Reply::Posted { existing: false }
    }

    fn settle(&mut self, id: LetterId, receiver: &str, answer: &LetterAnswer, now: Stamp) -> Reply {
        let Some(known) = self.find(id) else { return Reply::Refused(Refusal::UnknownLetter { letter: id }) };
        if known.letter.receiver != receiver {
            return Reply::Refused(Refusal::OtherReceiver { letter: id, by: receiver.to_owned() });
        }
        let outcome = match answer {
            LetterAnswer::Accepted => LetterOutcome::Accepted,
            LetterAnswer::Refused { reason } => LetterOutcome::Refused { reason: reason.clone() },
            LetterAnswer::Replied { reply } => LetterOutcome::Replied { reply: reply.clone() },
            LetterAnswer::ReplyDropped => LetterOutcome::ReplyDropped,
        };
        Reply::Settled(known.settled.get_or_insert((outcome, now)).0.clone())
    }

    fn compare(&self, fleet: &Fleet) {
        let mut bytes = 0;
        for known in &self.letters {
            let found = fleet.letter(known.letter.id).expect("it is kept");
            compare_one(known, found);
            bytes += found.payload.len() + found.sender.len() + found.receiver.len() + found.kind.len();
            bytes += found.to.len() + found.key_id.len();
        }
        let waiting = self.letters.iter().filter(|known| known.settled.is_none());
        let counts = fleet.mail_counts();
        let found = (counts.waiting as usize, counts.settled as usize, counts.bytes);
        let waits = waiting.clone().count();
        assert_eq!(found, (waits, self.letters.len() - waits, bytes as u64));
        for receiver in (0..9).map(name_of) {
            let mut letters: Vec<_> = waiting.clone().filter(|known| known.letter.receiver == receiver).collect();
            // A stable sort: letters of one priority stay in the order of posting.
            letters.sort_by_key(|known| 10 - known.letter.priority);
            let expected: Vec<LetterId> = letters.iter().map(|known| known.letter.id).collect();
            assert_eq!(fleet.letters_waiting_for(&receiver), expected.len());
            let found: Vec<LetterId> = letters_for(fleet, &receiver).iter().map(|letter| letter.id).collect();
            assert_eq!(found, expected);
            compare_senders(fleet, &receiver, &letters);
        }
    }
}

/// Compares the letters of each sender that wait for a receiver with these, which are in its order.
fn compare_senders(fleet: &Fleet, receiver: &str, letters: &[&Known]) {
    let mut senders: Vec<&str> = Vec::new();
    let mut firsts = Vec::new();
    for known in letters {
        if !senders.contains(&known.letter.sender.as_str()) {
            senders.push(&known.letter.sender);
            firsts.push(known.letter.id);
        }
    }
    let found: Vec<LetterId> = fleet.first_letters_for(receiver).map(|letter| letter.id).collect();
    assert_eq!(found, firsts);
    for sender in senders {
        let of_sender = letters.iter().filter(|known| known.letter.sender == sender);
        let expected: Vec<LetterId> = of_sender.map(|known| known.letter.id).collect();
        let found: Vec<LetterId> = fleet.letters_from(sender, receiver, None).map(|letter| letter.id).collect();
        assert_eq!(found, expected, "of {sender}");
    }
}

fn settled_of(effect: &Effect) -> Option<LetterId> {
    match effect {
        Effect::LetterSettled { id } => Some(*id),
        _ => None,
    }
}

fn compare_one(known: &Known, found: &Letter) {
    let Known { letter, posted, settled } = known;
    let payload = if settled.is_none() { letter.payload.clone() } else { Bytes::new() };
    let state = match settled.clone() {
        None => LetterState::Waiting,
        Some((outcome, at)) => LetterState::Settled { outcome, at },
    };
    let expected = Letter {
        seq: found.seq,
        id: letter.id,
        sender: letter.sender.clone(),
        receiver: letter.receiver.as_str().into(),
        kind: letter.kind.clone(),
        payload,
        key_id: letter.key_id.clone(),
        priority: letter.priority,
        sent: letter.sent,
        digest: letter.digest,
        posted: *posted,
        expires: posted.fleet + letter.ttl,
        to: letter.to.clone(),
        state,
    };
    assert_eq!(*found, expected);
}
