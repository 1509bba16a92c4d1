//! The decisions of a group on the disk of a member, in segments.
//!
//! Nothing that the member says depends on them: a decision that is damaged, or can't be read, is left out, and can be
//! got from other members. Only the last segment gets more, and is rewritten when the log is opened; the others were
//! synced as a whole. The oldest segment is removed when there are too many, or too many decisions.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use robeing_platform::{Disk, DiskFile, Random};
use tracing::warn;

use super::frames::{self, FrameFile};

/// Begins the names of the segments.
const PREFIX: &str = "decisions-";
/// Size from which a segment gets no more decisions, bytes.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Maximum number of segments.
pub const MAX_SEGMENTS: usize = 64;
/// Number of decisions above which the oldest segment is removed when a segment begins: where each of them is, is in
/// memory.
pub const MAX_DECISIONS: usize = 500_000;
/// Bytes of a decision's number, before it.
const NUMBER: usize = 8;

struct Place {
    segment: u64,
    payload: Range<u64>,
}

/// The decisions of a group.
pub struct DecisionLog {
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
    folder: PathBuf,
    places: BTreeMap<u64, Place>,
    /// The files of the segments; `None` for one that can't be read.
    segments: BTreeMap<u64, Option<Arc<dyn DiskFile>>>,
    /// The last segment, if more can be appended to it.
    latest: Option<FrameFile>,
}

/// A decision to be read, without the log.
pub struct Stored {
    number: u64,
    file: Arc<dyn DiskFile>,
    payload: Range<u64>,
}

impl Stored {
    /// Returns the size of the decision, bytes.
    pub fn size(&self) -> u64 {
        self.payload.end.saturating_sub(self.payload.start)
    }

    /// Reads the decision; `None` if the disk fails.
    pub async fn read(&self) -> Option<Bytes> {
        let len = usize::try_from(self.size()).ok()?;
        match self.file.read_at(self.payload.start, len).await {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                warn!(decision = self.number, %error, "a decision can't be read here, and is left out");
                None
            }
        }
    }
}

fn file_of(segment: u64) -> String {
    format!("{PREFIX}{segment:016x}")
}

fn segment_of(file: &str) -> Option<u64> {
    let digits = file.strip_prefix(PREFIX)?;
    let segment = u64::from_str_radix(digits, 16).ok()?;
    (file_of(segment) == file).then_some(segment)
}

fn number_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|number: &[u8; NUMBER]| u64::from_be_bytes(*number))
}

impl DecisionLog {
    /// Opens the decisions in a folder.
    ///
    /// # Errors
    /// The disk's error, if the last segment can't be rewritten, or an old one removed.
    pub async fn open(disk: Arc<dyn Disk>, random: Arc<dyn Random>, folder: &Path) -> io::Result<Self> {
        let names = disk.list(folder).await?;
        let (folder, places, segments) = (folder.to_owned(), BTreeMap::new(), BTreeMap::new());
        let mut log = Self { disk, random, folder, places, segments, latest: None };
        let mut found: Vec<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
        found.sort_unstable();
        let last = found.last().copied();
        for segment in found {
            log.load(segment, Some(segment) == last).await?;
        }
        log.trim().await?;
        Ok(log)
    }

    /// Finds the decisions of a segment. What of it can't be read is left out.
    async fn load(&mut self, segment: u64, is_last: bool) -> io::Result<()> {
        let path = self.folder.join(file_of(segment));
        self.segments.insert(segment, None);
        let lost = |problem: &dyn std::fmt::Display| {
            let file = path.display();
            warn!(%file, error = %problem, "decisions are lost here and are got from other members");
        };
        let bytes = match frames::bytes_of(&self.disk, &path).await {
            Ok(bytes) => bytes,
            Err(error) => {
                lost(&error);
                return Ok(());
            }
        };
        let ranges = match frames::read_beginning(&bytes) {
            Ok((content, problem)) => {
                if let Some(problem) = problem {
                    lost(&problem);
                }
                content.payloads
            }
            Err(error) => {
                lost(&error);
                Vec::new()
            }
        };
        if is_last {
            // What was torn or damaged is cut off, and what was not synced is.
            let payloads: Vec<Vec<u8>> = ranges.iter().map(|range| bytes[range.clone()].to_vec()).collect();
            let file = FrameFile::create(&self.disk, &path, self.random.next_u64(), &payloads).await?;
            self.segments.insert(segment, Some(file.reader()));
            self.latest = Some(file);
        } else if let Ok(file) = self.disk.open(&path, false).await {
            self.segments.insert(segment, Some(file));
        }
        // The whole frames are where they were.
        for range in ranges {
            if let Some(number) = number_of(&bytes[range.clone()]) {
                let payload = (range.start + NUMBER) as u64..range.end as u64;
                self.places.insert(number, Place { segment, payload });
            }
        }
        Ok(())
    }

    /// Appends decisions, with their numbers. They are synced when this returns.
    ///
    /// # Errors
    /// The disk's error. The log must then be opened again.
    pub async fn append(&mut self, decisions: &[(u64, Vec<u8>)]) -> io::Result<()> {
        if self.latest.as_ref().is_none_or(|file| file.size() >= SEGMENT_BYTES) {
            self.begin().await?;
        }
        let segment = self.segments.last_key_value().map_or(0, |(latest, _)| *latest);
        let Some(file) = self.latest.as_mut() else { return Ok(()) };
        let payloads: Vec<Vec<u8>> =
            decisions.iter().map(|(number, bytes)| [&number.to_be_bytes()[..], bytes].concat()).collect();
        let places = file.append(&payloads).await?;
        for ((number, _), payload) in decisions.iter().zip(places) {
            let payload = payload.start + NUMBER as u64..payload.end;
            self.places.insert(*number, Place { segment, payload });
        }
        Ok(())
    }

    /// Begins a segment, and removes the oldest ones if there are too many.
    async fn begin(&mut self) -> io::Result<()> {
        let segment = self.segments.last_key_value().map_or(0, |(latest, _)| latest.saturating_add(1));
        let path = self.folder.join(file_of(segment));
        let file = FrameFile::create(&self.disk, &path, self.random.next_u64(), &[]).await?;
        self.segments.insert(segment, Some(file.reader()));
        self.latest = Some(file);
        self.trim().await
    }

    /// Removes the oldest segments while there are too many, or too many decisions.
    async fn trim(&mut self) -> io::Result<()> {
        while self.is_full()
            && let Some((oldest, _)) = self.segments.pop_first()
        {
            self.places.retain(|_, place| place.segment != oldest);
            self.disk.remove(&self.folder.join(file_of(oldest))).await?;
            self.disk.sync_dir(&self.folder).await?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let has_too_many = self.segments.len() > MAX_SEGMENTS || self.places.len() > MAX_DECISIONS;
        has_too_many && self.segments.len() > 1
    }

    /// Returns where a decision is; `None` if it is not here.
    pub fn get(&self, number: u64) -> Option<Stored> {
        let place = self.places.get(&number)?;
        let file = Arc::clone(self.segments.get(&place.segment)?.as_ref()?);
        Some(Stored { number, file, payload: place.payload.clone() })
    }

    /// Returns whether a decision is here.
    pub fn has(&self, number: u64) -> bool {
        self.places.contains_key(&number)
    }

    /// Returns the numbers of the decisions from one on.
    pub fn numbers_from(&self, number: u64) -> impl Iterator<Item = u64> {
        self.places.range(number..).map(|(number, _)| *number)
    }

    /// Returns the number of the first decision, if there is one.
    pub fn first(&self) -> Option<u64> {
        self.places.first_key_value().map(|(number, _)| *number)
    }

    /// Returns the number of the last decision; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.places.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// Returns the first number from `from` to `to` of which there is no decision here.
    pub fn first_missing(&self, from: u64, to: u64) -> Option<u64> {
        let mut expected = from;
        for number in self.numbers_from(from) {
            if number != expected {
                break;
            }
            expected = expected.saturating_add(1);
        }
        (expected <= to).then_some(expected)
    }

    /// Returns whether the oldest decisions had to be removed.
    pub fn is_cut(&self) -> bool {
        self.segments.first_key_value().is_some_and(|(segment, _)| *segment > 0)
    }
}
