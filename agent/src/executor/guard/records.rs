//! The records that an agent sends its guard over a pipe. A record is a process-group id as four little-endian bytes,
//! positive to add the group and negative to remove it; or a marker that no command's group has as its id, followed by
//! a payload.

use std::{collections::VecDeque, time::Duration};

use prost::Message;

/// Size of a record without a payload, in bytes.
pub(in crate::executor) const RECORD: usize = 4;
/// Marks a lease; its milliseconds follow. No command's group has this id.
const LEASE: i32 = 1;
/// Marks a [`SessionInfo`]; its length in bytes and its bytes follow.
const STAY: i32 = i32::MIN;
/// The maximum size of an atomic write to a pipe, in bytes.
const ATOMIC: usize = 4096;

/// The agent's session, with everything that a guard needs to report its end.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SessionInfo {
    /// The cluster's id.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// The agent's name.
    #[prost(string, tag = "2")]
    pub agent: String,
    /// The session's id; 0: no session.
    #[prost(uint64, tag = "3")]
    pub session: u64,
    /// The secret from which the incarnation is derived.
    #[prost(bytes = "vec", tag = "4")]
    pub secret: Vec<u8>,
    /// Addresses of the coordinators, the leader's first.
    #[prost(string, repeated, tag = "5")]
    pub coordinators: Vec<String>,
    /// How long a report is useful, in milliseconds: after that the coordinators count the agent as lost anyway.
    #[prost(uint32, tag = "6")]
    pub within_ms: u32,
    /// Whether and whom to trust when reporting.
    #[prost(message, optional, tag = "7")]
    pub trust: Option<GuardTrust>,
}

/// Whom a guard trusts, with TLS.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GuardTrust {
    /// The trusted authorities' certificates, DER; at most [`MAX_AUTHORITIES`] fit.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub authorities: Vec<Vec<u8>>,
    /// Whether coordinators without TLS are called as well.
    #[prost(bool, tag = "2")]
    pub permissive: bool,
    /// The fleet's wall time, Unix milliseconds, at a moment of the clock that counts from the machine's start; both are
    /// 0 if it is not known.
    #[prost(uint64, tag = "3")]
    pub wall: u64,
    /// That moment, milliseconds.
    #[prost(uint64, tag = "4")]
    pub at: u64,
}

/// Maximum number of authorities that are passed to a guard. Fewer are if a session would not fit into one write.
pub const MAX_AUTHORITIES: usize = 3;

/// One record received from the agent.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum GuardRecord {
    Group(i32),
    GroupGone(i32),
    /// The lease ends after this time; `None`: never.
    Lease(Option<Duration>),
    /// The agent's session; with id 0: it has none.
    Session(Box<SessionInfo>),
}

/// Returns the record that adds a (positive) or removes a (negative) process group.
pub(in crate::executor) fn record(group: i32) -> [u8; RECORD] {
    group.to_le_bytes()
}

/// Returns the record of a lease that ends after `millis` milliseconds, or never (0).
pub(super) fn lease_record(millis: u32) -> [u8; 2 * RECORD] {
    let mut record = [0; 2 * RECORD];
    record[..RECORD].copy_from_slice(&LEASE.to_le_bytes());
    record[RECORD..].copy_from_slice(&millis.to_le_bytes());
    record
}

/// Returns the record of a session, with as many coordinator addresses as fit, but at least one; if that is still too
/// long, with fewer authorities.
pub(super) fn session_record(info: &SessionInfo) -> Vec<u8> {
    let mut info = info.clone();
    while info.encoded_len() + 2 * RECORD > ATOMIC && shorten(&mut info) {}
    let content = info.encode_to_vec();
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&STAY.to_le_bytes()[..], &length.to_le_bytes(), &content].concat()
}

/// Removes the last coordinator, or the oldest authority. Returns false if only one of each is left.
fn shorten(info: &mut SessionInfo) -> bool {
    if info.coordinators.len() > 1 {
        return info.coordinators.pop().is_some();
    }
    match &mut info.trust {
        Some(trust) if trust.authorities.len() > 1 => {
            trust.authorities.remove(0);
            true
        }
        _ => false,
    }
}

/// Decodes records, which may arrive in pieces.
#[derive(Default)]
pub(super) struct Records(VecDeque<u8>);

impl Records {
    /// Adds bytes and returns the records that are complete now.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<GuardRecord> {
        self.0.extend(bytes);
        std::iter::from_fn(|| self.next()).collect()
    }

    fn number(&self, at: usize) -> Option<[u8; RECORD]> {
        let mut bytes = self.0.iter().skip(at * RECORD).copied();
        Some([bytes.next()?, bytes.next()?, bytes.next()?, bytes.next()?])
    }

    fn next(&mut self) -> Option<GuardRecord> {
        match i32::from_le_bytes(self.number(0)?) {
            LEASE => {
                let left = Duration::from_millis(u64::from(u32::from_le_bytes(self.number(1)?)));
                self.0.drain(..2 * RECORD);
                Some(GuardRecord::Lease((!left.is_zero()).then_some(left)))
            }
            STAY => {
                let end = 2 * RECORD + usize::try_from(u32::from_le_bytes(self.number(1)?)).ok()?;
                if self.0.len() < end {
                    return None;
                }
                let content: Vec<u8> = self.0.drain(..end).skip(2 * RECORD).collect();
                // An undecodable session counts as none, since nothing could be reported about it.
                Some(GuardRecord::Session(Box::new(SessionInfo::decode(&content[..]).unwrap_or_default())))
            }
            group => {
                self.0.drain(..RECORD);
                // 0 is no command's group; killing it would kill the caller's own group.
                Some(if group > LEASE {
                    GuardRecord::Group(group)
                } else {
                    GuardRecord::GroupGone(group.saturating_neg())
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(coordinators: usize) -> SessionInfo {
        SessionInfo {
            cluster_id: "cluster".into(),
            agent: "agent".into(),
            session: 7,
            secret: vec![1; 16],
            coordinators: vec!["x".repeat(253); coordinators],
            within_ms: 2_000,
            trust: None,
        }
    }

    #[test]
    fn records_may_arrive_in_pieces() {
        let bytes =
            [&record(7)[..], &lease_record(500), &session_record(&info(1)), &lease_record(0), &record(-9)].concat();
        let expected = [
            GuardRecord::Group(7),
            GuardRecord::Lease(Some(Duration::from_millis(500))),
            GuardRecord::Session(Box::new(info(1))),
            GuardRecord::Lease(None),
            GuardRecord::GroupGone(9),
        ];
        for cut in 0..=bytes.len() {
            let mut records = Records::default();
            let told = [records.take(&bytes[..cut]), records.take(&bytes[cut..])].concat();
            assert_eq!(told, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_session_is_told_in_one_write_whatever_its_addresses() {
        let bytes = session_record(&info(100));
        assert!(bytes.len() <= ATOMIC, "{}", bytes.len());
        let Some(GuardRecord::Session(told)) = Records::default().take(&bytes).pop() else {
            panic!("expected a session record")
        };
        assert!(told.coordinators.len() > 10);
        assert_eq!((told.session, told.agent.as_str()), (7, "agent"));
    }

    #[test]
    fn large_authorities_leave_room_for_a_coordinator() {
        let trust = GuardTrust { authorities: (1..=3).map(|n| vec![n; 1_800]).collect(), ..GuardTrust::default() };
        let bytes = session_record(&SessionInfo { trust: Some(trust), ..info(20) });
        assert!(bytes.len() <= ATOMIC, "{}", bytes.len());
        let Some(GuardRecord::Session(read)) = Records::default().take(&bytes).pop() else { panic!("no session") };
        assert_eq!(read.coordinators.len(), 1);
        let authorities = read.trust.map(|trust| trust.authorities).unwrap_or_default();
        assert_eq!(authorities, [vec![2; 1_800], vec![3; 1_800]], "the newest");
    }

    #[test]
    fn no_record_adds_every_process_or_the_guards_own_group() {
        for group in [0, -1, -i32::MAX] {
            assert!(matches!(Records::default().take(&record(group))[..], [GuardRecord::GroupGone(_)]), "{group}");
        }
    }
}
