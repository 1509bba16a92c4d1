//! A file to which frames are appended: a header, and frames with checksums.
//!
//! ```text
//! file:   header | frame …
//! header: magic u64 | salt u64 | crc32c of both u32
//! frame:  number u64 | length u32 | crc32c u32 | payload …
//! ```
//!
//! A frame's checksum covers the file's salt, the frame's number and its payload. The salt is random, so nobody who
//! decides what is in a payload can make it pass for a frame. Frames are numbered from 1. All integers are
//! little-endian.
//!
//! One append is under way at a time, and the next one begins when it is synced. So a crash leaves at most the last
//! frames incomplete ([`Content::is_torn`]), of which nobody was told. A frame that is damaged while later ones are
//! whole was synced: that is no crash ([`FrameError::Damaged`]).

use std::{io, ops::Range, path::Path, sync::Arc};

use bytes::{Buf, BufMut, Bytes};
use robeing_platform::{AtomicFile, Disk, DiskFile};
use tracing::warn;

/// Bytes of the header of a file.
pub const FILE_HEADER: usize = 20;
/// Bytes of the header of a frame.
pub const FRAME_HEADER: usize = 16;
/// Maximum size of a file that is read, bytes.
pub const MAX_FILE: u64 = 512 << 20;
const MAGIC: u64 = u64::from_le_bytes(*b"RBGROUP1");
/// How many numbers after a damaged frame a whole one may have to be noticed.
const AHEAD: u64 = 1 << 24;

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The disk's error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no such file, or was damaged.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// What is in a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// Where the payloads of the whole frames are.
    pub payloads: Vec<Range<usize>>,
    /// Where the whole frames end.
    pub end: usize,
    /// Whether something follows that is no whole frame.
    pub is_torn: bool,
}

fn header(salt: u64) -> Bytes {
    let mut out = Vec::with_capacity(FILE_HEADER);
    out.put_u64_le(MAGIC);
    out.put_u64_le(salt);
    let sum = crc32c::crc32c(&out);
    out.put_u32_le(sum);
    out.into()
}

fn checksum(salt: u64, number: u64, payload: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..].copy_from_slice(&number.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), payload)
}

fn put_frame(salt: u64, number: u64, payload: &[u8], out: &mut Vec<u8>) {
    out.put_u64_le(number);
    // Payloads are far smaller than 4 GiB.
    out.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_u32_le(checksum(salt, number, payload));
    out.extend_from_slice(payload);
}

/// Returns the number and the payload of the whole frame at a place.
fn frame_at(bytes: &[u8], salt: u64, at: usize, numbers: &Range<u64>) -> Option<(u64, Range<usize>)> {
    let mut fields = bytes.get(at..)?.get(..FRAME_HEADER)?;
    let (number, length, sum) = (fields.get_u64_le(), fields.get_u32_le(), fields.get_u32_le());
    if !numbers.contains(&number) {
        return None;
    }
    let from = at + FRAME_HEADER;
    let payload = from..from.checked_add(length as usize)?;
    let is_whole = checksum(salt, number, bytes.get(payload.clone())?) == sum;
    is_whole.then_some((number, payload))
}

/// Reads a file.
///
/// # Errors
/// [`FrameError::Damaged`] if it is no such file, or was damaged after it was synced.
pub fn read(bytes: &[u8]) -> Result<Content, FrameError> {
    match read_beginning(bytes)? {
        (content, None) => Ok(content),
        (_, Some(problem)) => Err(FrameError::Damaged(problem)),
    }
}

/// Reads a file up to where it was damaged after it was synced, if it was. Returns what is wrong there.
///
/// # Errors
/// [`FrameError::Damaged`] if it is no such file.
pub fn read_beginning(bytes: &[u8]) -> Result<(Content, Option<&'static str>), FrameError> {
    let damaged = FrameError::Damaged;
    let mut fields = bytes.get(..FILE_HEADER).ok_or(damaged("it ends in its header"))?;
    let sum = crc32c::crc32c(&fields[..16]);
    let (magic, salt) = (fields.get_u64_le(), fields.get_u64_le());
    if magic != MAGIC || fields.get_u32_le() != sum {
        return Err(damaged("its header is another one"));
    }
    let (mut payloads, mut end, mut next) = (Vec::new(), FILE_HEADER, 1);
    while let Some((number, payload)) = frame_at(bytes, salt, end, &(next..next + 1)) {
        (end, next) = (payload.end, number + 1);
        payloads.push(payload);
    }
    let later = next + 1..next.saturating_add(AHEAD);
    let has_later = (end + 1..bytes.len()).any(|at| frame_at(bytes, salt, at, &later).is_some());
    let problem = has_later.then_some("a part in its middle is not what was written");
    Ok((Content { payloads, end, is_torn: end < bytes.len() }, problem))
}

/// A file to which frames are appended.
pub struct FrameFile {
    whole: AtomicFile,
    file: Arc<dyn DiskFile>,
    disk: Arc<dyn Disk>,
    salt: u64,
    end: u64,
    next: u64,
}

impl FrameFile {
    /// Creates a file with these payloads, or replaces one: at once or not at all.
    ///
    /// # Errors
    /// The disk's error.
    pub async fn create(disk: &Arc<dyn Disk>, path: &Path, salt: u64, payloads: &[Vec<u8>]) -> io::Result<Self> {
        let mut whole = AtomicFile::open(Arc::clone(disk), path).await?;
        let (pieces, end) = pieces(salt, payloads);
        whole.replace_pieces(&pieces).await?;
        let file = disk.open(path, false).await?;
        Ok(Self { whole, file, disk: Arc::clone(disk), salt, end, next: 1 + payloads.len() as u64 })
    }

    /// Opens a file, and returns it with its payloads. It is rewritten: what was torn is gone, and what an earlier
    /// process could not sync, but left in the system's memory, is synced.
    ///
    /// # Errors
    /// [`FrameError`] if it can't be read, was damaged, or can't be written.
    pub async fn open(disk: &Arc<dyn Disk>, path: &Path, salt: u64) -> Result<(Self, Vec<Vec<u8>>), FrameError> {
        let bytes = bytes_of(disk, path).await?;
        let content = read(&bytes)?;
        if content.is_torn {
            let torn = bytes.len() - content.end;
            warn!(file = %path.display(), bytes = torn, "the end of a file was torn by a crash, and is cut off");
        }
        let payloads: Vec<Vec<u8>> = content.payloads.into_iter().map(|payload| bytes[payload].to_vec()).collect();
        drop(bytes);
        Ok((Self::create(disk, path, salt, &payloads).await?, payloads))
    }

    /// Returns the file, to read payloads of it.
    pub fn reader(&self) -> Arc<dyn DiskFile> {
        Arc::clone(&self.file)
    }

    /// Appends frames, all of which are synced when this returns. Returns where their payloads are. After an error, it
    /// is not known what is in the file: it must be opened again.
    ///
    /// # Errors
    /// The disk's error.
    pub async fn append(&mut self, payloads: &[Vec<u8>]) -> io::Result<Vec<Range<u64>>> {
        let (mut out, mut places) = (Vec::new(), Vec::with_capacity(payloads.len()));
        let mut next = self.next;
        for payload in payloads {
            put_frame(self.salt, next, payload, &mut out);
            let end = self.end + out.len() as u64;
            places.push(end - payload.len() as u64..end);
            next += 1;
        }
        let length = out.len() as u64;
        self.file.write_at_and_sync(self.end, out.into()).await?;
        (self.end, self.next) = (self.end + length, next);
        Ok(places)
    }

    /// Replaces the content by these payloads: at once or not at all.
    ///
    /// # Errors
    /// The disk's error.
    pub async fn replace(&mut self, salt: u64, payloads: &[Vec<u8>]) -> io::Result<()> {
        let (pieces, end) = pieces(salt, payloads);
        self.whole.replace_pieces(&pieces).await?;
        self.file = self.disk.open(self.whole.path(), false).await?;
        (self.salt, self.end, self.next) = (salt, end, 1 + payloads.len() as u64);
        Ok(())
    }

    /// Returns the size of the file, bytes.
    pub fn size(&self) -> u64 {
        self.end
    }
}

/// Reads a whole file.
///
/// # Errors
/// [`FrameError`] if it can't be read, or is too large to be one of frames.
pub async fn bytes_of(disk: &Arc<dyn Disk>, path: &Path) -> Result<Bytes, FrameError> {
    if disk.open(path, false).await?.len().await? > MAX_FILE {
        return Err(FrameError::Damaged("it is larger than any that is written"));
    }
    Ok(disk.read(path).await?)
}

/// Returns a file as pieces, and its size.
fn pieces(salt: u64, payloads: &[Vec<u8>]) -> (Vec<Bytes>, u64) {
    let mut body = Vec::new();
    for (payload, number) in payloads.iter().zip(1..) {
        put_frame(salt, number, payload, &mut body);
    }
    let end = (FILE_HEADER + body.len()) as u64;
    let mut pieces = vec![header(salt)];
    if !body.is_empty() {
        pieces.push(body.into());
    }
    (pieces, end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(payloads: &[Vec<u8>]) -> Vec<u8> {
        pieces(7, payloads).0.concat()
    }

    fn payloads_of(bytes: &[u8], content: &Content) -> Vec<Vec<u8>> {
        content.payloads.iter().map(|payload| bytes[payload.clone()].to_vec()).collect()
    }

    #[test]
    fn a_torn_end_is_told_from_damage() {
        let frames = [vec![1; 10], vec![2; 20], vec![3; 30]];
        let bytes = file(&frames);
        let whole = read(&bytes).expect("it is whole");
        assert_eq!((payloads_of(&bytes, &whole), whole.is_torn), (frames.to_vec(), false));
        // Any part of the last frame is missing or wrong.
        let last = bytes.len() - 30 - FRAME_HEADER;
        for cut in last + 1..bytes.len() {
            let torn = read(&bytes[..cut]).expect("it is torn");
            assert_eq!((torn.payloads.len(), torn.end, torn.is_torn), (2, last, true), "{cut}");
        }
        for at in last..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert_eq!(read(&wrong).expect("it is torn").payloads.len(), 2, "{at}");
        }
        // Anything before it is wrong.
        for at in 0..last {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(matches!(read(&wrong), Err(FrameError::Damaged(_))), "{at}");
        }
        // What comes before the damage can be read.
        let mut wrong = bytes.clone();
        wrong[FILE_HEADER + FRAME_HEADER + 10 + FRAME_HEADER] ^= 1;
        let (content, problem) = read_beginning(&wrong).expect("its header is right");
        assert_eq!((payloads_of(&wrong, &content), problem.is_some()), (frames[..1].to_vec(), true));
        assert!(matches!(read(b""), Err(FrameError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, frames: Vec<Vec<u8>>, at: prop::sample::Index, flip: u8) {
            let _ = read(&bytes);
            let mut file = file(&frames);
            prop_assert_eq!(payloads_of(&file, &read(&file).expect("it is whole")), frames);
            let at = at.index(file.len());
            file[at] ^= flip;
            let _ = read(&file);
        }
    }
}
