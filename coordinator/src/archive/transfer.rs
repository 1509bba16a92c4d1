//! Records on their way to other coordinators: to those that get a snapshot, and to those whose own record is damaged.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use robeing_fleet::{Archived, Task, decode_task};
use robeing_proto::{
    budget::MESSAGE_BUDGET_BYTES,
    internal::v1::{self as internal, raft_client::RaftClient},
};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

use super::Archive;
use crate::peers::Peers;

/// Most records that are asked for in one request.
pub const MAX_RECORDS_ASKED: usize = 4_096;
/// Records that are read from the disk at once while they are sent.
const READ_AT_ONCE: usize = 8;
/// What a record counts for in a message besides its content, bytes.
const RECORD_BYTES: usize = 16;
/// How long the next message with records may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another coordinator may take to return one record that is damaged here.
const ONE_TIMEOUT: Duration = Duration::from_secs(2);

/// Records in messages.
pub type RecordStream = BoxStream<'static, Result<internal::RecordChunk, Status>>;

/// Returns the records with these numbers that are here, in messages of a bounded size.
pub fn send(archive: Archive, numbers: Vec<u64>) -> RecordStream {
    let read = move |number: u64| {
        let archive = archive.clone();
        async move { archive.content(number).await.map(|content| (number, content)) }
    };
    let mut found = stream::iter(numbers).map(read).buffered(READ_AT_ONCE);
    let chunks = async_stream::stream! {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(next) = found.next().await {
            let Some((number, content)) = next else { continue };
            bytes += content.len() + RECORD_BYTES;
            if bytes > MESSAGE_BUDGET_BYTES && !records.is_empty() {
                bytes = content.len() + RECORD_BYTES;
                yield Ok(internal::RecordChunk { records: std::mem::take(&mut records) });
            }
            records.push(internal::Record { number, content });
        }
        if !records.is_empty() {
            yield Ok(internal::RecordChunk { records });
        }
    };
    chunks.boxed()
}

/// Returns the task of a record, if it is that of one of these rows, which are in the order of their records.
fn checked(rows: &[Archived], record: &internal::Record) -> Result<Task, Status> {
    let place = rows.binary_search_by_key(&record.number, |row| row.record);
    let task = decode_task(&record.content).map_err(|error| Status::data_loss(error.to_string()))?;
    match place {
        Ok(place) if rows[place].is_of(&task) => Ok(task),
        _ => Err(Status::data_loss(format!("record {} of the archive is that of another task", record.number))),
    }
}

fn late<E>(_: E) -> Status {
    Status::deadline_exceeded(format!("no record of the archive came within {ANSWER_TIMEOUT:?}"))
}

/// Fetches the records of these rows, which are in the order of their records, and adds them to the archive. What was
/// fetched stays there if that fails. Records that the other coordinator does not have are left out.
///
/// # Errors
/// The other coordinator does not answer, a record is not what it should be, or the archive can't be written.
pub async fn fetch(mut client: RaftClient<Channel>, archive: &Archive, rows: &[Archived]) -> Result<(), Status> {
    for rows in rows.chunks(MAX_RECORDS_ASKED) {
        let records = rows.iter().map(|row| row.record).collect();
        let asked = client.read_records(internal::ReadRecordsRequest { records });
        let mut chunks = timeout(ANSWER_TIMEOUT, asked).await.map_err(late)??.into_inner();
        while let Some(chunk) = timeout(ANSWER_TIMEOUT, chunks.message()).await.map_err(late)?? {
            for record in &chunk.records {
                archive.put(record.number, &Arc::new(checked(rows, record)?));
            }
            archive.until_room().await.map_err(|error| Status::unavailable(error.to_string()))?;
            if !archive.has_room() {
                return Err(Status::resource_exhausted("there is no room on the disk for the records of the archive"));
            }
        }
    }
    Ok(())
}

/// Returns the archived task of a row as another coordinator has it, if it has it and answers soon.
pub async fn ask(peers: &Peers, address: &str, row: &Archived) -> Option<Arc<Task>> {
    let request = internal::ReadRecordsRequest { records: vec![row.record] };
    let question = |mut peer: RaftClient<Channel>| async move { peer.read_records(request).await };
    let mut chunks = peers.ask_within(address, ONE_TIMEOUT, question).await?;
    let chunk = timeout(ONE_TIMEOUT, chunks.message()).await.ok()?.ok()??;
    let task = checked(std::slice::from_ref(row), chunk.records.first()?).ok()?;
    Some(Arc::new(task))
}
