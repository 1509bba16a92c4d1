//! Frames: the unit that is written and synced at once. A frame is valid as a whole or not at all: its checksum covers
//! its place in the log (segment salt, sequence number, length) and its body, so that neither a torn write nor the
//! previous content of a reused file can pass for a frame. The bytes that the checksum does not cover must be zero, or
//! the frame is damaged.
//!
//! ```text
//! magic u32 | body length u32 | sequence u64 | crc32c u32 | zero u32 | body … | padding to 8
//! ```

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of the header before the body.
pub const HEADER: usize = 24;
/// Frames start at multiples of this.
pub const ALIGN: usize = 8;
const MAGIC: u32 = u32::from_le_bytes(*b"RBF1");

/// Returns the bytes that a frame with a body of this length takes.
pub fn frame_len(body: usize) -> usize {
    (HEADER + body).next_multiple_of(ALIGN)
}

fn checksum(salt: u64, seq: u64, body: &[u8]) -> u32 {
    let mut place = [0; 20];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..16].copy_from_slice(&seq.to_le_bytes());
    place[16..].copy_from_slice(&(body.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), body)
}

/// Encodes a frame of `body`.
pub fn encode(salt: u64, seq: u64, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(frame_len(body.len()));
    frame.put_u32_le(MAGIC);
    frame.put_u32_le(body.len() as u32);
    frame.put_u64_le(seq);
    frame.put_u32_le(checksum(salt, seq, body));
    frame.put_u32_le(0);
    frame.put_slice(body);
    frame.resize(frame_len(body.len()), 0);
    frame.freeze()
}

/// Returns the sequence number and body of the frame at `offset`, if there is a whole one.
pub fn decode_at(salt: u64, segment: &Bytes, offset: usize) -> Option<(u64, Bytes)> {
    let header = segment.get(offset..offset + HEADER)?;
    let u32_at = |i: usize| header[i..i + 4].try_into().map(u32::from_le_bytes).ok();
    if u32_at(0)? != MAGIC {
        return None;
    }
    let len = u32_at(4)? as usize;
    let seq = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let start = offset + HEADER;
    let end = start.checked_add(len)?;
    let (body, padding) = (segment.get(start..end)?, segment.get(end..end.checked_next_multiple_of(ALIGN)?)?);
    let is_whole =
        checksum(salt, seq, body) == u32_at(16)? && u32_at(20)? == 0 && padding.iter().all(|byte| *byte == 0);
    is_whole.then(|| (seq, segment.slice(start..end)))
}

/// Returns the length, in bytes, that the header of the frame beginning with `head` announces.
pub fn announced(head: &[u8]) -> Option<usize> {
    let head = head.get(..HEADER).filter(|head| head[..4] == MAGIC.to_le_bytes())?;
    let body = head[4..8].try_into().map(u32::from_le_bytes).ok()?;
    HEADER.checked_add(body as usize)?.checked_next_multiple_of(ALIGN)
}

/// Returns the length, in bytes, that the torn frame `seq` beginning with `head` was meant to have; 0 if its header was
/// not written.
pub fn torn_len(head: &[u8], seq: u64) -> usize {
    announced(head).filter(|_| head[8..16] == seq.to_le_bytes()).unwrap_or(0)
}

/// Returns the first offset at which a frame may begin. `bytes` must begin at a multiple of [`ALIGN`].
pub fn find_begun(bytes: &[u8]) -> Option<usize> {
    let magic = MAGIC.to_le_bytes();
    bytes.chunks(ALIGN).position(|chunk| chunk.starts_with(&magic)).map(|chunks| chunks * ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back() {
        let frame = encode(1, 2, b"body");
        assert_eq!(frame.len() % ALIGN, 0);
        assert_eq!(decode_at(1, &frame, 0), Some((2, Bytes::from("body"))));
    }

    #[test]
    fn a_frame_of_another_segment_is_none() {
        assert_eq!(decode_at(9, &encode(1, 2, b"body"), 0), None);
    }

    #[test]
    fn a_frame_with_any_bit_flipped_is_none() {
        let frame = encode(1, 2, b"some body");
        for bit in 0..frame.len() * 8 {
            let mut bytes = frame.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_at(1, &bytes.into(), 0), None, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_none() {
        let frame = encode(1, 2, b"some body");
        for len in 0..frame.len() {
            assert_eq!(decode_at(1, &frame.slice(..len), 0), None, "{len} bytes");
        }
    }
}
