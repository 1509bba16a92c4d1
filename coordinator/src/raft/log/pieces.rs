//! Reads a segment piece by piece, so that reading a log back takes little memory: an idle process would keep the
//! memory that its allocator once obtained for whole segments. This module knows where frames may be, not what is in
//! them.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use robeing_platform::{Disk, DiskFile};

use super::frame;

/// Bytes read at once, unless a frame is longer.
const PIECE: usize = 64 * 1024;

/// A segment's content, of which one piece is in memory.
pub struct Pieces {
    file: Arc<dyn DiskFile>,
    len: usize,
    start: usize,
    piece: Bytes,
}

impl Pieces {
    /// Opens the file at `path`.
    pub async fn open(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Self> {
        let file = disk.open(path, false).await?;
        let len = usize::try_from(file.len().await?).map_err(io::Error::other)?;
        Ok(Self { file, len, start: 0, piece: Bytes::new() })
    }

    /// Returns the length of the file in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes from `offset` on that are in memory. Reads a piece first if those are fewer than `least` and
    /// the file has more.
    async fn from(&mut self, offset: usize, least: usize) -> io::Result<Bytes> {
        let end = self.start + self.piece.len();
        let wanted = offset.saturating_add(least).min(self.len);
        if offset < self.start || wanted > end {
            self.piece =
                self.file.read_at(offset as u64, least.max(PIECE).min(self.len.saturating_sub(offset))).await?;
            self.start = offset;
        }
        Ok(self.piece.slice((offset - self.start).min(self.piece.len())..))
    }

    /// Returns the sequence number and body of the frame at `offset`, if there is a whole one.
    pub async fn frame(&mut self, salt: u64, offset: usize) -> io::Result<Option<(u64, Bytes)>> {
        let head = self.from(offset, frame::HEADER).await?;
        let Some(len) = frame::announced(&head).filter(|len| *len <= self.len.saturating_sub(offset)) else {
            return Ok(None);
        };
        let content = self.from(offset, len).await?;
        Ok(frame::decode_at(salt, &content, 0))
    }

    /// Returns the length, within the file, that the torn frame at `offset` was meant to have; 0 if its header was not
    /// written.
    pub async fn torn_len(&mut self, offset: usize, seq: u64) -> io::Result<u64> {
        let head = self.from(offset, frame::HEADER).await?;
        Ok(frame::torn_len(&head, seq).min(self.len.saturating_sub(offset)) as u64)
    }

    /// Returns the offset of the first whole frame at or after `from` whose sequence number is at least `min_seq`.
    pub async fn find_from(&mut self, salt: u64, from: usize, min_seq: u64) -> io::Result<Option<usize>> {
        let mut offset = from.next_multiple_of(frame::ALIGN);
        while offset + frame::HEADER <= self.len {
            let rest = self.from(offset, frame::HEADER).await?;
            // The file has become shorter.
            if rest.len() < frame::HEADER {
                break;
            }
            let Some(skipped) = frame::find_begun(&rest) else {
                offset += rest.len() / frame::ALIGN * frame::ALIGN;
                continue;
            };
            offset += skipped;
            if self.frame(salt, offset).await?.is_some_and(|(seq, _)| seq >= min_seq) {
                return Ok(Some(offset));
            }
            offset += frame::ALIGN;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SimulatedDisk;

    use super::*;

    const SALT: u64 = 3;

    async fn pieces(content: Vec<u8>) -> Pieces {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(1));
        disk.create_dir_all(Path::new("/data")).await.unwrap();
        let path = Path::new("/data/segment");
        disk.open(path, true).await.unwrap().write_at_and_sync(0, content.into()).await.unwrap();
        Pieces::open(&disk, path).await.unwrap()
    }

    #[tokio::test]
    async fn a_later_frame_is_found_behind_garbage() {
        let mut content = vec![0xaa; 64];
        content.extend_from_slice(&frame::encode(SALT, 5, b"later"));
        let mut pieces = pieces(content).await;
        assert_eq!(pieces.find_from(SALT, 0, 5).await.unwrap(), Some(64));
        assert_eq!(pieces.find_from(SALT, 0, 6).await.unwrap(), None);
        assert_eq!(pieces.find_from(SALT + 1, 0, 5).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_frame_is_read_wherever_pieces_meet() {
        let frame = frame::encode(SALT, 1, &[7; 100]);
        for before in (PIECE - 2 * frame.len()..PIECE + 2 * frame.len()).step_by(frame::ALIGN) {
            let mut content = vec![0; before];
            content.extend_from_slice(&frame);
            content.resize(before + 3 * PIECE, 0);
            let mut pieces = pieces(content).await;
            assert_eq!(pieces.find_from(SALT, 0, 1).await.unwrap(), Some(before));
            assert_eq!(pieces.find_from(SALT, before + 1, 1).await.unwrap(), None);
            assert_eq!(pieces.frame(SALT, before).await.unwrap(), Some((1, Bytes::from(vec![7; 100]))));
            assert_eq!(pieces.frame(SALT, 0).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_frame_longer_than_a_piece_is_read() {
        let body = vec![9; 3 * PIECE];
        let mut content = frame::encode(SALT, 1, b"short").to_vec();
        let offset = content.len();
        content.extend_from_slice(&frame::encode(SALT, 2, &body));
        let mut pieces = pieces(content.clone()).await;
        assert_eq!(pieces.frame(SALT, 0).await.unwrap().map(|(seq, _)| seq), Some(1));
        assert_eq!(pieces.frame(SALT, offset).await.unwrap(), Some((2, body.into())));
        assert_eq!(pieces.find_from(SALT, 1, 0).await.unwrap(), Some(offset));
        content.pop();
        let mut cut = self::pieces(content).await;
        assert_eq!(cut.frame(SALT, offset).await.unwrap(), None);
        assert_eq!(cut.torn_len(offset, 2).await.unwrap() as usize, cut.len() - offset);
    }
}
