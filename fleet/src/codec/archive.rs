//! Encoding of the rows of archived tasks: by columns, because there may be a million of them. A column is a field, so a
//! later version can add others.

use bilrost::Message;
use bytes::Bytes;

use super::CodecError;
use crate::{
    Archived, TaskState,
    archive::{Archive, packed::Packed},
};

/// Most rows that are encoded together. All but the last of a state are as many.
const MAX_ROWS: usize = 512;

/// What the head of a state contains about the archive.
#[derive(PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(super) struct ArchiveHead {
    /// The number of the next record.
    #[bilrost(1)]
    records: u64,
    /// The number of rows that follow.
    #[bilrost(2)]
    rows: u64,
}

/// Some rows, by columns: numbers of one size each, in little endian. The last columns are empty if all their numbers
/// are 0.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub(crate) struct Rows {
    #[bilrost(1)]
    seqs: Bytes,
    #[bilrost(2)]
    records: Bytes,
    #[bilrost(3)]
    revisions: Bytes,
    #[bilrost(4)]
    expiries: Bytes,
    /// Two numbers each.
    #[bilrost(5)]
    ids: Bytes,
    #[bilrost(6)]
    states: Bytes,
    #[bilrost(7)]
    inputs: Bytes,
    #[bilrost(8)]
    checksums: Bytes,
    #[bilrost(9)]
    bytes: Bytes,
    #[bilrost(10)]
    passed: Bytes,
    #[bilrost(11)]
    epochs: Bytes,
    #[bilrost(12)]
    parents: Bytes,
    #[bilrost(13)]
    roots: Bytes,
    #[bilrost(14)]
    indexes: Bytes,
    /// 1: it had children.
    #[bilrost(15)]
    families: Bytes,
}

fn malformed(what: &str) -> CodecError {
    CodecError::Inconsistent(format!("the rows of archived tasks: {what}"))
}

/// Encodes a column.
fn column<const N: usize>(rows: &[Archived], of: impl Fn(&Archived) -> [u8; N]) -> Bytes {
    let mut all = Vec::with_capacity(rows.len() * N);
    rows.iter().for_each(|row| all.extend_from_slice(&of(row)));
    all.into()
}

/// Encodes a column that is empty if all its numbers are 0.
fn sparse_column<const N: usize>(rows: &[Archived], of: impl Fn(&Archived) -> [u8; N]) -> Bytes {
    let all = column(rows, of);
    if is_zero(&all) { Bytes::new() } else { all }
}

fn is_zero(column: &Bytes) -> bool {
    column.iter().all(|byte| *byte == 0)
}

/// Decodes a column of so many numbers.
fn numbers<const N: usize>(column: &Bytes, count: usize) -> Result<impl Iterator<Item = [u8; N]> + '_, CodecError> {
    let (numbers, rest) = column.as_chunks::<N>();
    if numbers.len() != count || !rest.is_empty() {
        return Err(malformed("a column has another length"));
    }
    Ok(numbers.iter().copied())
}

/// Decodes a column that is empty if all its numbers are 0. More of these follow than there are rows.
fn sparse_numbers<const N: usize>(
    column: &Bytes,
    count: usize,
) -> Result<impl Iterator<Item = [u8; N]> + '_, CodecError> {
    let present = if column.is_empty() { None } else { Some(numbers::<N>(column, count)?) };
    if present.is_some() && is_zero(column) {
        return Err(malformed("a column has zeros alone"));
    }
    Ok(present.into_iter().flatten().chain(std::iter::repeat([0; N])))
}

fn long(column: &mut impl Iterator<Item = [u8; 8]>) -> u64 {
    column.next().map_or(0, u64::from_le_bytes)
}

fn short(column: &mut impl Iterator<Item = [u8; 4]>) -> u32 {
    column.next().map_or(0, u32::from_le_bytes)
}

/// Returns whether a task had children.
fn has_children(column: &mut impl Iterator<Item = [u8; 1]>) -> Result<bool, CodecError> {
    match column.next() {
        Some([0]) | None => Ok(false),
        Some([1]) => Ok(true),
        Some(_) => Err(malformed("neither with children nor without")),
    }
}

fn state_of(number: u8) -> Result<TaskState, CodecError> {
    let state = TaskState::ALL.get(usize::from(number)).copied();
    state.filter(|state| state.is_final()).ok_or_else(|| malformed("a state that is not final"))
}

impl Rows {
    fn of(rows: &[Archived]) -> Self {
        Self {
            seqs: column(rows, |row| row.seq.to_le_bytes()),
            records: column(rows, |row| row.record.to_le_bytes()),
            revisions: column(rows, |row| row.revision.to_le_bytes()),
            expiries: column(rows, |row| row.expires_at.to_le_bytes()),
            ids: column(rows, |row| row.id().0.to_le_bytes()),
            states: column(rows, |row| [row.state as u8]),
            inputs: column(rows, |row| row.input.to_le_bytes()),
            checksums: column(rows, |row| row.checksum.to_le_bytes()),
            bytes: column(rows, |row| row.bytes.to_le_bytes()),
            passed: column(rows, |row| row.passed.to_le_bytes()),
            epochs: sparse_column(rows, |row| row.epoch.to_le_bytes()),
            parents: sparse_column(rows, |row| row.parent.to_le_bytes()),
            roots: sparse_column(rows, |row| row.root.to_le_bytes()),
            indexes: sparse_column(rows, |row| row.index.to_le_bytes()),
            families: sparse_column(rows, |row| [u8::from(row.has_children)]),
        }
    }

    fn len(&self) -> usize {
        self.states.len()
    }

    /// Adds the rows to a list.
    fn read(&self, rows: &mut Vec<Archived>) -> Result<(), CodecError> {
        let count = self.len();
        let [seqs, records] = [&self.seqs, &self.records].map(|column| numbers::<8>(column, count));
        let [revisions, expiries] = [&self.revisions, &self.expiries].map(|column| numbers::<8>(column, count));
        let [inputs, checksums] = [&self.inputs, &self.checksums].map(|column| numbers::<4>(column, count));
        let [bytes, passed] = [&self.bytes, &self.passed].map(|column| numbers::<4>(column, count));
        let (mut seqs, mut records, mut revisions, mut expiries) = (seqs?, records?, revisions?, expiries?);
        let (mut inputs, mut checksums, mut bytes, mut passed) = (inputs?, checksums?, bytes?, passed?);
        let mut ids = numbers::<16>(&self.ids, count)?;
        let mut epochs = sparse_numbers::<2>(&self.epochs, count)?;
        let [parents, roots, indexes] =
            [&self.parents, &self.roots, &self.indexes].map(|column| sparse_numbers::<4>(column, count));
        let (mut parents, mut roots, mut indexes) = (parents?, roots?, indexes?);
        let mut families = sparse_numbers::<1>(&self.families, count)?;
        for state in &self.states {
            let id = ids.next().map_or(0, u128::from_le_bytes);
            rows.push(Archived {
                seq: long(&mut seqs),
                record: long(&mut records),
                revision: long(&mut revisions),
                expires_at: long(&mut expiries),
                id: [(id >> 64) as u64, id as u64],
                input: short(&mut inputs),
                checksum: short(&mut checksums),
                bytes: short(&mut bytes),
                passed: short(&mut passed),
                parent: short(&mut parents),
                root: short(&mut roots),
                index: short(&mut indexes),
                epoch: epochs.next().map_or(0, u16::from_le_bytes),
                has_children: has_children(&mut families)?,
                state: state_of(*state)?,
            });
        }
        Ok(())
    }
}

/// Collects rows until they are encoded together.
#[derive(Debug, Default)]
pub(super) struct RowsWriter(Vec<Archived>);

impl RowsWriter {
    /// Adds a row. Returns all that were added, if they are as many as are encoded together.
    pub(super) fn add(&mut self, row: &Archived) -> Option<Rows> {
        self.0.push(*row);
        if self.0.len() < MAX_ROWS { None } else { self.rest() }
    }

    /// Returns the rows that were added, if there are any.
    pub(super) fn rest(&mut self) -> Option<Rows> {
        let rows = std::mem::take(&mut self.0);
        (!rows.is_empty()).then(|| Rows::of(&rows))
    }
}

impl ArchiveHead {
    pub(super) fn of(archive: &Archive) -> Self {
        Self { records: archive.records, rows: archive.kept.len() as u64 }
    }

    /// Returns the archive with the rows that follow the head. Refuses rows that are divided or written otherwise than
    /// the same rows would be.
    pub(super) fn with(self, parts: Vec<Rows>) -> Result<Archive, CodecError> {
        let count: usize = parts.iter().map(Rows::len).sum();
        let (last, full) = parts.split_last().map_or((None, &parts[..]), |(last, full)| (Some(last), full));
        let are_full = full.iter().all(|part| part.len() == MAX_ROWS);
        let fits = last.is_none_or(|last| (1..=MAX_ROWS).contains(&last.len()));
        if count as u64 != self.rows || !are_full || !fits {
            return Err(malformed("some are missing"));
        }
        let (mut kept, mut rows) = (Packed::default(), Vec::with_capacity(MAX_ROWS));
        // Each is dropped once it is read, so that what may be a million rows is not in memory twice.
        for part in parts {
            rows.clear();
            part.read(&mut rows)?;
            let seqs = kept.last().into_iter().chain(rows.iter().copied()).map(|row| row.seq);
            if !seqs.is_sorted_by(|one, next| one < next) {
                return Err(malformed("not in order"));
            }
            kept.append(&rows);
        }
        Ok(Archive { kept, records: self.records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: u64, epoch: u16) -> Archived {
        Archived {
            seq,
            record: seq ^ 1,
            revision: seq + 7,
            expires_at: u64::MAX - seq,
            id: [seq, !seq],
            input: 1,
            checksum: 2,
            bytes: 3,
            passed: 4,
            parent: u32::from(epoch),
            root: 2 * u32::from(epoch),
            index: 6 * u32::from(epoch),
            epoch,
            has_children: epoch > 0,
            state: TaskState::ALL[2 + seq as usize % 4],
        }
    }

    /// The rows of so many tasks as they are encoded, and the head before them.
    fn encoded(rows: &[Archived]) -> (ArchiveHead, Vec<Rows>) {
        let mut writer = RowsWriter::default();
        let mut parts: Vec<Rows> = rows.iter().filter_map(|row| writer.add(row)).collect();
        parts.extend(writer.rest());
        (ArchiveHead { records: 9_999, rows: rows.len() as u64 }, parts)
    }

    #[test]
    fn rows_are_read_as_they_were_however_many_there_are() {
        for count in [0, 1, MAX_ROWS, MAX_ROWS + 1, 3 * MAX_ROWS - 1] {
            for epoch in [0, 5] {
                let rows: Vec<Archived> = (0..count as u64).map(|seq| row(seq, epoch * (seq as u16 % 2))).collect();
                let (head, parts) = encoded(&rows);
                assert_eq!(parts.len(), count.div_ceil(MAX_ROWS));
                let archive = head.with(parts).expect("they are whole");
                assert!(archive.kept.iter().eq(rows) && archive.records == 9_999, "{count} {epoch}");
            }
        }
    }

    #[test]
    fn rows_that_no_state_has_written_are_refused() {
        let rows: Vec<Archived> = (0..MAX_ROWS as u64 + 2).map(|seq| row(seq, 0)).collect();
        let refused = |change: fn(&mut ArchiveHead, &mut Vec<Rows>)| {
            let (mut head, mut parts) = encoded(&rows);
            change(&mut head, &mut parts);
            head.with(parts).expect_err("it is no state").to_string()
        };
        let changes: [fn(&mut ArchiveHead, &mut Vec<Rows>); 8] = [
            |head, _| head.rows += 1,
            |_, parts| drop(parts.pop()),
            |_, parts| parts.reverse(),
            |_, parts| parts[1].seqs = Bytes::from_static(b"short"),
            |_, parts| parts[1].states = Bytes::from_static(&[0, 1]),
            |_, parts| parts[1].epochs = Bytes::from_static(&[0; 4]),
            |_, parts| parts[1].roots = Bytes::from_static(&[1; 4]),
            |_, parts| parts[1].families = Bytes::from_static(&[1, 2]),
        ];
        for change in changes {
            assert!(refused(change).contains("archived tasks"));
        }
        let (head, mut parts) = encoded(&rows[..2]);
        parts[0] = Rows::of(&[rows[1], rows[0]]);
        assert!(head.with(parts).is_err(), "they are in order");
        let (head, mut parts) = encoded(&rows[1..]);
        parts[1] = Rows::of(&rows[..1]);
        assert!(head.with(parts).is_err(), "and so are the parts");
    }
}
