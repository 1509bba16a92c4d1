//! The event of a task that has ended, and its signature.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use ring::hmac;
use robeing_proto::v1::Task;
use serde_json::json;

use crate::{
    executor::rfc3339,
    roles::messenger::gateway::views::{TaskView, state_name},
};

/// The prefix of the type of events.
const TYPE: &str = "io.robeing.task";

/// Length of a task's id.
const ID_CHARS: usize = 36;

/// Returns the id of the event of a task's end: that of the task and, if the task was tried again as a dead letter, its
/// epoch, because it ends once in each.
pub fn event_id(task: &Task) -> String {
    match task.epoch {
        0 => task.id.clone(),
        epoch => format!("{}-{epoch}", task.id),
    }
}

/// Returns the id of the task whose event has this id.
pub fn task_of(event: &str) -> &str {
    event.get(..ID_CHARS).unwrap_or(event)
}

/// An event that is to be delivered.
#[derive(Clone, Debug)]
pub struct Event {
    /// The id of the event; see [`event_id`].
    pub id: String,
    /// When the task ended, Unix milliseconds.
    pub ended_at: u64,
    /// The CloudEvent, JSON.
    pub body: Bytes,
}

impl Event {
    /// Returns the event of a task that has ended in this cluster.
    pub fn of(task: &Task, cluster: &str) -> Self {
        let millis = |time: prost_types::Timestamp| {
            let seconds = u64::try_from(time.seconds).unwrap_or_default();
            seconds.saturating_mul(1_000).saturating_add(u64::try_from(time.nanos).unwrap_or_default() / 1_000_000)
        };
        let (id, ended_at) = (event_id(task), task.finished_at.map_or(0, millis));
        let body = json!({
            "specversion": "1.0",
            "id": id,
            "source": format!("/robeing/{cluster}"),
            "type": format!("{TYPE}.{}", state_name(task.state())),
            "subject": task.id,
            "time": rfc3339(ended_at),
            "datacontenttype": "application/json",
            "data": TaskView::from(task),
        });
        Self { id, ended_at, body: body.to_string().into() }
    }

    /// Returns the signature of the event as it is sent at this time, Unix seconds: what the header `webhook-signature`
    /// has.
    pub fn signature(&self, key: &hmac::Key, at: u64) -> String {
        let mut context = hmac::Context::with_key(key);
        context.update(format!("{}.{at}.", self.id).as_bytes());
        context.update(&self.body);
        format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
    }
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::TaskState;
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_example() {
        // From the libraries of Standard Webhooks.
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let event = Event {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
            ended_at: 0,
            body: Bytes::from_static(br#"{"test": 2432232314}"#),
        };
        let signature = event.signature(&hmac::Key::new(hmac::HMAC_SHA256, &secret), 1_614_265_330);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_end_of_a_task_that_is_tried_again_has_an_event_of_its_own() {
        let id = "018f4e3a-0000-7000-8000-000000000001".to_owned();
        let ids = [0, 1, 12].map(|epoch| Event::of(&Task { id: id.clone(), epoch, ..Task::default() }, "one").id);
        assert_eq!(ids, [id.clone(), format!("{id}-1"), format!("{id}-12")]);
        assert!(ids.iter().all(|event| task_of(event) == id));
        assert_eq!(task_of("t"), "t");
    }

    #[test]
    fn an_event_has_the_id_of_its_task_and_the_task() {
        let finished_at = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
        let task = Task { id: "t".into(), state: TaskState::Failed.into(), finished_at, ..Task::default() };
        let event = Event::of(&task, "one");
        let body: Value = serde_json::from_slice(&event.body).expect("it is JSON");
        assert_eq!((&event.id[..], event.ended_at), ("t", 1_800_000_000_000));
        assert_eq!((&body["id"], &body["type"]), (&json!("t"), &json!("io.robeing.task.failed")));
        assert_eq!((&body["source"], &body["data"]["state"]), (&json!("/robeing/one"), &json!("failed")));
    }
}
