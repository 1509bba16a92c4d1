//! Messages that are not those of members, and too many of them.

use super::*;

#[tokio::test]
async fn a_stranger_is_not_listened_to() {
    let stage = Stage::new().await;
    stage.formed().await;
    let say = |sender: &str, payload: Bytes| {
        let packet = Packet { sender: sender.into(), payload, ..packet(1) };
        stage.groups("a").receive(&packet)
    };
    let accepted = HandlerOutcome::Accepted { reply: None };
    assert_eq!(say("b", exchange::to_peer(GROUP, b"nonsense")), accepted);
    for (sender, payload) in [
        ("e", exchange::to_peer(GROUP, b"nonsense")),
        ("b", exchange::to_peer("others", b"nonsense")),
        ("b", Bytes::new()),
        ("b", Bytes::from_static(b"\xffx")),
    ] {
        assert!(matches!(say(sender, payload), HandlerOutcome::Refused { .. }), "{sender}");
    }
}

/// Handles three messages at once.
struct Few;

#[async_trait]
impl Handler for Few {
    async fn deliver(&self, _: Delivery) -> HandlerOutcome {
        HandlerOutcome::Refused { reason: "no".into() }
    }

    fn at_once(&self) -> usize {
        3
    }

    fn name(&self) -> &'static str {
        "command"
    }
}

#[tokio::test]
async fn clients_that_wait_for_a_group_without_a_quorum_take_not_all_places() {
    let mut stage = Stage::new().await;
    let group = stage.formed().await;
    for name in ["b", "c", "d"] {
        stage.stop(name).await;
    }
    let handler = GroupHandler::new(Arc::new(Few), stage.groups("a"));
    let deliver = |kind: &str, payload: Bytes| {
        let packet = Packet { sender: "b".into(), kind: kind.into(), payload, ..packet(1) };
        handler.deliver(Delivery { packet, deadline: Instant::now() + Duration::from_secs(60) })
    };
    let proposal = stage.proposal(&group, 1, "one");
    let waits = deliver(CLIENT_KIND, Ask::Propose { group: GROUP.into(), proposal }.to_bytes());
    let mut waits = std::pin::pin!(waits);
    assert!(timeout(Duration::from_millis(500), &mut waits).await.is_err(), "nobody decides it");
    let show = Ask::Show { group: GROUP.into() }.to_bytes();
    let refused = deliver(CLIENT_KIND, show).await;
    assert!(matches!(&refused, HandlerOutcome::Refused { reason } if reason.contains("too many")), "{refused:?}");
    let peer = deliver(PEER_KIND, exchange::to_peer(GROUP, b"nonsense")).await;
    assert_eq!(peer, HandlerOutcome::Accepted { reply: None });
    assert_eq!(deliver("text", Bytes::new()).await, HandlerOutcome::Refused { reason: "no".into() });
}

/// Papers by a clock that is ahead.
struct Ahead(TestPapers, u64);

impl Papers for Ahead {
    fn own(&self) -> Option<Own<'_>> {
        self.0.own()
    }

    fn fleet(&self) -> Option<String> {
        self.0.fleet()
    }

    fn bundle(&self) -> Option<&TrustBundle> {
        self.0.bundle()
    }

    fn now(&self) -> u64 {
        self.0.now() + self.1
    }
}

struct Clock {
    fleet: Fleet,
    ahead: Mutex<u64>,
}

#[async_trait]
impl PaperSource for Clock {
    async fn papers(&self) -> Option<Arc<dyn Papers>> {
        let ahead = *self.ahead.lock().expect("no test panics");
        Some(Arc::new(Ahead(papers(&self.fleet, "a", Instant::now()), ahead)))
    }
}

#[tokio::test]
async fn a_key_that_no_group_can_be_formed_with_any_more_makes_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(Clock { fleet: Fleet::new(), ahead: Mutex::new(0) });
    let source = Arc::clone(&clock) as Arc<dyn PaperSource>;
    let data = dir.path().to_owned();
    let groups = Groups::new("a".into(), Some(data.clone()), Platform::real(), source, CancellationToken::new());
    let enrol = async |group: &str| {
        let ask = Ask::Enrol { group: group.to_owned(), members: names() };
        groups.answer(&ask.to_bytes()).await.map(drop)
    };
    let set = |ahead: u64| *clock.ahead.lock().expect("no test panics") = ahead;
    for number in 0..limits::MAX_GROUPS as u64 {
        // Far enough apart that no pause of this process makes one as old as another.
        set(number * 1_000);
        enrol(&format!("g-{number:02}")).await.expect("there is room");
    }
    // One that enrols again is as new as then.
    let most = 2 * robeing_groups::MAX_AGE_MS;
    set(100_000);
    enrol("g-00").await.expect("it has a key");
    let refused = enrol("more").await.expect_err("there is no room");
    assert!(refused.contains("the most there may be"), "{refused}");
    set(most + 200_000);
    enrol("more").await.expect("there is room");
    let has = |group: &str| data.join("groups").join(group).exists();
    assert!(!has("g-01") && has("g-00") && has("g-02") && has("more"));
    // Those whose group was formed are never removed.
    for number in 2..limits::MAX_GROUPS {
        fs::write(data.join("groups").join(format!("g-{number:02}")).join("group.json"), "{}").expect("written");
    }
    enrol("another").await.expect("there is room");
    assert!(!has("g-00") && has("g-02"));
    let refused = enrol("last").await.expect_err("there is no room");
    assert!(refused.contains("the most there may be"), "{refused}");
}

#[tokio::test]
async fn a_key_for_a_next_epoch_is_kept_for_a_day() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(Clock { fleet: Fleet::new(), ahead: Mutex::new(0) });
    let source = Arc::clone(&clock) as Arc<dyn PaperSource>;
    let data = dir.path().to_owned();
    let groups = Groups::new("a".into(), Some(data.clone()), Platform::real(), source, CancellationToken::new());
    let ask = async |ask: Ask| groups.answer(&ask.to_bytes()).await.map(drop);
    ask(Ask::EnrolNext { group: "next".into(), members: names() }).await.expect("there is room");
    for number in 1..limits::MAX_GROUPS {
        let group = format!("g-{number:02}");
        ask(Ask::Enrol { group: group.clone(), members: names() }).await.expect("there is room");
        // It is formed, so only the other key can make room.
        fs::write(data.join("groups").join(group).join("group.json"), "{}").expect("written");
    }
    let kept = 2 * robeing_groups::MAX_AGE_MS + limits::NEXT_KEPT_MS;
    for (ahead, is_kept) in [(kept - 60_000, true), (kept + 60_000, false)] {
        *clock.ahead.lock().expect("no test panics") = ahead;
        let enrolled = ask(Ask::Enrol { group: "more".into(), members: names() }).await;
        assert_eq!(enrolled.is_err(), is_kept, "{enrolled:?}");
        assert_eq!(data.join("groups").join("next").exists(), is_kept, "{ahead}");
    }
}
