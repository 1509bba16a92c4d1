//! Who may call what. What is not in the table, nobody may call.

use robeing_identity::PeerRole;

use super::rights::Right;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Anyone, also without a certificate: the request itself carries a proof, or the answer tells nothing.
    Anyone,
    /// Coordinators.
    Coordinators,
    /// Agents.
    Agents,
    /// Coordinators, the operator, agents with these roles, and clients that have the right.
    With(Right, &'static [PeerRole]),
}

/// All methods that coordinators serve.
pub const TABLE: &[(&str, Allowed)] = &[
    ("/robeing.v1.Fleet/Submit", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Fleet/SubmitStream", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Fleet/CancelTasks", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Fleet/GetTask", Allowed::With(Right::Read, READERS)),
    ("/robeing.v1.Fleet/ListTasks", Allowed::With(Right::Read, READERS)),
    ("/robeing.v1.Fleet/ListSubtasks", Allowed::With(Right::Read, READERS)),
    ("/robeing.v1.Fleet/WatchTasks", Allowed::With(Right::Read, WATCHERS)),
    ("/robeing.v1.Fleet/TaskLogs", Allowed::With(Right::Read, READERS)),
    ("/robeing.v1.Fleet/ListAgents", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Fleet/GetStatus", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Fleet/WatchStatus", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.DeadLetters/ListDeadLetters", Allowed::With(Right::Read, READERS)),
    ("/robeing.v1.DeadLetters/RetryDeadLetters", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.DeadLetters/DropDeadLetters", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Directory/WatchAgents", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Messages/ResolveMessage", Allowed::With(Right::Message, AGENTS)),
    ("/robeing.v1.Messages/SendMessage", Allowed::With(Right::Message, AGENTS)),
    ("/robeing.v1.Messages/GetMessage", Allowed::With(Right::Message, AGENTS)),
    ("/robeing.v1.Messages/ReadInbox", Allowed::With(Right::Message, &[])),
    ("/robeing.v1.Ballots/OpenBallot", Allowed::With(Right::Vote, AGENTS)),
    ("/robeing.v1.Ballots/OpenBallots", Allowed::With(Right::Vote, AGENTS)),
    ("/robeing.v1.Ballots/CastVote", Allowed::With(Right::Vote, AGENTS)),
    ("/robeing.v1.Ballots/CastVotes", Allowed::With(Right::Vote, AGENTS)),
    ("/robeing.v1.Ballots/GetBallot", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Ballots/ListBallots", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Teams/FormTeam", Allowed::With(Right::Submit, AGENTS)),
    ("/robeing.v1.Teams/DisbandTeam", Allowed::With(Right::Submit, AGENTS)),
    ("/robeing.v1.Teams/GetTeam", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Teams/ListTeams", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Teams/ReportPaths", Allowed::Agents),
    ("/robeing.v1.Resources/RequestResources", Allowed::With(Right::Submit, AGENTS)),
    ("/robeing.v1.Resources/ReleaseResources", Allowed::With(Right::Submit, AGENTS)),
    ("/robeing.v1.Resources/RenewLease", Allowed::With(Right::Submit, AGENTS)),
    ("/robeing.v1.Resources/GetAllocation", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Resources/ListAllocations", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Resources/ListResources", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Resources/SetQueues", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Queues/ListQueues", Allowed::With(Right::Read, AGENTS)),
    ("/robeing.v1.Queues/UpdateQueues", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Schedules/SetSchedule", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Schedules/RemoveSchedule", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Schedules/SuspendSchedule", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Schedules/RunSchedule", Allowed::With(Right::Submit, &[])),
    ("/robeing.v1.Schedules/GetSchedule", Allowed::With(Right::Read, READERS)),
    ("/robeing.v1.Schedules/ListSchedules", Allowed::With(Right::Read, READERS)),
    ("/robeing.v1.Admin/SetPools", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/AddCoordinator", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/RemoveCoordinator", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/TransferLeadership", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/SetTrust", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/SetPolicies", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/GetPolicies", Allowed::With(Right::Admin, WARDENS)),
    ("/robeing.v1.Admin/SetTaskKinds", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/GetTaskKinds", Allowed::With(Right::Read, WARDENS)),
    ("/robeing.v1.Admin/CreateJoinToken", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/CertifyClient", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/BarAgent", Allowed::With(Right::Admin, WARDENS)),
    ("/robeing.v1.Admin/ReleaseAgent", Allowed::With(Right::Admin, &[])),
    ("/robeing.v1.Admin/FlagAgent", Allowed::With(Right::Admin, WARDENS)),
    ("/robeing.v1.Admin/ListActivity", Allowed::With(Right::Admin, WARDENS)),
    ("/robeing.v1.Admin/ListAuditRecords", Allowed::With(Right::Admin, WARDENS)),
    ("/robeing.internal.v1.Enrolment/Enrol", Allowed::Anyone),
    ("/robeing.internal.v1.Guards/Report", Allowed::Anyone),
    ("/robeing.internal.v1.Session/Open", Allowed::Agents),
    ("/robeing.internal.v1.Mailbox/Attend", Allowed::Agents),
    ("/robeing.internal.v1.Mailbox/ReadInboxHere", Allowed::Coordinators),
    ("/robeing.internal.v1.Logs/FollowHere", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/Append", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/Vote", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/PreVote", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/InstallSnapshot", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/TransferLeader", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/Propose", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/Join", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/ReadIndex", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/Contact", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/ReadRecords", Allowed::Coordinators),
    ("/robeing.internal.v1.Raft/Describe", Allowed::Coordinators),
    ("/grpc.health.v1.Health/Check", Allowed::Anyone),
    ("/grpc.health.v1.Health/List", Allowed::Anyone),
    ("/grpc.health.v1.Health/Watch", Allowed::Anyone),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Allowed::With(Right::Read, AGENTS)),
];

/// The methods with streams: their calls go on for as long as their callers like, so the gate follows them.
const STREAMS: &[&str] = &[
    "/robeing.v1.Fleet/SubmitStream",
    "/robeing.v1.Fleet/WatchTasks",
    "/robeing.v1.Fleet/TaskLogs",
    "/robeing.v1.Fleet/WatchStatus",
    "/robeing.v1.Directory/WatchAgents",
    "/robeing.internal.v1.Session/Open",
    "/robeing.internal.v1.Mailbox/Attend",
    "/robeing.internal.v1.Logs/FollowHere",
    "/robeing.internal.v1.Raft/Append",
    "/robeing.internal.v1.Raft/InstallSnapshot",
    "/robeing.internal.v1.Raft/ReadRecords",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// What the gateway of a messenger calls on behalf of clients. A messenger that is not what it should be can name any
/// client, so it may do nothing else with the rights of one.
const GATEWAYS: &[&str] = &[
    "/robeing.v1.Fleet/Submit",
    "/robeing.v1.Fleet/CancelTasks",
    "/robeing.v1.Fleet/GetTask",
    "/robeing.v1.Fleet/WatchTasks",
    "/robeing.v1.Messages/ResolveMessage",
    "/robeing.v1.Messages/SendMessage",
    "/robeing.v1.Messages/GetMessage",
];

/// Returns whether messengers may call a method on behalf of clients.
pub fn is_for_gateways(method: &str) -> bool {
    GATEWAYS.contains(&method)
}

/// Agents that read tasks: guardians, which watch over them.
const READERS: &[PeerRole] = &[PeerRole::Guardian];
/// Agents that follow tasks: guardians, and messengers, which report what has finished to webhooks. For the clients of
/// its gateway, a messenger calls with their rights, and needs none.
const WATCHERS: &[PeerRole] = &[PeerRole::Messenger, PeerRole::Guardian];
/// Agents that can quarantine others.
const WARDENS: &[PeerRole] = &[PeerRole::Guardian];
/// All agents.
const AGENTS: &[PeerRole] = &[PeerRole::Worker, PeerRole::Specialist, PeerRole::Messenger, PeerRole::Guardian];

/// Returns who may call a method; `None` if nobody may.
pub fn allowed(method: &str) -> Option<Allowed> {
    TABLE.iter().find(|(known, _)| *known == method).map(|(_, allowed)| *allowed)
}

/// Returns a method with a stream as it is in the table, and who may call it; `None` if it has no stream.
pub fn streaming(method: &str) -> Option<(&'static str, Allowed)> {
    let method = STREAMS.iter().copied().find(|known| *known == method)?;
    Some((method, allowed(method)?))
}

impl Allowed {
    /// Returns whether a member with this role may call the method, whatever rights it has.
    pub fn is_for(self, role: PeerRole) -> bool {
        match self {
            Self::Anyone => true,
            Self::Coordinators => role == PeerRole::Coordinator,
            Self::Agents => role.is_agent(),
            Self::With(_, agents) => {
                matches!(role, PeerRole::Coordinator | PeerRole::Operator) || agents.contains(&role)
            }
        }
    }

    /// Describes who may call the method, for messages and documentation.
    pub fn words(self) -> String {
        match self {
            Self::Anyone => "anyone".to_owned(),
            Self::Coordinators => "coordinators".to_owned(),
            Self::Agents => "agents".to_owned(),
            Self::With(right, agents) => {
                let mut words = format!("clients with the right {right}, coordinators, the operator");
                match agents {
                    [] => {}
                    agents if agents == AGENTS => words.push_str(", agents"),
                    agents => agents.iter().for_each(|role| words.push_str(&format!(", {role}s"))),
                }
                words
            }
        }
    }
}

/// Returns the table in Markdown.
#[cfg(test)]
fn markdown() -> String {
    let mut table = String::from("| method | who may call it |\n|---|---|\n");
    for (method, allowed) in TABLE {
        table.push_str(&format!("| `{}` | {} |\n", method.trim_start_matches('/'), allowed.words()));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_method_is_there_once_and_others_are_nobodys() {
        let methods: BTreeSet<&str> = TABLE.iter().map(|(method, _)| *method).collect();
        assert_eq!(methods.len(), TABLE.len());
        assert_eq!(allowed("/robeing.v1.Fleet/Destroy"), None);
        assert_eq!(allowed(""), None);
    }

    #[test]
    fn what_the_protocols_define_is_in_the_table() {
        for file in [
            "robeing/v1/fleet",
            "robeing/v1/admin",
            "robeing/v1/directory",
            "robeing/v1/messages",
            "robeing/v1/ballots",
            "robeing/v1/teams",
            "robeing/v1/resources",
            "robeing/v1/queues",
            "robeing/v1/schedules",
            "robeing/internal/v1/mailbox",
            "robeing/internal/v1/logs",
            "robeing/internal/v1/session",
            "robeing/internal/v1/raft",
            "robeing/internal/v1/enrolment",
        ] {
            let path = format!("{}/../proto/{file}.proto", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).expect("the protocol");
            let package = text.lines().find_map(|line| line.strip_prefix("package ")).expect("a package");
            let mut service = "";
            for line in text.lines() {
                if let Some(name) = line.strip_prefix("service ") {
                    service = name.split(' ').next().unwrap_or_default();
                }
                if let Some(rpc) = line.trim().strip_prefix("rpc ") {
                    let rpc = rpc.split('(').next().unwrap_or_default();
                    let method = format!("/{}.{service}/{rpc}", package.trim_end_matches(';'));
                    assert!(allowed(&method).is_some(), "{method} is in no row");
                    let has_stream = line.contains("(stream ");
                    assert_eq!(streaming(&method).is_some(), has_stream, "{method} is among the streams");
                }
            }
        }
    }

    #[test]
    fn the_documentation_has_the_table() {
        let path = format!("{}/../docs/security.md", env!("CARGO_MANIFEST_DIR"));
        let docs = std::fs::read_to_string(path).expect("the page");
        assert!(docs.contains(&markdown()), "docs/security.md should have this table:\n\n{}", markdown());
    }

    #[test]
    fn gateways_call_nothing_that_only_members_or_administrators_may() {
        for method in GATEWAYS {
            let Some(Allowed::With(right, _)) = allowed(method) else { panic!("{method} is for no client") };
            assert!(matches!(right, Right::Submit | Right::Read | Right::Message), "{method}");
        }
        assert!(!is_for_gateways("/robeing.v1.Messages/ReadInbox"));
    }

    #[test]
    fn no_agent_calls_what_is_the_coordinators_or_the_administrators() {
        for (method, allowed) in TABLE {
            let agents: Vec<PeerRole> =
                PeerRole::ALL.into_iter().filter(|role| role.is_agent() && allowed.is_for(*role)).collect();
            if method.contains(".Raft/") {
                assert_eq!(agents, [], "{method}");
            }
            if method.contains(".Admin/") {
                assert!(agents.iter().all(|role| *role == PeerRole::Guardian), "{method}");
            }
            assert!(!matches!(allowed, Allowed::With(..)) || !allowed.is_for(PeerRole::Client), "{method}");
        }
    }
}
