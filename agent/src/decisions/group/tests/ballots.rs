//! Ballots that the members of a group count themselves.

use robeing_bft::crypto::Digest;
use robeing_fleet::NOTICE_KIND;
use robeing_groups::{
    GroupError,
    ballot::{Attestation, BallotRecord, GroupBallotFile, Opening, ballot_id},
    exchange::{BallotShown, Opened},
};
use robeing_votes::{Choice, FileOutcome, hex};

use super::*;

/// Replies the same to every notice of a ballot, as long as it is for it.
struct Says(&'static str, &'static str);

#[async_trait]
impl Handler for Says {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        let Packet { kind, sender, agent, payload, .. } = delivery.packet;
        assert_eq!((&*kind, &*sender, &*agent), (NOTICE_KIND, "group:council", self.0));
        let notice: serde_json::Value = serde_json::from_slice(&payload).expect("it is JSON");
        assert_eq!(notice["question"], "which?");
        assert_eq!(notice["openedBy"], "client:ada");
        assert_eq!(notice["electorate"].as_array().map(Vec::len), Some(4));
        HandlerOutcome::Accepted { reply: Some(Bytes::from_static(self.1.as_bytes())) }
    }

    fn name(&self) -> &'static str {
        "test"
    }
}

fn handlers(replies: &[(&'static str, &'static str)]) -> BTreeMap<String, Arc<dyn Handler>> {
    let says = |&(name, reply): &(&'static str, &'static str)| {
        let handler: Arc<dyn Handler> = Arc::new(Says(name, reply));
        (name.to_owned(), handler)
    };
    replies.iter().map(says).collect()
}

const BLUE: &str = r#"{"vote": "approve", "option": "blue", "reason": "it is calm"}"#;
const NO: &str = r#"{"vote": "reject"}"#;

impl Stage {
    fn opening(&self, group: &Group, ttl: Duration, threshold: (u32, u32)) -> Opening {
        Opening {
            group: *group.epoch().domain(),
            nonce: [1; 16],
            at_ms: NOW,
            ttl_ms: u64::try_from((self.since.elapsed() + ttl).as_millis()).expect("it is short"),
            question: "which?".into(),
            options: ["red", "blue"].map(str::to_owned).to_vec(),
            threshold,
        }
    }

    pub(super) async fn opened(&self, name: &str, opening: &Opening) -> Digest {
        let opening = opening.sign(&self.fleet.certify(PeerRole::Client, "ada").own()).expect("a ballot");
        let ask = Ask::OpenBallot { group: GROUP.into(), opening: opening.clone() };
        let answer = self.ask(name, &ask).await.expect("it is opened");
        let opened: Opened = exchange::read("answer", &answer).expect("an id");
        assert_eq!(opened.ballot, hex(&ballot_id(&opening).0));
        ballot_id(&opening)
    }

    async fn shown(&self, name: &str, ballot: &Digest) -> (BallotShown, BallotRecord) {
        let ask = Ask::ShowBallot { group: GROUP.into(), ballot: hex(&ballot.0) };
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(answer) = self.ask(name, &ask).await {
                let shown: BallotShown = exchange::read("answer", &answer).expect("a ballot");
                let record = BallotRecord::decoded(&shown.record.0).expect("a record");
                return (shown, record);
            }
            assert!(Instant::now() < until, "{name} does not know the ballot");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a ballot is closed for a member.
    pub(super) async fn closed(&self, name: &str, ballot: &Digest) -> (BallotShown, BallotRecord) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let (shown, record) = self.shown(name, ballot).await;
            assert_eq!(shown.signature.is_some(), record.closed.is_some(), "what is final is signed");
            if record.closed.is_some() {
                return (shown, record);
            }
            assert!(Instant::now() < until, "it is open: {record:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn members_count_a_ballot_themselves_and_prove_its_outcome() {
    let stage = Stage::with(handlers(&[("a", BLUE), ("b", BLUE), ("c", NO), ("d", BLUE)])).await;
    let group = stage.formed().await;
    let ballot = stage.opened("a", &stage.opening(&group, Duration::from_secs(600), (2, 3))).await;
    let (first, record) = stage.closed("a", &ballot).await;
    assert_eq!((record.outcome, record.option), (FileOutcome::Approved, 2));
    assert!(record.votes.iter().filter(|vote| vote.choice == Choice::Approve).all(|vote| vote.reason == "it is calm"));
    let mut attested = Vec::new();
    for name in names() {
        let (shown, same) = stage.closed(&name, &ballot).await;
        assert_eq!(same, record, "all members come to the same");
        attested.push(Attestation { member: name, signature: shown.signature.expect("it is final") });
    }
    let file = GroupBallotFile::of(&group, first.opening, &record, attested);
    let read = GroupBallotFile::from_json(file.to_json().as_bytes()).expect("a file");
    let report = read.verify(Some(&stage.fleet.bundle())).expect("it is proved");
    assert_eq!((report.author, report.signers.len()), (Ok("client:ada".to_owned()), 4));
    let few = GroupBallotFile { attestations: file.attestations[..2].to_vec(), ..file };
    assert!(matches!(few.verify(None), Err(GroupError::NotProved { .. })));
}

#[tokio::test]
async fn a_ballot_expires_by_the_clocks_of_its_members() {
    let stage = Stage::with(handlers(&[("a", BLUE), ("b", "what?")])).await;
    let group = stage.formed().await;
    let ballot = stage.opened("b", &stage.opening(&group, Duration::from_secs(3), (2, 3))).await;
    let (_, record) = stage.closed("d", &ballot).await;
    assert_eq!((record.outcome, record.votes.len(), record.expired.len()), (FileOutcome::Expired, 1, 2));
    assert_eq!(group.name_of(&record.votes[0].by), Some("a"));
    assert!(stage.since.elapsed() >= Duration::from_secs(3), "not before");
}

#[tokio::test]
async fn a_member_that_was_away_votes_when_it_comes_back() {
    let mut stage = Stage::with(handlers(&[("a", BLUE), ("b", BLUE), ("c", BLUE), ("d", BLUE)])).await;
    let group = stage.formed().await;
    stage.stop("d").await;
    let ballot = stage.opened("a", &stage.opening(&group, Duration::from_secs(600), (1, 1))).await;
    // All members start again: nothing of the ballot is in their memory alone.
    for name in ["a", "b", "c"] {
        stage.stop(name).await;
        stage.start(name).await;
    }
    let (_, record) = stage.shown("b", &ballot).await;
    assert_eq!(record.outcome, FileOutcome::Open, "all must approve");
    stage.start("d").await;
    let (_, record) = stage.closed("c", &ballot).await;
    assert_eq!((record.outcome, record.votes.len()), (FileOutcome::Approved, 4));
}

#[tokio::test]
async fn a_ballot_of_nobody_whom_the_members_trust_is_not_opened() {
    let stage = Stage::new().await;
    let group = stage.formed().await;
    let opening = stage.opening(&group, Duration::from_secs(60), (2, 3));
    let refused = async |opening: Signed| {
        let ask = Ask::OpenBallot { group: GROUP.into(), opening };
        stage.ask("a", &ask).await.expect_err("it is refused")
    };
    let stranger = opening.sign(&Fleet::new().certify(PeerRole::Client, "ada").own()).expect("it is signed");
    assert!(refused(stranger).await.contains("authority that is not trusted"));
    let ada = stage.fleet.certify(PeerRole::Client, "ada");
    let old = Opening { at_ms: NOW - 700_000, ..opening.clone() }.sign(&ada.own()).expect("it is signed");
    let why = refused(old).await;
    assert!(why.contains("signed at another time") || why.contains("valid from"), "{why}");
    let mut changed = opening.sign(&ada.own()).expect("it is signed");
    changed.statement = robeing_votes::Base64(Opening { nonce: [2; 16], ..opening }.encoded().into());
    assert!(refused(changed).await.contains("is not proved"));
    let ask = Ask::ShowBallot { group: GROUP.into(), ballot: "00".repeat(32) };
    let unknown = stage.ask("a", &ask).await.expect_err("there is none");
    assert!(unknown.contains("knows no such ballot"), "{unknown}");
}
