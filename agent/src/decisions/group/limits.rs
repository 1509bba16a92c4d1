//! All limits of an agent's part in groups; those of the protocol are in [`robeing_bft::limits`].

use std::time::Duration;

/// Maximum number of groups that an agent is a member of, or has a key for.
pub const MAX_GROUPS: usize = 16;
/// How long the key of an agent is kept that has enrolled for the next epoch of a group, and is no member yet, ms: a
/// day. The epoch may begin long after the enrolment, and a new member whose key is gone by then is lost to the group.
pub const NEXT_KEPT_MS: u64 = 24 * 3_600 * 1_000;
/// Maximum number of messages that are verified or wait for one replica: each other member has an equal share. What
/// does not fit is dropped, and sent again.
pub const MAX_INBOX: usize = 1_024;
/// Maximum size of the messages that are verified or wait for one replica, bytes: each other member has an equal share,
/// in which the largest message fits.
pub const MAX_INBOX_BYTES: usize = 32 << 20;
/// Maximum number of questions of clients that wait for one replica.
pub const MAX_COMMANDS: usize = 64;
/// Maximum number of messages that wait to be sent to one other member. What does not fit is dropped, and sent again.
pub const MAX_OUTBOX: usize = 256;
/// Maximum size of the messages that wait to be sent to one other member, bytes.
pub const MAX_OUTBOX_BYTES: usize = 8 << 20;
/// Maximum number of inputs whose records share one sync.
pub const STEPS_PER_SYNC: usize = 64;
/// Size from which a message is verified on another thread, bytes.
pub const VERIFIED_ASIDE: usize = 2 * 1024;
/// How long a message to another member may be under way. It is sent again by the protocol.
pub const SEND_WITHIN: Duration = Duration::from_secs(5);
/// How long another member may take to answer a question for decisions.
pub const ASK_WITHIN: Duration = Duration::from_secs(10);
/// How long one other agent may take to give a whole state: then another one is asked.
pub const STATE_WITHIN: Duration = Duration::from_secs(120);
/// Pause between questions for missing decisions.
pub const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a member starts again whose disk has failed.
pub const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Pause between warnings about messages of one member that are wrong.
pub const WARN_PAUSE: Duration = Duration::from_secs(60);
/// Maximum number of ballots of one group that the agent's handler of messages decides at once.
pub const DECIDED_AT_ONCE: usize = 4;
/// Pause before a vote is called again that is not counted yet.
pub const VOTE_PAUSE: Duration = Duration::from_secs(1);
/// Time between looks at the clock until the deadline of a ballot, at most: the clock may be set.
pub const CLOCK_PAUSE: Duration = Duration::from_secs(60);
/// How long a ballot is known before this member says that its deadline is over. Who opens many with deadlines that are
/// over makes no more work than this.
pub const LEAST_OPEN: Duration = Duration::from_secs(1);
