//! What a coordinator reports if it missed a part of the log and gets a snapshot instead.

use std::{path::Path, time::Duration};

use robeing_proto::v1::{self, streamed_answer::Answer};
use tokio_stream::wrappers::ReceiverStream;

use crate::fleet::{COORDINATORS, TestFleet, sync_takes};

const SECOND: Duration = Duration::from_secs(1);
/// More entries than between two snapshots.
const OTHERS: usize = 80;

/// A task that takes a second, and whose result is kept for one.
fn brief() -> v1::TaskSpec {
    v1::TaskSpec {
        kind: "sleep".into(),
        input: "1000".into(),
        result_ttl: SECOND.try_into().ok(),
        ..v1::TaskSpec::default()
    }
}

async fn next(answers: &mut tonic::Streaming<v1::SubmitStreamResponse>) -> Vec<Answer> {
    let message =
        tokio::time::timeout(120 * SECOND, answers.message()).await.expect("the stream tells what becomes of it");
    let message = message.expect("the coordinator serves on").expect("the stream goes on");
    message.answers.into_iter().filter_map(|answer| answer.answer).collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_where_the_end_of_a_task_was_missed_is_told_that_its_result_expired() {
    let mut fleet = TestFleet::start(sync_takes(SECOND / 1_000));
    fleet.agent("a");
    fleet.live(1).await;
    let leader = fleet.led().await;
    let follower = (0..COORDINATORS).find(|n| *n != leader).expect("two follow");

    let (submit, requests) = tokio::sync::mpsc::channel(1);
    let stream = fleet.client(follower).submit_stream(ReceiverStream::new(requests)).await;
    let mut answers = stream.expect("a follower takes submissions").into_inner();
    let task = v1::StreamedTask { tag: 1, task: Some(brief()), wait: true };
    submit.send(v1::SubmitStreamRequest { tasks: vec![task] }).await.expect("the stream is open");
    let accepted = next(&mut answers).await;
    let [Answer::Submitted(result)] = &accepted[..] else { panic!("{accepted:?}") };
    let request = v1::GetTaskRequest { id: result.task_id.clone(), ..v1::GetTaskRequest::default() };

    // The others return without a connection to the follower, which can't stand for election without its disk.
    fleet.disks[follower].set_hung(true);
    fleet.set_reachable(follower, false);
    for other in (0..COORDINATORS).filter(|n| *n != follower) {
        fleet.take_away(other);
        fleet.run(other);
    }
    let leader = fleet.led().await;
    assert_ne!(leader, follower);
    let gone = async |fleet: &TestFleet| {
        let asked = fleet.client(leader).get_task(request.clone()).await;
        asked.is_err_and(|status| status.code() == tonic::Code::NotFound)
    };
    fleet.until("the end of the result", gone).await;
    for _ in 0..OTHERS {
        let submit = v1::SubmitRequest { tasks: vec![brief()] };
        fleet.client(leader).submit(submit).await.expect("the leader takes tasks");
    }
    let snapshot = async |fleet: &TestFleet| {
        let files = fleet.disks[leader].files(Path::new("/data"));
        files.iter().any(|file| file == "snapshot")
    };
    fleet.until("the leader's snapshot", snapshot).await;
    fleet.disks[follower].set_hung(false);
    fleet.set_reachable(follower, true);
    let told = next(&mut answers).await;
    assert!(matches!(&told[..], [Answer::Expired(id)] if *id == result.task_id), "{told:?}");
}
