//! All limits of policies and of the anomaly watch.

/// Maximum number of policies in a [`PolicySet`](crate::PolicySet).
pub const MAX_POLICIES: usize = 64;
/// Maximum length of a policy's name: that of a DNS label.
pub const MAX_NAME_BYTES: usize = 63;
/// Maximum length of an expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 4 * 1024;
/// Maximum number of tokens of an expression, without white space and comments. Checked before parsing, because the
/// parser recurses.
pub const MAX_TOKENS: usize = 1_024;
/// Maximum depth of brackets in an expression, and maximum number of its conditionals (`? :`). Checked before parsing.
pub const MAX_NESTING: usize = 32;
/// Maximum depth of an expression's syntax tree. Evaluation recurses that deep.
pub const MAX_DEPTH: usize = 64;
/// Maximum number of nodes in an expression's syntax tree.
pub const MAX_NODES: usize = 512;
/// Maximum depth of loops (`all`, `exists`, `exists_one`, `map`, `filter`) inside loops.
pub const MAX_LOOP_DEPTH: usize = 3;
/// Maximum length of a pattern of `matches`, in bytes.
pub const MAX_PATTERN_BYTES: usize = 512;
/// Maximum size of a compiled pattern, in bytes.
pub const MAX_PATTERN_SIZE: usize = 128 * 1024;
/// Maximum number of patterns in a [`PolicySet`](crate::PolicySet), because each takes memory.
pub const MAX_PATTERNS: usize = 64;
/// Maximum size of the tables that a pattern fills during a match, in bytes.
pub const MAX_PATTERN_TABLES: usize = 256 * 1024;
/// Maximum number of steps of one policy for one input: its condition, its rule and its message together. A step takes
/// well below a microsecond.
pub const MAX_STEPS: u64 = 500_000;
/// Maximum number of steps of all policies for one input.
pub const MAX_STEPS_OF_ALL: u64 = 2_000_000;
/// Maximum size of the strings, lists and maps that one policy builds for one input, in bytes.
pub const MAX_BUILT_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes that are compared, searched or copied in one step.
pub const BYTES_PER_STEP: u64 = 64;
/// Product of the bytes of a text and the states of a pattern that is matched in one step.
pub const MATCH_PER_STEP: u64 = 64;
/// Bytes of a text for which a match is charged as if it visited all states of the pattern. After them, the tables of
/// usual patterns are complete, or have overflowed, which is charged separately.
pub const MATCH_WARM_UP_BYTES: u64 = 4 * 1024;
/// Maximum length of the message of a verdict, in bytes; longer ones are cut.
pub const MAX_MESSAGE_BYTES: usize = 1_024;
/// Maximum number of fields that one policy redacts.
pub const MAX_FIELDS: usize = 64;
/// Maximum length of the pointer to a redacted field, in bytes.
pub const MAX_POINTER_BYTES: usize = 256;
/// Maximum number of segments of the pointer to a redacted field.
pub const MAX_POINTER_SEGMENTS: usize = 16;
/// Maximum size of a payload that is read as JSON, in bytes.
pub const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;
/// Maximum depth of a payload that is read as JSON.
pub const MAX_JSON_DEPTH: usize = 64;
/// Maximum number of values in a payload that is read as JSON.
pub const MAX_JSON_VALUES: usize = 131_072;

/// Maximum number of addresses of the electorate that a policy names.
pub const MAX_APPROVERS: usize = 64;
/// Maximum length of such an address with its weight, in bytes.
pub const MAX_APPROVER_BYTES: usize = 288;
/// Maximum length of the threshold of an approval, in bytes.
pub const MAX_THRESHOLD_BYTES: usize = 32;
/// Maximum number of seconds that the electorate may have: 30 days.
pub const MAX_APPROVAL_SECONDS: u32 = 30 * 24 * 3600;

/// Maximum number of agents that the anomaly watch knows. A new agent replaces the one that was silent for longest.
pub const MAX_WATCHED_AGENTS: usize = 20_000;
/// Maximum length of the name of a watched agent, in bytes. Agents with longer names are not watched.
pub const MAX_AGENT_NAME_BYTES: usize = 253;
/// Maximum number of anomalies that wait for a tick. Further ones are counted, and dropped unless they quarantine.
pub const MAX_ANOMALIES: usize = 1_024;
