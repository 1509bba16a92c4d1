//! What fuzz targets run of the parsers that only this crate uses. Each function takes one input, and panics if the input
//! is not handled as it must be.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use prost::Message;
use robeing_net::ConnectInfo;
use robeing_proto::internal::v1::{CoordinatorMessage, Letter, Stopped, completion, coordinator_message};
use tokio::time::Instant;

use crate::{
    executor::http::retry_after::retry_after,
    mailbox::driver::packet,
    messaging::{
        Outcome, Packet, PacketId,
        broadcast::MAX_TARGETS,
        driver::relay,
        packet::{MAX_DEADLINE_MS, RELAY_TYPE},
        sealing::{OpeningKey, SealingError, open},
    },
    roles::messenger::gateway::{
        MAX_WAIT,
        caller::Caller,
        media::Media,
        problem::Problem,
        requests::{self, MAX_TASKS},
        server::{MAX_ID, MAX_REASON, Query, Route},
    },
    session::{
        held::{Held, Key},
        wire,
    },
};

/// Checks that a problem is the client's, and says what it is.
fn check_problem(problem: Problem) {
    let response = problem.response();
    assert!(response.status().is_client_error(), "{}", response.status());
    let body =
        response.into_body().collect().now_or_never().expect("it is whole").expect("it has no errors").to_bytes();
    let document: serde_json::Value = serde_json::from_slice(&body).expect("it is JSON");
    assert!(document["detail"].as_str().is_some_and(|detail| detail.contains(' ')), "{document}");
}

/// Reads an input in the form of HTTP/1.1 without method and version: path and query, a line for each header, an empty line,
/// and the body.
fn request(input: &[u8]) -> Option<(&str, HeaderMap, Bytes)> {
    let (head, body) = match input.windows(2).position(|two| two == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let target = std::str::from_utf8(lines.next()?).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines.take(robeing_net::web::MAX_WEB_HEADERS) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some((target, headers, Bytes::copy_from_slice(body)))
}

/// A request to the gateway: every part of it is read within the limits, or refused as the client's mistake.
pub fn gateway_request(input: &[u8]) {
    let Some((target, headers, body)) = request(input) else { return };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if let Some(route @ (Route::Task(id) | Route::Message(id))) = Route::of(path) {
        assert!((1..=MAX_ID).contains(&id.len()) && path.ends_with(id) && !route.methods().is_empty());
    }
    let mut to = None;
    match Query::parse(query) {
        Ok(query) => {
            assert!(query.wait.is_none_or(|wait| wait <= MAX_WAIT) && query.reason.len() <= MAX_REASON);
            to = query.to;
        }
        Err(problem) => check_problem(problem),
    }
    Media::wanted(&headers, Media::Json).map(drop).unwrap_or_else(check_problem);
    for tls in [false, true] {
        let connection = ConnectInfo { encrypted: tls, ..ConnectInfo::default() };
        match Caller::of(&connection, &headers, tls) {
            Ok(caller) => {
                assert!(tls || caller == Caller::Anonymous, "a token is sent over TLS alone");
                caller.mark(&mut tonic::Request::new(()));
            }
            Err(problem) => check_problem(problem),
        }
    }
    let is_served = requests::check_media(&headers).map_err(check_problem).is_ok();
    match requests::tasks(&headers, body.clone()) {
        Ok(tasks) => {
            assert!(is_served && (1..=MAX_TASKS).contains(&tasks.tasks.len()));
            assert!(tasks.is_batch || tasks.tasks.len() == 1);
            let refused = tasks.tasks.iter().filter_map(|task| task.as_ref().err());
            assert!(refused.into_iter().all(|refused| refused.message.contains(' ')));
        }
        Err(problem) => check_problem(problem),
    }
    match requests::message(&headers, to.as_deref(), body) {
        Ok(_) => assert!(is_served),
        Err(problem) => check_problem(problem),
    }
}

/// The headers with which a server asks to wait: the first line is `Retry-After`, the second one `Date`.
pub fn retry_after_of(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for (name, line) in
        [http::header::RETRY_AFTER, http::header::DATE].into_iter().zip(input.split(|byte| *byte == b'\n'))
    {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.insert(name, value);
        }
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let wanted = retry_after(&headers, now);
    assert!(wanted.is_none() || headers.contains_key(http::header::RETRY_AFTER));
}

/// A letter from the coordinators: it becomes a packet within the limits, or an answer that says what is wrong.
pub fn letter(bytes: &[u8]) {
    let Ok(letter) = Letter::decode(bytes) else { return };
    let id = PacketId(7);
    match packet(id, letter, &"me".into()) {
        Ok(packet) => {
            assert_eq!((packet.validate(), packet.id, &*packet.agent), (Ok(()), id, "me"));
            unsealed(packet);
        }
        Err(answer) => {
            assert_eq!(answer.id, id.to_bytes());
            assert!(answer.refused.is_some_and(|reason| reason.contains(' ')));
        }
    }
}

/// A packet to a messenger that asks it to pass a message on, and that may be sealed.
pub fn relayed(bytes: &[u8]) {
    let Ok(wire) = robeing_proto::message::v1::Packet::decode(bytes) else { return };
    let packet = match Packet::from_wire(wire) {
        Ok(packet) => packet,
        Err(refused) => return assert!(refused.to_string().contains(' ')),
    };
    match relay::read(&packet) {
        Ok((message, targets)) => {
            assert_eq!(message.validate(), Ok(()));
            assert!(targets.len() <= MAX_TARGETS && message.deadline_in_ms <= MAX_DEADLINE_MS);
            assert!(message.sender == packet.sender && &*message.kind != RELAY_TYPE, "only the sender's own");
        }
        Err(Outcome::Refused { reason }) => assert!(reason.contains(' '), "{reason:?}"),
        Err(other) => panic!("it is not {other:?}"),
    }
    unsealed(packet);
}

/// Opens a payload with a key that everybody knows.
fn unsealed(mut packet: Packet) {
    let key = OpeningKey::from_bytes(&[7; 32]).expect("it is a key");
    let before = packet.clone();
    match open(&mut packet, &key) {
        Ok(()) => assert!(packet.key_id.is_none() && packet.payload.len() <= before.payload.len()),
        Err(refused) => assert_eq!((refused, packet), (SealingError::NotOpened, before), "it is left as it was"),
    }
}

/// The messages of a coordinator in a session, each with its length before it: no more runs than there are slots, and every
/// attempt ends.
pub fn coordinator_messages(mut bytes: &[u8]) {
    const SLOTS: usize = 2;
    let (mut held, mut running) = (Held::new(SLOTS as u32), Vec::new());
    while !bytes.is_empty() {
        let Ok(message) = CoordinatorMessage::decode_length_delimited(&mut bytes) else { break };
        match message.message {
            Some(coordinator_message::Message::Assignments(assignments)) => {
                assignments.assignments.into_iter().for_each(|assignment| held.assigned(assignment, Instant::now()));
            }
            Some(coordinator_message::Message::Cancels(cancels)) => {
                let keys = cancels.attempts.into_iter().map(|of| Key { task_id: of.task_id, attempt: of.attempt });
                keys.for_each(|key| held.cancel(key));
            }
            Some(coordinator_message::Message::CompletionAcks(acks)) => {
                let keys = acks.acks.into_iter().map(|of| Key { task_id: of.task_id, attempt: of.attempt });
                keys.for_each(|key| held.acknowledged(key));
            }
            Some(coordinator_message::Message::HandBack(_)) => {
                held.hand_back_waiting();
                held.stop_and_hand_back();
            }
            Some(coordinator_message::Message::SessionEnded(_)) => {
                held.reset();
                running.clear();
            }
            _ => {}
        }
        while let Some((waiting, cancel)) = held.start_next() {
            let key = Key::from(&waiting.assignment);
            match wire::attempt(waiting, Duration::from_millis(5), u64::MAX - 5) {
                Ok(attempt) => {
                    assert!(attempt.time_limit.is_none_or(|limit| !limit.is_zero()));
                    running.push((key, cancel));
                }
                Err(ended) => held.finished(key, ended, 0),
            }
        }
        assert!(held.running() <= SLOTS && held.running() == running.len());
        for (key, _) in running.extract_if(.., |(_, cancel)| cancel.is_cancelled()) {
            held.finished(key, completion::Outcome::Stopped(Stopped {}), 0);
        }
        assert_eq!(held.refs().len(), held.len());
        while held.has_unsent() && !held.batch().is_empty() {}
    }
}
