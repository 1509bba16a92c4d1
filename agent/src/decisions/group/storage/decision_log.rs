//! The decisions of a group on the disk of a member, in segments.
//!
//! Nothing that the member says depends on them: a decision that is damaged is left out, and can be got from other
//! members. The oldest segment is removed when there are too many.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use robeing_platform::{Disk, Random};
use tracing::warn;

use super::frames::{self, FrameError, FrameFile};

/// Begins the names of the segments.
const PREFIX: &str = "decisions-";
/// Size from which a segment gets no more decisions, bytes.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Maximum number of segments.
pub const MAX_SEGMENTS: usize = 64;
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
    segments: BTreeMap<u64, FrameFile>,
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
    /// The disk's error.
    pub async fn open(disk: Arc<dyn Disk>, random: Arc<dyn Random>, folder: &Path) -> io::Result<Self> {
        let names = disk.list(folder).await?;
        let folder = folder.to_owned();
        let mut log = Self { disk, random, folder, places: BTreeMap::new(), segments: BTreeMap::new() };
        for segment in names.iter().filter_map(|name| segment_of(name)) {
            log.load(segment).await?;
        }
        Ok(log)
    }

    async fn load(&mut self, segment: u64) -> io::Result<()> {
        let path = self.folder.join(file_of(segment));
        let salt = self.random.next_u64();
        let (file, payloads) = match FrameFile::open(&self.disk, &path, salt).await {
            Ok(opened) => opened,
            Err(FrameError::Io(error)) => return Err(error),
            Err(error @ FrameError::Damaged(_)) => {
                warn!(file = %path.display(), %error, "decisions are lost here and are got from other members");
                (FrameFile::create(&self.disk, &path, salt, &[]).await?, Vec::new())
            }
        };
        let mut end = frames::FILE_HEADER as u64;
        for payload in payloads {
            let from = end + frames::FRAME_HEADER as u64;
            end = from + payload.len() as u64;
            if let Some(number) = number_of(&payload) {
                self.places.insert(number, Place { segment, payload: from + NUMBER as u64..end });
            }
        }
        self.segments.insert(segment, file);
        Ok(())
    }

    /// Appends decisions, with their numbers. They are synced when this returns.
    ///
    /// # Errors
    /// The disk's error. The log must then be opened again.
    pub async fn append(&mut self, decisions: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let latest = self.segments.last_key_value().filter(|(_, file)| file.size() < SEGMENT_BYTES);
        let segment = match latest.map(|(segment, _)| *segment) {
            Some(segment) => segment,
            None => self.begin().await?,
        };
        let Some(file) = self.segments.get_mut(&segment) else { return Ok(()) };
        let payloads: Vec<Vec<u8>> =
            decisions.iter().map(|(number, bytes)| [&number.to_be_bytes()[..], bytes].concat()).collect();
        let places = file.append(&payloads).await?;
        for ((number, _), payload) in decisions.iter().zip(places) {
            let payload = payload.start + NUMBER as u64..payload.end;
            self.places.insert(*number, Place { segment, payload });
        }
        Ok(())
    }

    /// Begins a segment, and removes the oldest one if there are too many.
    async fn begin(&mut self) -> io::Result<u64> {
        let segment = self.segments.last_key_value().map_or(0, |(latest, _)| latest.saturating_add(1));
        let path = self.folder.join(file_of(segment));
        let file = FrameFile::create(&self.disk, &path, self.random.next_u64(), &[]).await?;
        self.segments.insert(segment, file);
        if self.segments.len() > MAX_SEGMENTS
            && let Some((oldest, _)) = self.segments.pop_first()
        {
            self.places.retain(|_, place| place.segment != oldest);
            self.disk.remove(&self.folder.join(file_of(oldest))).await?;
            self.disk.sync_dir(&self.folder).await?;
        }
        Ok(segment)
    }

    /// Returns a decision; `None` if it is not here.
    ///
    /// # Errors
    /// The disk's error.
    pub async fn get(&self, number: u64) -> io::Result<Option<Bytes>> {
        let Some(place) = self.places.get(&number) else { return Ok(None) };
        let Some(file) = self.segments.get(&place.segment) else { return Ok(None) };
        file.read(&place.payload).await.map(Some)
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
