//! What the requests for the parts of a spec that the coordinators keep, such as teams and schedules, have in common.

use std::fmt::Write as _;

use robeing_client::coordinators::Error;
use robeing_crds::Role;
use robeing_identity::digest;
use robeing_proto::v1;
use serde::Serialize;
use tonic::Code;

/// Returns a role as the coordinators take it.
pub(crate) fn role(role: Role) -> v1::Role {
    match role {
        Role::Worker => v1::Role::Worker,
        Role::Specialist => v1::Role::Specialist,
        Role::Messenger => v1::Role::Messenger,
        Role::Guardian => v1::Role::Guardian,
    }
}

/// Returns the role that is required of agents, as the coordinators take it.
pub(crate) fn required_role(required: Option<Role>) -> v1::Role {
    required.map_or(v1::Role::Unspecified, role)
}

/// Returns the digest of a part of the spec, such as what a team is formed for. Fields that later versions add don't
/// change it while they are not set.
pub(crate) fn digest_of(part: &impl Serialize) -> String {
    let json = serde_json::to_string(part).unwrap_or_default();
    hex(&digest(json.as_bytes())[..8])
}

/// Returns bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns whether a coordinator has decided against what it was asked for, rather than not having answered.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(
            Code::ResourceExhausted
                | Code::InvalidArgument
                | Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::PermissionDenied
                | Code::Unimplemented
        )
    )
}

/// Returns why a coordinator has refused something, or else what has failed.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::Refused { message, .. } => message.clone(),
        other => other.to_string(),
    }
}
