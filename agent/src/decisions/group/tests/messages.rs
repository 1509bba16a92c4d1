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
