//! Every bound of the state machine, with its default where it is configurable.

mod links;

pub use self::links::*;
pub use crate::archive::{DEFAULT_RECENT_RESULTS, MAX_ARCHIVED_AT_ONCE, RECENT_RESULT_BYTES};

/// Largest input or output, bytes.
pub const MAX_INPUT_BYTES: usize = 1024 * 1024;
/// Largest input or output that is in the object store, bytes: an agent that runs a task holds it in memory.
pub const MAX_BLOB_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes that a reference to an output in the object store counts for when the result is passed on: no fewer than it has
/// in a message.
pub const BLOB_REF_BYTES: usize = 64;
/// Longest kind, specialization, submitter, agent name, pool name, address or version, bytes.
pub const MAX_NAME_BYTES: usize = 253;
/// Longest idempotency key, bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// Longest failure message, cancel reason or stderr tail that is kept, bytes.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Most specializations of one agent.
pub const MAX_SPECIALIZATIONS: usize = 16;
/// Most slots of one agent.
pub const MAX_SLOTS: u32 = 4096;
/// Most agents of a fleet, remembered lost agents included.
pub const MAX_AGENTS: u32 = 20_000;
/// Most pools that one [`crate::PoolCommand::Set`] may name.
pub const MAX_POOLS: usize = 64;
/// Number of known pools, including those that were set, at which a join can no longer add a pool.
/// [`crate::PoolCommand::Set`] can add up to [`MAX_POOLS`] more, which are kept for as long as agents have joined them.
pub const MAX_KEPT_POOLS: usize = 1_024;
/// Most attempts a retry policy may allow.
pub const MAX_ATTEMPTS: u32 = 1_000;
/// Most attempts kept with a task for reading, newest last.
pub const MAX_KEPT_ATTEMPTS: usize = 16;
/// Most agents that a task with a result to be verified runs on. All their attempts are kept with it.
pub const MAX_VERIFYING_AGENTS: u32 = 8;
const _: () = assert!(MAX_VERIFYING_AGENTS as usize <= MAX_KEPT_ATTEMPTS);
/// Most unfinished tasks with results to be verified. If fewer agents fit them than they ask for, some of their runs stay
/// queued, and each free slot of an agent that has had its turn at all of them costs a look at each: that is what this
/// bounds.
pub const MAX_VERIFIED_TASKS: u32 = 100;
/// Largest output that tasks compare with others, bytes: two of them are an input of at most [`MAX_INPUT_BYTES`].
pub const MAX_COMPARED_BYTES: usize = MAX_INPUT_BYTES / 2 - 16;
/// Most runs and comparisons of one task that have ended and are remembered while agents stop them. Beyond it, those
/// that ended first are forgotten. Those of one epoch are never more.
pub const MAX_STOPPING_PARTS: usize = 64;
const _: () = assert!((MAX_VERIFYING_AGENTS * (MAX_VERIFYING_AGENTS + 1) / 2) as usize <= MAX_STOPPING_PARTS);
/// Longest JSON pointer to what is compared of outputs, bytes.
pub const MAX_POINTER_BYTES: usize = 256;
/// Longest duration a task or the configuration may name, ms: 366 days.
pub const MAX_DURATION_MS: u64 = 366 * 24 * 3600 * 1000;
/// Most kinds whose mean duration is remembered for relative speed; the kind not seen for longest is dropped first.
pub const MAX_TIMED_KINDS: usize = 256;
/// Most kinds of which an agent has a record of its own; the kind that counted for it longest ago is dropped first.
pub const MAX_KIND_RECORDS: usize = 8;
/// Most agents of one set that are looked at for a task of a kind for which some agents have a record of their own, besides
/// the best of those. A better one behind them is passed over.
pub const MAX_KIND_LOOKS: usize = 16;
/// Most agents of one set that are looked at for a task that takes several slots or several skills, the ones with the best
/// scores first. Those behind them count as having no room.
pub const MAX_WIDE_LOOKS: usize = 2_048;
/// Most agents with room for such a task of one set whose scores are compared, and that are counted as candidates.
pub const MAX_WIDE_FOUND: usize = 32;
/// Most specializations that a task may require of an agent.
pub const MAX_TASK_SKILLS: usize = 8;
/// Most kinds whose defaults are set.
pub const MAX_TASK_KINDS: usize = 256;
/// Most bytes of a kind that is set in a snapshot: with names, skills, a queue, and names of failures of the longest
/// length.
pub const MAX_TASK_KIND_OVERHEAD: u64 =
    ((MAX_TASK_SKILLS + 4) * MAX_NAME_BYTES + MAX_NON_RETRYABLE * (MAX_FAILURE_NAME_BYTES + 32) + 512) as u64;
/// Most bytes of an agent's record for one kind in a snapshot.
pub const MAX_KIND_RECORD_OVERHEAD: u64 = MAX_NAME_BYTES as u64 + 64;
/// Most attempts of one agent that are looked at to find when it is expected to have room for a task.
pub const MAX_EXPECTED_LOOKS: usize = 64;
/// Most agents that are listed of those that could take a task: those that can take it now, then those with the best scores.
pub const MAX_CANDIDATES_TOLD: usize = 32;
/// Most different needs of waiting tasks that are looked at to find which of them no agent meets.
pub const MAX_NEEDS_LOOKED_AT: usize = 64;
/// Most waiting tasks of one kind and role that are looked at for what they need.
pub const MAX_TASKS_OF_NEED: usize = 16;
/// Most tasks on a page of a listing.
pub const MAX_PAGE: usize = 1_000;
/// Default of `FleetConfig::max_queued`.
pub const DEFAULT_MAX_QUEUED: u32 = 100_000;
/// One place in this many of the queue is kept from each priority of roles for the priorities above it; see
/// [`Places`](crate::Places).
pub const QUEUE_PLACES_PER_KEPT: u32 = 100;
/// Default of `FleetConfig::max_tasks`.
pub const DEFAULT_MAX_TASKS: u32 = 1_000_000;
/// Default of `FleetConfig::max_bytes`: 1 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest snapshot of a fleet that coordinators send and accept, bytes. A configuration that could lead to a larger
/// one is refused; see `FleetConfig::largest_snapshot`.
pub const MAX_SNAPSHOT_BYTES: u64 = 64 * 1024 * 1024 * 1024 + MAX_OTHER_BYTES;
/// Least number of bytes by which results may exceed `FleetConfig::max_bytes`, because an accepted task may have an
/// output; the allowance is `max_bytes` if that is more. Beyond it, outputs are refused and texts are cut to
/// [`SCARCE_TEXT_BYTES`].
pub const MIN_OVERDRAFT_BYTES: u64 = 16 * 1024 * 1024;
/// Longest failure message or cancel reason that is kept when the storage is full, bytes. No stderr tail is kept then.
pub const SCARCE_TEXT_BYTES: usize = 128;
/// Most bytes of a task in a snapshot besides what counts against `FleetConfig::max_bytes`: names, key and kept
/// attempts, each with a text of [`SCARCE_TEXT_BYTES`].
pub const MAX_TASK_OVERHEAD: u64 = 10 * 1024;
/// Most bytes of an agent in a snapshot besides its slots.
pub const MAX_AGENT_OVERHEAD: u64 = 8 * 1024;
/// Default of `FleetConfig::result_ttl`, ms: one hour.
pub const DEFAULT_RESULT_TTL_MS: u64 = 3600 * 1000;
/// Default of `FleetConfig::lost_agent_ttl`, ms: ten minutes.
pub const DEFAULT_LOST_AGENT_TTL_MS: u64 = 600 * 1000;
/// Default of `RetryPolicy::max_attempts`.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;
/// Default backoff before the second attempt, ms.
pub const DEFAULT_INITIAL_BACKOFF_MS: u64 = 1_000;
/// Default of the longest backoff, ms.
pub const DEFAULT_MAX_BACKOFF_MS: u64 = 60_000;
/// Default growth of the backoff, percent.
pub const DEFAULT_MULTIPLIER_PERCENT: u32 = 200;
/// Priority of a task that is submitted without one.
pub const DEFAULT_PRIORITY: u8 = 5;
/// Highest priority; the lowest is 1.
pub const MAX_PRIORITY: u8 = 10;
/// Largest growth of the backoff between attempts, percent.
pub const MAX_MULTIPLIER_PERCENT: u32 = 10_000;
/// Largest absolute weight of a term of the score, points.
pub const MAX_WEIGHT: i32 = 1_000_000;
/// Default weight of a specialization that matches the task's kind, points.
pub const DEFAULT_SPECIALIZATION_WEIGHT: i32 = 50;
/// Default weight of a full agent, points.
pub const DEFAULT_LOAD_WEIGHT: i32 = -10;
/// Default weight of a perfect track record, points.
pub const DEFAULT_PERFORMANCE_WEIGHT: i32 = 20;
/// Grace after an attempt's timeout before the coordinators end the attempt themselves, ms. The agent ends it at the
/// timeout, so its report normally comes first.
pub const ATTEMPT_GRACE_MS: u64 = 5_000;
/// Longest pause before the next attempt that a failure may ask for, ms.
pub const MAX_RETRY_AFTER_MS: u64 = 3_600_000;
/// Hand-backs of one task that are free; further ones count as attempts, so that no task is handed back forever.
pub const MAX_FREE_HAND_BACKS: u32 = 100;
/// Largest part of a backoff by which jitter may shorten it, percent.
pub const MAX_JITTER_PERCENT: u32 = 100;
/// Most failures that a task may name after which it is not tried again.
pub const MAX_NON_RETRYABLE: usize = 16;
/// Longest name of a failure, bytes.
pub const MAX_FAILURE_NAME_BYTES: usize = 128;
/// Most dead letters. Beyond it, the ones that died first are none any more.
pub const MAX_DEAD_LETTERS: usize = 10_000;
/// One place in this many, and one byte, that a fleet has for tasks may be taken by dead letters.
pub const PLACES_PER_DEAD_LETTER: usize = 4;
/// Least number of bytes that a dead letter counts for, so that a large one makes few small ones go: 4 KiB.
pub const LEAST_DEAD_LETTER_BYTES: u64 = 4 * 1024;
/// How long a dead letter is kept, ms of fleet time: 7 days, or for as long as other results if that is longer.
pub const DEAD_LETTER_TTL_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long a dead letter is kept at least once it is dropped, ms of fleet time, so that dropping it again has the same
/// reply: a minute.
pub const DROPPED_TTL_MS: u64 = 60 * 1000;
/// Longest reason why an agent is unhealthy or barred, bytes; a longer reason of a bar is cut.
pub const MAX_REASON_BYTES: usize = 256;
/// Most recovery steps kept with an agent, newest last.
pub const MAX_RECOVERY_STEPS: usize = 16;
/// Most recovery steps of all agents kept with the fleet, newest last.
pub const MAX_FLEET_RECOVERY_STEPS: usize = 128;
/// Most timers that one command fires; the other due timers wait for the next command.
pub const MAX_FIRINGS: usize = 10_000;
/// Most tasks that one call of a listing scans; a page may be short, even empty, and still have a next one.
pub const MAX_SCANNED: usize = 1_000;
/// Latest time the state machine represents, ms: the end of the year 9999. Later times are clamped to it.
pub const MAX_TIME_MS: u64 = 253_402_300_799_999;
/// Longest bundle of trusted certificates, and longest key set of an issuer of tokens, bytes: 64 KiB each.
pub const MAX_TRUST_TEXT_BYTES: usize = 64 * 1024;
/// Most issuers of tokens that a fleet trusts.
pub const MAX_TOKEN_ISSUERS: usize = 4;
/// Longest issuer or audience of tokens, bytes.
pub const MAX_ISSUER_BYTES: usize = 512;
/// Most service accounts that a pool's agents may have.
pub const MAX_SERVICE_ACCOUNTS: usize = 8;
/// Longest service account, bytes: a namespace, a slash and a name.
pub const MAX_SERVICE_ACCOUNT_BYTES: usize = 63 + 1 + 253;
/// Most join secrets of a pool: the current one and the one before it.
pub const MAX_JOIN_SECRETS: usize = 2;
/// Most used proofs that are remembered; beyond it, no agent is enrolled with a single-use proof.
pub const MAX_SPENT_PROOFS: usize = 100_000;
/// How long after its expiry a used proof is remembered, ms of wall time: one hour.
pub const SPENT_PROOF_GRACE_MS: u64 = 3600 * 1000;
/// Most expired proofs that one command forgets. More than one, so that they are forgotten faster than new ones come.
pub const MAX_PROOFS_FORGOTTEN: usize = 4;
/// Most enrolments that are remembered; beyond it, the oldest one of an agent without a session makes room.
pub const MAX_ENROLMENTS: usize = 20_000;
/// Most agents that are barred at once.
pub const MAX_BARS: usize = 10_000;
/// Longest actor or subject in the audit log, bytes; longer ones are cut.
pub const MAX_ACTOR_BYTES: usize = 2 * MAX_NAME_BYTES;
/// Longest detail in the audit log, bytes; longer ones are cut.
pub const MAX_DETAIL_BYTES: usize = 512;
/// Most records of the audit log that are kept; beyond it, the oldest are dropped.
pub const MAX_AUDIT_RECORDS: usize = 10_000;
/// An agent that is outvoted more often than this is recorded once in this time, ms, so that disagreements do not push out
/// everything else.
pub const OUTVOTED_RECORD_MS: u64 = 10_000;
/// Most records that one [`crate::AuditCommand::Record`] may add.
pub const MAX_AUDIT_BATCH: usize = 100;
/// Most bytes of the identity configuration in a snapshot.
pub const MAX_IDENTITY_CONFIG_BYTES: u64 = 1024 * 1024;
/// Most bytes of an enrolment in a snapshot.
pub const MAX_ENROLMENT_OVERHEAD: u64 = 1024;
/// Most bytes of a bar in a snapshot.
pub const MAX_BAR_OVERHEAD: u64 = 2 * 1024;
/// Most bytes of a used proof in a snapshot.
pub const MAX_SPENT_PROOF_OVERHEAD: u64 = 64;
/// Most bytes of a record of the audit log in a snapshot.
pub const MAX_AUDIT_RECORD_OVERHEAD: u64 = 2 * 1024;
/// Largest payload of a letter, bytes: 1 MiB, and room for what sealing it adds.
pub const MAX_LETTER_BYTES: usize = (1024 + 64) * 1024;
/// Longest sender of a letter, bytes.
pub const MAX_SENDER_BYTES: usize = 512;
/// Longest address of a letter as its sender wrote it, bytes: a kind, a colon and a name.
pub const MAX_LETTER_ADDRESS_BYTES: usize = MAX_NAME_BYTES + 16;
/// Longest id of the key that a letter's payload is sealed for, bytes.
pub const MAX_KEY_ID_BYTES: usize = 64;
/// Largest reply to a letter, bytes: 1 MiB. A larger one is dropped.
pub const MAX_LETTER_REPLY_BYTES: usize = 1024 * 1024;
/// Least number of bytes that a kept reply counts for, so that a large reply makes few small ones drop: 16 KiB.
pub const LEAST_REPLY_BYTES: usize = 16 * 1024;
/// Most bytes of kept replies: 32 MiB. Beyond it the oldest are dropped; their letters stay accepted.
pub const MAX_REPLIES_BYTES: u64 = 32 * 1024 * 1024;
/// Longest reason why a letter is refused, bytes; a longer one is cut.
pub const MAX_LETTER_REASON_BYTES: usize = 512;
/// Longest time that a letter may wait, ms of fleet time: 7 days.
pub const MAX_LETTER_TTL_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long the outcome of a letter is kept, ms of fleet time: ten minutes.
pub const LETTER_OUTCOME_TTL_MS: u64 = 600 * 1000;
/// Most letters that wait for one receiver.
pub const MAX_WAITING_FOR_ONE: usize = 10_000;
/// Most letters that wait.
pub const MAX_WAITING_LETTERS: usize = 100_000;
/// Most letters, including the settled ones whose outcome is kept.
pub const MAX_LETTERS: usize = 500_000;
/// Most bytes of payloads, senders, addresses, receivers, types and key ids of letters: 64 MiB. Settled letters have no
/// payload.
pub const MAX_MAIL_BYTES: u64 = 64 * 1024 * 1024;
/// Most bytes of a letter in a snapshot besides what counts against [`MAX_MAIL_BYTES`].
pub const MAX_LETTER_OVERHEAD: u64 = 1024;
/// Longest question of a ballot, bytes: 4 KiB.
pub const MAX_QUESTION_BYTES: usize = 4 * 1024;
/// Fewest options of a ballot that has any.
pub const MIN_BALLOT_OPTIONS: usize = 2;
/// Most options of a ballot.
pub const MAX_BALLOT_OPTIONS: usize = 16;
/// Longest option of a ballot, bytes.
pub const MAX_OPTION_BYTES: usize = 128;
/// Most members of a ballot's electorate.
pub const MAX_ELECTORS: usize = 256;
/// Most weight of one member of an electorate.
pub const MAX_VOTE_WEIGHT: u32 = 1_000;
/// Longest time that a ballot may be open, ms of fleet time: 30 days.
pub const MAX_BALLOT_DURATION_MS: u64 = 30 * 24 * 3600 * 1000;
/// Largest payload of the letters that tell agents of a ballot, bytes: 256 KiB.
pub const MAX_NOTICE_BYTES: usize = 256 * 1024;
/// Most votes that one command casts, all of one member. Nothing else is applied meanwhile.
pub const MAX_VOTES_TOGETHER: usize = 32;
/// Longest reason of a vote that is kept, bytes: 1 KiB; a longer one is cut.
pub const MAX_VOTE_REASON_BYTES: usize = 1024;
/// Largest signed envelope of a vote, bytes: 4 KiB.
pub const MAX_ENVELOPE_BYTES: usize = 4 * 1024;
/// Largest binding of a voter's key to its certificate, bytes: 1 KiB.
pub const MAX_BINDING_BYTES: usize = 1024;
/// Largest certificate of a voter, bytes: 2 KiB.
pub const MAX_VOTE_CERTIFICATE_BYTES: usize = 2 * 1024;
/// Largest certificate of an authority that issued certificates of voters, bytes: 4 KiB.
pub const MAX_VOTE_AUTHORITY_BYTES: usize = 4 * 1024;
/// Most authorities that the evidence of kept votes refers to. A fleet has one at a time, or two while it is replaced.
pub const MAX_VOTE_AUTHORITIES: usize = 256;
/// Most bytes of an authority in a snapshot besides its certificate.
pub const MAX_VOTE_AUTHORITY_OVERHEAD: u64 = 64;
/// Longest name of a fleet in a ballot, as its votes name it, bytes: 1 KiB.
pub const MAX_BALLOT_FLEET_BYTES: usize = 1024;
/// Most ballots, including the closed ones that are kept. Beyond it, the ones that were closed first are dropped.
pub const MAX_BALLOTS: usize = 10_000;
/// Most ballots that are open.
pub const MAX_OPEN_BALLOTS: usize = 1_000;
/// Most bytes of ballots: 64 MiB. These are the questions, options, names, and votes with their evidence, but for the
/// authorities' certificates, which are kept once. An open ballot also counts for the largest votes that its members may
/// still cast, so that none of them is refused for want of room. Beyond it, the ballots that were closed first are
/// dropped; open ones never are.
pub const MAX_BALLOT_BYTES: u64 = 64 * 1024 * 1024;
/// Most ballots that are open of one opener: a quarter of [`MAX_OPEN_BALLOTS`], so that nobody alone keeps others from
/// opening theirs.
pub const MAX_OPEN_BALLOTS_OF_ONE: usize = MAX_OPEN_BALLOTS / 4;
/// Most bytes of open ballots of one opener, with room for their votes: a quarter of [`MAX_BALLOT_BYTES`].
pub const MAX_BALLOT_BYTES_OF_ONE: u64 = MAX_BALLOT_BYTES / 4;
/// Least number of bytes that a ballot counts for, so that a large one makes few small ones drop: 4 KiB.
pub const LEAST_BALLOT_BYTES: u64 = 4 * 1024;
/// What a member of an electorate counts for besides its name, bytes.
pub const ELECTOR_OVERHEAD: u64 = 32;
/// What a vote counts for besides its texts and its evidence, bytes.
pub const VOTE_OVERHEAD: u64 = 128;
/// How long a closed ballot is kept, ms of fleet time: 7 days.
pub const BALLOT_TTL_MS: u64 = 7 * 24 * 3600 * 1000;
/// Most bytes of a ballot in a snapshot besides what counts against [`MAX_BALLOT_BYTES`].
pub const MAX_BALLOT_OVERHEAD: u64 = 512;
/// Longest purpose of a team, bytes: 1 KiB.
pub const MAX_PURPOSE_BYTES: usize = 1024;
/// Most members of a team.
pub const MAX_TEAM_SIZE: u32 = 64;
/// Most skills that the members of a team must have.
pub const MAX_TEAM_SKILLS: usize = 8;
/// Most agents that are looked at for the members of a team that must have several skills: those that perform best of
/// those with the rarest of them. The roles that fit have equal shares of it.
pub const MAX_TEAM_CANDIDATES: usize = 1_000;
/// Most teams, including the disbanded ones that are kept. Beyond it, the one that was disbanded first is dropped.
pub const MAX_TEAMS: usize = 1_000;
/// Most teams that are not disbanded and were formed by one caller, so that others can form some, too.
pub const MAX_TEAMS_OF_ONE: usize = 250;
/// How long a disbanded team is kept, ms of fleet time: 7 days.
pub const TEAM_TTL_MS: u64 = 7 * 24 * 3600 * 1000;
/// Most bytes of a team in a snapshot: 64 KiB.
pub const MAX_TEAM_OVERHEAD: u64 = 64 * 1024;
/// Most of a resource that an agent can contribute or a part of a request can ask for, in the resource's unit: 2⁴⁸,
/// which is 256 TiB of memory. The sum of all agents is less than 2⁶³.
pub const MAX_AMOUNT: u64 = 1 << 48;
/// Most parts of a request for resources.
pub const MAX_PARTS: usize = 32;
/// How long requests that have to wait for what others have keep all others waiting, ms of fleet time: ten minutes.
/// For as long after that, none does.
pub const MAX_HOLD_MS: u64 = 600 * 1000;
/// Most requests that wait for resources and are looked at in a row, one step of a command. The others are looked at
/// [`SWEEP_PAUSE_MS`] later.
pub const MAX_SWEPT: usize = 8;
/// The pause after so many, ms of fleet time.
pub const SWEEP_PAUSE_MS: u64 = 100;
/// Most agents that are looked at to find room for the parts of a request. Beyond it, there counts as being none.
pub const MAX_CANDIDATES: usize = 2_048;
/// Most different needs of unfinished tasks that need resources: amounts, queue, kind or specialization, role and team. Each
/// free slot of an agent costs a look at each of them.
pub const MAX_TASK_SHAPES: usize = 1_000;
/// How long after the newest agent has joined others are expected to join, ms of fleet time: ten seconds. Meanwhile a task
/// waits that needs more than any agent contributes.
pub const JOINING_MS: u64 = 10 * 1000;
/// Most allocations, including the ended ones that are kept. Beyond it, the ones that ended first are dropped.
pub const MAX_ALLOCATIONS: usize = 20_000;
/// Most allocations that are granted or waited for.
pub const MAX_LIVE_ALLOCATIONS: usize = 10_000;
/// Most allocations that one holder has or waits for, besides those of the attempts at a task.
pub const MAX_HELD_BY_ONE: usize = 64;
/// Most parts of the allocations that one holder has or waits for: all of them end in one step when it is gone.
pub const MAX_PARTS_OF_ONE: usize = 256;
/// Most allocations that one holder has or waits for and that one caller has asked for, if the holder is a task or a
/// team: a quarter of [`MAX_HELD_BY_ONE`], so that nobody alone keeps others from asking for the same holder.
pub const MAX_ASKED_FOR_ONE: usize = MAX_HELD_BY_ONE / 4;
/// Most allocations that are granted or waited for and that one caller has asked for: a quarter of
/// [`MAX_LIVE_ALLOCATIONS`], so that nobody alone keeps others from asking.
pub const MAX_ASKED_BY_ONE: usize = MAX_LIVE_ALLOCATIONS / 4;
/// The name of the queue that is always there.
pub const DEFAULT_QUEUE: &str = "default";
/// Most queues of the resource pool: the one that is always there, those that are set, and those that were set and from
/// which something is granted or waited for. Queues of tasks don't count.
pub const MAX_QUEUES: usize = 128;
/// Most queues that one [`crate::ResourceCommand::SetQueues`] may name.
pub const MAX_SET_QUEUES: usize = 64;
/// Most queues from which something is granted or waited for: those, and the queues of tasks, also if they were removed.
pub const MAX_USED_QUEUES: usize = MAX_QUEUES + 2 * MAX_TASK_QUEUES;
/// Most queues of tasks that are set.
pub const MAX_TASK_QUEUES: usize = 1_024;
/// Most queues of tasks that one [`crate::QueueCommand::Update`] may set and remove.
pub const MAX_UPDATED_QUEUES: usize = 100;
/// Most limits of a queue of tasks.
pub const MAX_LIMITS: usize = 32;
/// Most tokens of a bucket, and most that come in within the time that its rate names.
pub const MAX_BURST: u32 = 1_000_000;
/// Most buckets that are not full, and are kept therefore. Tasks with other keys whose rates are limited are refused then;
/// for those that wait already, the bucket whose time comes first is forgotten, so that its key has all tokens again.
pub const MAX_BUCKETS: usize = 10_000;
/// Most different kinds, or required specializations, of tasks that wait in a queue with limits: whenever a limit holds
/// them back no more, each costs a look.
pub const MAX_LIMITED_DOMAINS: usize = 1_000;
/// What a queue of weight 1 is served by one start of a task, while others wait. Weights up to 16 divide it.
pub const SHARE_STEP: u64 = 720_720;
/// Most submitters of which it is known what they were served. Beyond it, those of the queue that has most start over.
pub const MAX_SHARES: usize = 8_192;
/// How long waiting is worth one priority more in a queue that is set without saying it, ms of fleet time: ten minutes. In
/// queues that are not set, priorities do not age.
pub const DEFAULT_AGING_MS: u64 = 600 * 1000;
/// How long to wait before what was refused for lack of room is submitted again, ms, unless more is known.
pub const QUEUE_RETRY_MS: u64 = 1_000;
/// Most weight of a queue.
pub const MAX_QUEUE_WEIGHT: u32 = 1_000;
/// Weight of a queue that was not set.
pub const DEFAULT_QUEUE_WEIGHT: u32 = 1;
/// Largest quota of a resource, in its unit: as much as all agents can contribute.
pub const MAX_QUOTA: u64 = MAX_AMOUNT * MAX_AGENTS as u64;
/// How long an ended allocation is kept, ms of fleet time: ten minutes.
pub const ALLOCATION_TTL_MS: u64 = 600 * 1000;
/// Most bytes of an allocation in a snapshot.
pub const MAX_ALLOCATION_OVERHEAD: u64 = 4 * 1024;
/// Most bytes of a contribution in a snapshot.
pub const MAX_CONTRIBUTION_OVERHEAD: u64 = 96;
/// Most bytes of a set queue in a snapshot.
pub const MAX_QUEUE_OVERHEAD: u64 = 512;
/// Most bytes of a queue of tasks in a snapshot, with its limits.
pub const MAX_TASK_QUEUE_OVERHEAD: u64 = 10 * 1024;
/// Most bytes of what a submitter or a queue was served in a snapshot.
pub const MAX_SHARE_OVERHEAD: u64 = 544;
/// Most bytes of a bucket in a snapshot.
pub const MAX_BUCKET_OVERHEAD: u64 = 544;
/// Most schedules.
pub const MAX_SCHEDULES: usize = 1_000;
/// Longest name of a schedule, bytes.
pub const MAX_SCHEDULE_NAME_BYTES: usize = 63;
/// Longest cron expression of a schedule, bytes.
pub const MAX_CRON_BYTES: usize = 256;
/// Longest name of a time zone, bytes.
pub const MAX_ZONE_BYTES: usize = 64;
/// Largest input of the task of a schedule, bytes: 64 KiB.
pub const MAX_SCHEDULE_INPUT_BYTES: usize = 64 * 1024;
/// For how long an idempotency key stands for its first task at least, from the acceptance of the task on, unless the
/// configuration says otherwise, ms: one hour. A key stands for its task in any case for as long as that is kept.
pub const DEFAULT_KEY_WINDOW_MS: u64 = 3600 * 1000;
/// What a kept key of a task that is forgotten counts for besides itself, bytes.
pub const SPENT_KEY_OVERHEAD: u64 = 64;
/// Most bytes of keys of tasks that are forgotten: 128 MiB. From half of it on, submissions with keys are refused; beyond
/// it, because tasks that had been accepted are forgotten, the keys whose windows end first are dropped.
pub const MAX_KEPT_KEY_BYTES: u64 = 128 * 1024 * 1024;
/// Most keys that are dropped when one is kept: more than make room for the longest one.
pub const MAX_KEYS_FORGOTTEN: usize = 16;
const _: () = assert!(MAX_KEYS_FORGOTTEN as u64 * SPENT_KEY_OVERHEAD > MAX_KEY_BYTES as u64 + SPENT_KEY_OVERHEAD);
/// Most runs of a schedule that start although they were missed.
pub const MAX_MISSED_RUNS: u32 = 100;
/// How many of them do unless the schedule says otherwise.
pub const DEFAULT_MISSED_RUNS: u32 = 10;
/// Most runs that one decision about a schedule counts as missed.
pub const MAX_COUNTED_MISSED: u64 = 10_000;
/// How long after it was due a run may start if missed runs are skipped, unless the schedule says otherwise, ms: one minute.
pub const DEFAULT_START_WITHIN_MS: u64 = 60 * 1000;
/// Most runs of a schedule that are not finished; while there are as many, none starts.
pub const MAX_ACTIVE_RUNS: usize = 100;
/// Most finished runs that are kept with a schedule, the newest.
pub const MAX_KEPT_RUNS: usize = 10;
/// Longest reason that is kept why a run did not start, bytes; a longer one is cut.
pub const MAX_PROBLEM_BYTES: usize = 512;
/// Most rights of who has set a schedule.
pub const MAX_SETTER_RIGHTS: usize = 8;
/// Most bytes of a schedule in a snapshot besides the input of its task.
pub const MAX_SCHEDULE_OVERHEAD: u64 = 32 * 1024;
/// Most policies.
pub const MAX_POLICIES: usize = 64;
/// Longest policy as JSON, bytes: 64 KiB.
pub const MAX_POLICY_BYTES: usize = 64 * 1024;
/// Most bytes of all policies as JSON, with their names: 512 KiB.
pub const MAX_POLICIES_BYTES: usize = 512 * 1024;
/// Most bytes of a policy in a snapshot besides what counts against [`MAX_POLICIES_BYTES`].
pub const MAX_POLICY_OVERHEAD: u64 = 64;
/// Most bytes of enrolments, bars, used proofs, the audit log, letters, ballots, teams, the resource pool, queues of tasks,
/// policies, kinds of tasks, records of agents by kind, schedules, and keys of tasks that are forgotten in a snapshot, and of
/// the members and comparisons of tasks with results to be verified. They have fixed limits, so this is part of
/// [`MAX_SNAPSHOT_BYTES`] as well, and which configurations are accepted does not depend on it.
pub const MAX_OTHER_BYTES: u64 = MAX_IDENTITY_CONFIG_BYTES
    + MAX_ENROLMENTS as u64 * MAX_ENROLMENT_OVERHEAD
    + MAX_BARS as u64 * MAX_BAR_OVERHEAD
    + MAX_SPENT_PROOFS as u64 * MAX_SPENT_PROOF_OVERHEAD
    + MAX_AUDIT_RECORDS as u64 * MAX_AUDIT_RECORD_OVERHEAD
    + MAX_MAIL_BYTES
    + MAX_REPLIES_BYTES
    + MAX_LETTERS as u64 * MAX_LETTER_OVERHEAD
    + MAX_BALLOT_BYTES
    + MAX_BALLOTS as u64 * MAX_BALLOT_OVERHEAD
    + MAX_VOTE_AUTHORITIES as u64 * (MAX_VOTE_AUTHORITY_BYTES as u64 + MAX_VOTE_AUTHORITY_OVERHEAD)
    + MAX_TEAMS as u64 * MAX_TEAM_OVERHEAD
    + MAX_ALLOCATIONS as u64 * MAX_ALLOCATION_OVERHEAD
    + MAX_AGENTS as u64 * MAX_CONTRIBUTION_OVERHEAD
    + MAX_SET_QUEUES as u64 * MAX_QUEUE_OVERHEAD
    + MAX_TASK_QUEUES as u64 * MAX_TASK_QUEUE_OVERHEAD
    + (MAX_SHARES + MAX_USED_QUEUES) as u64 * MAX_SHARE_OVERHEAD
    + MAX_BUCKETS as u64 * MAX_BUCKET_OVERHEAD
    + MAX_SCHEDULES as u64 * (MAX_SCHEDULE_INPUT_BYTES as u64 + MAX_SCHEDULE_OVERHEAD)
    + MAX_KEPT_KEY_BYTES
    + MAX_POLICIES_BYTES as u64
    + MAX_POLICIES as u64 * MAX_POLICY_OVERHEAD
    + MAX_TASK_KINDS as u64 * MAX_TASK_KIND_OVERHEAD
    + MAX_AGENTS as u64 * MAX_KIND_RECORDS as u64 * MAX_KIND_RECORD_OVERHEAD
    + (MAX_VERIFIED_TASKS * (MAX_VERIFYING_AGENTS + 1)) as u64
        * (MAX_TASK_OVERHEAD + (MAX_TASK_SKILLS * MAX_NAME_BYTES) as u64);
