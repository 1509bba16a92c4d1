//! Records on their way to other coordinators: to those that get a snapshot, and to those whose own record is damaged.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
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

/// Most questions to other coordinators for records that a leader has lost, for one snapshot.
const MAX_LOST_ASKED: usize = 1_000;
/// After how many of these a coordinator that has not answered is asked no more, so that it does not take all the time
/// that the transfer of the snapshot has.
const MAX_UNANSWERED: usize = 3;
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
        async move {
            let content = archive.content(number).await;
            (number, content.ok_or_else(|| archive.is_lost(number)))
        }
    };
    let mut found = stream::iter(numbers).map(read).buffered(READ_AT_ONCE);
    let chunks = async_stream::stream! {
        let (mut chunk, mut bytes) = (internal::RecordChunk::default(), 0);
        while let Some((number, content)) = found.next().await {
            let len = content.as_ref().map_or(0, Bytes::len) + RECORD_BYTES;
            bytes += len;
            if bytes > MESSAGE_BUDGET_BYTES && chunk != internal::RecordChunk::default() {
                bytes = len;
                yield Ok(std::mem::take(&mut chunk));
            }
            match content {
                Ok(content) => chunk.records.push(internal::Record { number, content }),
                Err(true) => chunk.lost.push(number),
                Err(false) => {}
            }
        }
        if chunk != internal::RecordChunk::default() {
            yield Ok(chunk);
        }
    };
    chunks.boxed()
}

/// The coordinators that are asked for records that the one that sends them has lost.
pub struct Others<'a> {
    peers: &'a Peers,
    /// Their addresses, and how many questions each has not answered.
    asked: Vec<(String, usize)>,
    /// How many more records they are asked for.
    left: usize,
}

impl<'a> Others<'a> {
    /// Asks the coordinators with these addresses, one after the other.
    pub fn new(peers: &'a Peers, addresses: Vec<String>) -> Self {
        let asked = addresses.into_iter().map(|address| (address, 0)).collect();
        Self { peers, asked, left: MAX_LOST_ASKED }
    }

    /// Adds a record that is that of one of these rows to the archive, if another coordinator has it.
    async fn fetch(&mut self, archive: &Archive, rows: &[Archived], number: u64) {
        let Ok(place) = rows.binary_search_by_key(&number, |row| row.record) else { return };
        for (address, unanswered) in self.asked.iter_mut().filter(|(_, unanswered)| *unanswered < MAX_UNANSWERED) {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            match ask(self.peers, address, &rows[place]).await {
                Answer::Has(task) => return archive.put(number, &task),
                Answer::Lost => {}
                Answer::Unknown => *unanswered += 1,
            }
        }
    }
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

/// Fetches the records of these rows, which are in the order of their records, and adds them to the archive; those that
/// the other coordinator has lost, from `others`. What was fetched stays there if that fails. Records that nobody has
/// are left out.
///
/// # Errors
/// The other coordinator does not answer, a record is not what it should be, or the archive can't be written.
pub async fn fetch(
    mut client: RaftClient<Channel>,
    mut others: Others<'_>,
    archive: &Archive,
    rows: &[Archived],
) -> Result<(), Status> {
    for rows in rows.chunks(MAX_RECORDS_ASKED) {
        let records = rows.iter().map(|row| row.record).collect();
        let asked = client.read_records(internal::ReadRecordsRequest { records });
        let mut chunks = timeout(ANSWER_TIMEOUT, asked).await.map_err(late)??.into_inner();
        while let Some(chunk) = timeout(ANSWER_TIMEOUT, chunks.message()).await.map_err(late)?? {
            let mut lost = chunk.lost.iter().copied().peekable();
            for record in &chunk.records {
                while let Some(number) = lost.next_if(|number| *number < record.number) {
                    others.fetch(archive, rows, number).await;
                }
                archive.put(record.number, &Arc::new(checked(rows, record)?));
            }
            for number in lost {
                others.fetch(archive, rows, number).await;
            }
            archive.until_room().await.map_err(|error| Status::unavailable(error.to_string()))?;
            if !archive.has_room() {
                return Err(Status::resource_exhausted("there is no room on the disk for the records of the archive"));
            }
        }
    }
    Ok(())
}

/// What a coordinator says that is asked for an archived task.
pub enum Answer {
    /// It has it.
    Has(Arc<Task>),
    /// It should have it, and has lost it.
    Lost,
    /// It does not answer soon, or may not have come to it yet.
    Unknown,
}

/// Asks another coordinator for the archived task of a row.
pub async fn ask(peers: &Peers, address: &str, row: &Archived) -> Answer {
    let request = internal::ReadRecordsRequest { records: vec![row.record] };
    let question = |mut peer: RaftClient<Channel>| async move { peer.read_records(request).await };
    let Some(mut chunks) = peers.ask_within(address, ONE_TIMEOUT, question).await else { return Answer::Unknown };
    let Ok(Ok(Some(chunk))) = timeout(ONE_TIMEOUT, chunks.message()).await else { return Answer::Unknown };
    match chunk.records.first().map(|record| checked(std::slice::from_ref(row), record)) {
        Some(Ok(task)) => Answer::Has(Arc::new(task)),
        None if chunk.lost.is_empty() => Answer::Unknown,
        Some(Err(_)) | None => Answer::Lost,
    }
}
