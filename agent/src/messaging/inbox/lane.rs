//! The packets of one peer and priority that wait.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{LANE_FRAMES, LANE_WINDOW, WHOLE_SHARE};
use crate::messaging::packet::Packet;

/// The frame that a packet arrived in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its size, in bytes. 0: the packet did not arrive in a frame.
    pub len: usize,
    /// Its number, which differs from that of the peer's frame before.
    pub number: u64,
}

/// A packet that waits.
pub struct Queued {
    /// Boxed, because it is moved several times until it is handled.
    pub packet: Box<Packet>,
    pub deadline: u64,
    /// The link of the peer that it came from.
    pub incarnation: u64,
    /// The frame that its payload keeps in memory, if that is much larger.
    pub frame: Option<Frame>,
}

/// The packets of one peer and priority that wait.
#[derive(Default)]
pub struct Lane {
    pub queue: VecDeque<Queued>,
    pub bytes: u64,
    /// A packet of the lane is being handled.
    pub is_busy: bool,
    /// The cost of what arrived over the stream, what the peer was granted for it, and the latest number.
    pub received: u64,
    pub granted: u64,
    pub latest: u64,
    /// The highest number that was handed out, of this link of the peer.
    pub handed: u64,
    /// The frames that are kept in memory, in the order of their packets, with how many of those wait.
    frames: VecDeque<(Frame, usize)>,
    frame_bytes: usize,
}

impl Lane {
    pub fn is_ready(&self) -> bool {
        !self.is_busy && !self.queue.is_empty()
    }

    /// Returns what the peer may be granted: what arrived, and what still fits.
    pub fn due(&self) -> u64 {
        self.received + LANE_WINDOW.saturating_sub(self.bytes)
    }

    /// Adds a packet that arrived in this frame.
    pub fn push(&mut self, mut queued: Queued, frame: Frame) {
        self.bytes += queued.packet.cost();
        let payload = &mut queued.packet.payload;
        // An empty one keeps nothing.
        if !payload.is_empty() && payload.len() < frame.len / WHOLE_SHARE {
            if self.keep(frame) {
                queued.frame = Some(frame);
            } else {
                *payload = Bytes::copy_from_slice(payload);
            }
        }
        self.queue.push_back(queued);
    }

    /// Counts a packet that keeps its frame in memory. Returns false if the frames are too large already.
    fn keep(&mut self, frame: Frame) -> bool {
        if let Some((latest, packets)) = self.frames.back_mut()
            && *latest == frame
        {
            *packets += 1;
            return true;
        }
        if self.frame_bytes >= LANE_FRAMES {
            return false;
        }
        self.frame_bytes += frame.len;
        self.frames.push_back((frame, 1));
        true
    }

    /// Takes the oldest packet.
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.bytes -= queued.packet.cost();
        if queued.frame.is_some()
            && let Some((frame, packets)) = self.frames.front_mut()
        {
            *packets -= 1;
            if *packets == 0 {
                self.frame_bytes -= frame.len;
                self.frames.pop_front();
            }
        }
        Some(queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::tests::fixture::packet;

    /// Returns a packet with this part of a frame as its payload.
    fn queued(frame: &Bytes, len: usize) -> Queued {
        let packet = Packet { payload: frame.slice(..len), ..packet(1) };
        Queued { packet: Box::new(packet), deadline: 0, incarnation: 0, frame: None }
    }

    fn is_part_of(frame: &Bytes, queued: &Queued) -> bool {
        frame.as_ptr_range().contains(&queued.packet.payload.as_ptr())
    }

    #[test]
    fn a_lane_keeps_frames_up_to_a_limit_and_then_copies_payloads() {
        let bytes = Bytes::from(vec![7; LANE_FRAMES / 2 + 1]);
        let mut lane = Lane::default();
        let frame = |number| Frame { len: bytes.len(), number };
        // Two frames with two packets each reach the limit, and the third one is copied.
        for number in [1, 1, 2, 2, 3] {
            lane.push(queued(&bytes, 100), frame(number));
        }
        let whole = bytes.len() / WHOLE_SHARE;
        lane.push(queued(&bytes, whole), frame(4));
        lane.push(queued(&bytes, whole - 1), frame(5));
        let is_part: Vec<_> = lane.queue.iter().map(|queued| is_part_of(&bytes, queued)).collect();
        assert_eq!(is_part, [true, true, true, true, false, true, false]);
        assert!(lane.queue.iter().all(|queued| bytes.starts_with(&queued.packet.payload)));

        lane.pop().unwrap();
        lane.push(queued(&bytes, 100), frame(6));
        assert!(!is_part_of(&bytes, &lane.queue[6]), "another packet of the first frame waits");
        lane.pop().unwrap();
        lane.push(queued(&bytes, 100), frame(7));
        assert!(is_part_of(&bytes, &lane.queue[6]));
        while lane.pop().is_some() {}
        assert_eq!((lane.bytes, lane.frame_bytes, lane.frames.len()), (0, 0, 0));
    }

    #[test]
    fn full_frames_wait_without_a_copy() {
        let bytes = Bytes::from(vec![7; 256 << 10]);
        let mut lane = Lane::default();
        let fitting = LANE_WINDOW / queued(&bytes, 1 << 10).packet.cost();
        for number in 0..fitting {
            lane.push(queued(&bytes, 1 << 10), Frame { len: bytes.len(), number: number / 256 });
        }
        assert!(lane.queue.iter().all(|queued| is_part_of(&bytes, queued)));
    }
}
