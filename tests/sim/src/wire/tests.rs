//! What the network guarantees to its users.

use super::*;

const A: HostId = 0;
const B: HostId = 1;
const PORT: u16 = 1;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Returns two machines and a connection from A to B, at 100 ms.
fn connected() -> (Wire, Port, Socket, Socket) {
    connected_by(1)
}

fn connected_by(seed: u64) -> (Wire, Port, Socket, Socket) {
    let wire = Wire::new(seed, vec!["a".into(), "b".into()], millis(5));
    let mut port = wire.listen(B, PORT).unwrap();
    let mut connecting = Box::pin(wire.connect(A, B, PORT));
    assert!(now(connecting.as_mut()).is_none());
    (0..100).for_each(|ms| wire.step(millis(ms)));
    let a = now(connecting.as_mut()).expect("it is answered").unwrap();
    drop(connecting);
    let (b, _) = now(port.accept()).expect("it is there");
    (wire, port, a, b)
}

fn send(socket: &Socket, data: &[u8]) -> Option<io::Result<usize>> {
    now(std::future::poll_fn(|cx| socket.poll_write(cx, data)))
}

fn receive(socket: &Socket) -> Option<io::Result<Bytes>> {
    now(std::future::poll_fn(|cx| socket.poll_read(cx, usize::MAX)))
}

#[test]
fn bytes_arrive_late_and_in_order_and_then_the_end() {
    let (wire, _port, a, b) = connected();
    for part in ["one", "two"] {
        send(&a, part.as_bytes()).unwrap().unwrap();
    }
    assert!(receive(&b).is_none());
    drop(a);
    wire.step(millis(200));
    assert_eq!(receive(&b).unwrap().unwrap(), "one");
    assert_eq!(receive(&b).unwrap().unwrap(), "two");
    assert_eq!(receive(&b).unwrap().unwrap(), "", "the end");
}

#[test]
fn what_is_sent_over_a_cut_link_arrives_when_it_is_mended() {
    let (wire, _port, a, b) = connected();
    wire.cut(A, B);
    send(&a, b"late").unwrap().unwrap();
    send(&b, b"the other way").unwrap().unwrap();
    wire.step(millis(5_000));
    assert!(receive(&b).is_none());
    assert_eq!(receive(&a).unwrap().unwrap(), "the other way");
    wire.mend(A, B);
    wire.step(millis(5_000) + RETRANSMISSION);
    assert_eq!(receive(&b).unwrap().unwrap(), "late");
}

#[test]
fn nobody_listening_is_told_at_once_and_a_machine_without_power_tells_nothing() {
    let (wire, port, ..) = connected();
    drop(port);
    for off in [false, true] {
        wire.set_off(B, off);
        let mut connecting = Box::pin(wire.connect(A, B, PORT));
        assert!(now(connecting.as_mut()).is_none());
        (100..300).for_each(|ms| wire.step(millis(ms)));
        match now(connecting.as_mut()) {
            Some(Err(error)) => assert_eq!((error.kind(), off), (io::ErrorKind::ConnectionRefused, false)),
            other => assert!(other.is_none() && off, "{off}"),
        }
    }
}

#[test]
fn a_machine_that_was_without_power_knows_no_connection() {
    let (wire, _port, a, b) = connected();
    wire.set_off(B, true);
    drop(b);
    send(&a, b"lost").unwrap().unwrap();
    wire.step(millis(1_000));
    assert!(receive(&a).is_none(), "no reset arrives");
    wire.set_off(B, false);
    (1_000..1_100).for_each(|ms| wire.step(millis(ms)));
    assert_eq!(receive(&a).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_full_window_makes_the_sender_wait() {
    let (wire, _port, a, b) = connected();
    let data = vec![0; MAX_SEGMENT];
    let sent: usize = std::iter::from_fn(|| send(&a, &data)).map(Result::unwrap).sum();
    assert_eq!(sent, WINDOW);
    wire.step(millis(200));
    assert_eq!(receive(&b).unwrap().unwrap().len(), MAX_SEGMENT);
    assert!(send(&a, b"more").is_some());
}

#[test]
fn a_broken_connection_is_broken_for_both() {
    let (wire, _port, a, b) = connected();
    wire.break_all(B, A);
    wire.step(millis(200) + STRAYS_FOR);
    for socket in [&a, &b] {
        assert_eq!(receive(socket).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(send(socket, b"x").unwrap().is_err());
    }
}

#[test]
fn what_was_sent_on_a_broken_connection_may_arrive_behind_what_was_sent_since() {
    let strays = (0..50).filter(|seed| {
        let (wire, mut port, a, b) = connected_by(*seed);
        send(&a, b"first").unwrap().unwrap();
        wire.break_all(A, B);
        drop(a);
        let mut again = Box::pin(wire.connect(A, B, PORT));
        assert!(now(again.as_mut()).is_none());
        (101..150).for_each(|ms| wire.step(millis(ms)));
        let again = now(again.as_mut()).expect("it is answered").expect("the link is whole");
        send(&again, b"second").unwrap().unwrap();
        (150..200).for_each(|ms| wire.step(millis(ms)));
        let (other, _) = now(port.accept()).expect("it is there");
        assert_eq!(receive(&other).unwrap().unwrap(), "second");
        let early = receive(&b).is_some();
        let late = (200..2_000).find_map(|ms| {
            wire.step(millis(ms));
            receive(&b)
        });
        !early && matches!(late, Some(Ok(data)) if data == "first")
    });
    assert!((5..45).contains(&strays.count()));
}
