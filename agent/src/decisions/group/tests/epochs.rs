//! Other members follow, by a decision of those before.

use robeing_groups::{
    NextEpoch,
    ballot::Opening,
    exchange::{Approved, HandedOver, StatePart},
};
use robeing_votes::{Base64, FileOutcome};

use super::*;
use crate::decisions::group::epochs::fetch;

/// Approves everything.
struct Yes;

#[async_trait]
impl Handler for Yes {
    async fn deliver(&self, _: Delivery) -> HandlerOutcome {
        HandlerOutcome::Accepted { reply: Some(Bytes::from_static(br#"{"vote": "approve"}"#)) }
    }

    fn name(&self) -> &'static str {
        "test"
    }
}

fn all() -> Vec<String> {
    ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec()
}

impl Stage {
    /// Five agents that approve everything.
    async fn of_five() -> Self {
        let handlers = all().into_iter().map(|name| (name, Arc::new(Yes) as Arc<dyn Handler>)).collect();
        let mut stage = Self::with(handlers).await;
        stage.start("e").await;
        stage
    }

    /// Asks until there is an answer.
    async fn answered(&self, name: &str, ask: &Ask) -> Bytes {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.ask(name, ask).await {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < until, "{name}: {error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn enrolled_next(&self, group: &Group, members: &[String]) -> NextEpoch {
        let mut next = Vec::new();
        for name in members {
            let ask = Ask::EnrolNext { group: GROUP.into(), members: members.to_vec() };
            let answer = self.ask(name, &ask).await.expect("it enrols");
            next.push(exchange::read::<Enrolled>("answer", &answer).expect("an enrolment").enrolment);
        }
        NextEpoch::verify(group, next).expect("they may follow")
    }

    /// Has the members decide who follows, by a ballot.
    async fn decided(&self, group: &Group, next: &NextEpoch) {
        let opening = Opening {
            group: *group.epoch().domain(),
            nonce: [1; 16],
            at_ms: NOW,
            ttl_ms: 600_000,
            question: next.question(),
            options: Vec::new(),
            threshold: (2, 3),
        };
        let ballot = self.opened("a", &opening).await;
        let (_, record) = self.closed("a", &ballot).await;
        assert_eq!(record.outcome, FileOutcome::Approved);
    }

    /// Ends the epoch, and returns the description of the group in the next one.
    async fn changed(&self, group: &Group, next: &NextEpoch) -> GroupFile {
        let mut approvals = Vec::new();
        for name in ["a", "b", "c"] {
            let ask = Ask::Approve { group: GROUP.into(), next: next.signed().to_vec() };
            let answer = self.answered(name, &ask).await;
            approvals.push(exchange::read::<Approved>("answer", &answer).expect("an approval").approval);
        }
        let ask = Ask::Change { group: GROUP.into(), next: next.signed().to_vec(), approvals };
        let answer = self.answered("b", &ask).await;
        let decision = exchange::read::<Decided>("answer", &answer).expect("it is decided").decision;
        let answer = self.answered("c", &Ask::Handover { group: GROUP.into() }).await;
        let HandedOver { decision: end, stable } = exchange::read("answer", &answer).expect("it has ended");
        let file = group.file().clone().followed_by(next.signed().to_vec(), end, stable);
        let file = GroupFile::from_json(file.to_json().as_bytes()).expect("a file");
        let again = file.clone().verify().expect("it is proved");
        assert_eq!((again.epoch().number, again.epoch().start().seq.0), (1, decision));
        assert!(again.follows(group) && !group.follows(&again));
        file
    }

    /// Returns what was decided, once this agent has so many decisions and they are proved.
    async fn history(&self, name: &str, group: &Group, least: u64) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(60);
        let page = loop {
            let page = self.page(name).await;
            if page.last >= least && page.decisions.len() as u64 == page.last {
                break page;
            }
            assert!(Instant::now() < until, "{name}: {} of {}", page.decisions.len(), page.last);
            sleep(Duration::from_millis(100)).await;
        };
        let report = LogFile::of(group, page.decisions).verify(Some(&self.fleet.bundle())).expect("all is proved");
        let entries = report.decisions.into_iter().flat_map(|decision| decision.entries);
        let text = |entry: robeing_groups::CheckedEntry| {
            assert!(entry.author.is_ok(), "{entry:?}");
            entry.proposal.map(|proposal| String::from_utf8_lossy(&proposal.text).into_owned())
        };
        entries.filter_map(text).collect()
    }
}

#[tokio::test]
async fn the_next_epoch_is_a_decision_of_the_one_before_and_a_lost_member_comes_back_under_a_new_key() {
    let mut stage = Stage::of_five().await;
    let group = stage.formed().await;
    stage.propose("a", &group, 1, "one").await;
    stage.stop("d").await;
    fs::remove_dir_all(stage.data("d")).expect("it is the test's");
    stage.start("d").await;
    let next = stage.enrolled_next(&group, &all()).await;
    // Nobody approves what the group has not decided.
    let ask = Ask::Approve { group: GROUP.into(), next: next.signed().to_vec() };
    let refused = stage.ask("a", &ask).await.expect_err("it is not decided");
    assert!(refused.contains("does not know that 3 members have approved"), "{refused}");
    let ask = Ask::Change { group: GROUP.into(), next: next.signed().to_vec(), approvals: Vec::new() };
    assert!(stage.ask("a", &ask).await.is_err(), "nor changes it");
    stage.decided(&group, &next).await;
    let file = stage.changed(&group, &next).await;
    // The epoch has ended.
    let late = stage.ask("a", &Ask::Propose { group: GROUP.into(), proposal: stage.proposal(&group, 9, "late") }).await;
    let refused = late.expect_err("it has ended");
    assert!(refused.contains("the epoch has ended"), "{refused}");
    for name in all() {
        stage.answered(&name, &Ask::Form { file: file.clone() }).await;
        stage.ask(&name, &Ask::Form { file: file.clone() }).await.expect("it is a member already");
    }
    let later = file.verify().expect("a group");
    stage.propose("e", &later, 2, "two").await;
    let number = stage.propose("d", &later, 3, "three").await;
    for name in all() {
        assert_eq!(stage.history(&name, &later, number).await, ["one", "two", "three"], "{name}");
    }
    let old = stage.ask("a", &Ask::Propose { group: GROUP.into(), proposal: stage.proposal(&group, 4, "old") }).await;
    assert!(old.expect_err("it is of the epoch before").contains("of another group"));
    // Members that start again stay in the epoch that they are in.
    for name in all() {
        stage.stop(&name).await;
        stage.start(&name).await;
    }
    let number = stage.propose("a", &later, 5, "four").await;
    assert_eq!(stage.history("e", &later, number).await, ["one", "two", "three", "four"]);
}

#[tokio::test]
async fn a_description_whose_epochs_were_not_decided_is_refused() {
    let stage = Stage::of_five().await;
    let group = stage.formed().await;
    let next = stage.enrolled_next(&group, &all()).await;
    stage.decided(&group, &next).await;
    let file = stage.changed(&group, &next).await;
    // Other members than those that were decided on.
    let mut forged = file.clone();
    forged.members = Fleet::new().next_enrolments();
    let refused = stage.ask("a", &Ask::Form { file: forged }).await.expect_err("it is refused");
    assert!(refused.contains("of another epoch"), "{refused}");
    // Another decision.
    let mut forged = file.clone();
    forged.earlier[0].decision = stage.page("a").await.decisions[0].clone();
    assert!(stage.ask("a", &Ask::Form { file: forged }).await.is_err());
    // Another epoch before it.
    let mut forged = file.clone();
    forged.earlier[0].members = Fleet::new().group().0.file().members.clone();
    assert!(stage.ask("a", &Ask::Form { file: forged }).await.is_err());
    stage.answered("a", &Ask::Form { file }).await;
}

#[tokio::test]
async fn an_agent_starts_in_the_next_epoch_although_nobody_waits_for_that_any_more() {
    let stage = Stage::of_five().await;
    let group = stage.formed().await;
    let next = stage.enrolled_next(&group, &all()).await;
    stage.decided(&group, &next).await;
    // Who enrols again has the same disk and key, so the ballot is about that, too.
    let again = stage.enrolled_next(&group, &all()).await;
    assert!(again.membership() == next.membership() && again.signed() != next.signed());
    let file = stage.changed(&group, &again).await;
    let later = file.clone().verify().expect("a group");
    let until = Instant::now() + Duration::from_secs(60);
    for name in all() {
        let asked = timeout(Duration::ZERO, stage.groups(&name).adopt(later.clone())).await;
        assert!(asked.is_err(), "it has only begun");
        loop {
            if let Ok(answer) = stage.ask(&name, &Ask::Show { group: GROUP.into() }).await
                && exchange::read::<Shown>("answer", &answer).expect("a status").file == file
            {
                break;
            }
            assert!(Instant::now() < until, "{name} is not in the next epoch");
            sleep(Duration::from_millis(50)).await;
        }
        let folder = stage.data(&name).join("groups").join(GROUP);
        let has = |file: &str| folder.join(file).exists();
        assert!(has("records-1") && has("initial-1") && !has("records"), "{name}");
    }
    let number = stage.propose("e", &later, 1, "one").await;
    assert_eq!(stage.history("a", &later, number).await, ["one"]);
}

/// Gives a state byte by byte.
struct Drip;

#[async_trait]
impl Post for Drip {
    async fn send(&self, _: &str, _: Bytes) {}

    async fn ask(&self, _: &str, _: Bytes) -> Result<Bytes, String> {
        Ok(exchange::json(&StatePart { bytes: Base64(Bytes::from_static(b"x")), size: 1 << 20 }))
    }
}

#[tokio::test]
async fn an_agent_that_gives_a_state_byte_by_byte_holds_nobody_up() {
    let group = Fleet::new().group().0;
    let refused = fetch(&Drip, "b", &group, group.epoch().start()).await.expect_err("it is refused");
    assert_eq!(refused, "it is too large, or is cut");
}
