//! All limits of the protocol.

/// Minimum number of members: fewer tolerate no liar.
pub const MIN_MEMBERS: usize = 4;
/// Maximum number of members of an epoch.
pub const MAX_MEMBERS: usize = 32;
/// Maximum number of clients of an epoch that are not members.
pub const MAX_CLIENTS: usize = 1_024;
/// Maximum length of the name of a fleet, group or member, in bytes.
pub const MAX_NAME_BYTES: usize = 253;
/// Maximum size of a request's operation, encoded, in bytes. The largest change of members fits.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Maximum number of requests in a batch.
pub const MAX_BATCH_REQUESTS: usize = 256;
/// Maximum size of a batch, encoded, in bytes.
pub const MAX_BATCH_BYTES: usize = 512 * 1024;
/// Maximum distance of the watermarks, in sequence numbers. It also limits the proofs in a view change.
pub const MAX_WINDOW: u64 = 256;
/// Maximum number of sequence numbers between checkpoints.
pub const MAX_CHECKPOINT_INTERVAL: u64 = 128;
/// Maximum number of batches that a primary proposes before the first of them is executed.
pub const MAX_IN_FLIGHT: u64 = 64;
/// Maximum number of entries in any encoded list.
pub const MAX_LIST: usize = 1_024;
/// Maximum number of requests of one client that wait at a replica.
pub const MAX_PENDING_PER_CLIENT: usize = 16;
/// Maximum size of all requests that wait at a replica, encoded, in bytes.
pub const MAX_PENDING_BYTES: usize = 32 * 1024 * 1024;
/// Number of request ids below a client's highest executed one that still count as new if they were not executed.
pub const CLIENT_WINDOW: u64 = 64;
/// Maximum size of a request's result, in bytes; longer ones are cut.
pub const MAX_RESULT_BYTES: usize = 1_024;
/// Number of results that are kept for each client, to answer repeated requests.
pub const RESULTS_PER_CLIENT: usize = 4;
/// Maximum size of an application's snapshot, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;
/// Maximum size of a checkpoint's state, which is a snapshot and what is known of clients, encoded, in bytes.
pub const MAX_STATE_BYTES: usize = 24 * 1024 * 1024;
/// Size of the chunks in which states are transferred, in bytes.
pub const STATE_CHUNK_BYTES: usize = 256 * 1024;
/// Maximum number of chunks of a state.
pub const MAX_STATE_CHUNKS: usize = MAX_STATE_BYTES / STATE_CHUNK_BYTES;
/// Maximum number of chunks that a replica requests at a time.
pub const CHUNKS_IN_FLIGHT: usize = 4;
/// Number of checkpoint votes that are kept for each member: those with the highest sequence numbers.
pub const CHECKPOINTS_PER_MEMBER: usize = 4;
/// Number of view changes that are kept for each member: the one for the highest view.
pub const VIEW_CHANGES_PER_MEMBER: usize = 1;
/// Number of batches that are kept for each sequence number: those accepted in the latest views, and always the one
/// of the prepared certificate.
pub const BODIES_PER_SLOT: usize = 4;
/// Number of ticks without a question after which a replica forgets an old state that a member was getting. It keeps
/// at most f + 1 of them.
pub const IDLE_TICKS_OF_PIN: u32 = 4;
/// Maximum number of answers that one member gets between two ticks of the resend timer.
pub const ANSWERS_PER_TICK: u32 = 64;
/// How many answers the answer to a status counts for.
pub const COST_OF_STATUS: u32 = 4;
/// Maximum number of decisions in the answer to one status.
pub const DECISIONS_PER_STATUS: usize = 16;
/// Maximum number of undecided sequence numbers for which one status makes a replica repeat its votes.
pub const VOTES_PER_STATUS: usize = 16;
/// Maximum number of waiting requests that a replica forwards to the primary at once.
pub const FORWARDED_AT_ONCE: usize = 32;
/// Maximum number of times that a view's timeout doubles.
pub const MAX_DOUBLINGS: u32 = 16;
/// Maximum duration of any timer, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1_000;
/// Factor by which the resend timer is slower while nothing is outstanding.
pub const IDLE_FACTOR: u64 = 8;
/// Maximum size of an encoded message, in bytes. Longer input is not decoded. The largest message is a new view.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Maximum size of an encoded record, in bytes. The largest record is a stable checkpoint with its state.
pub const MAX_RECORD_BYTES: usize = MAX_STATE_BYTES + 1024 * 1024;
