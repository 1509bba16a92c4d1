//! The gRPC contract of Robeing: Rust generated from the protos under `robeing/`.

#![allow(clippy::too_many_lines, reason = "what is generated has them")]

pub mod budget;
pub mod codec;

/// Package `robeing.v1`: the public API.
#[allow(missing_docs, clippy::large_enum_variant)]
pub mod v1 {
    tonic::include_proto!("robeing.v1");
}

/// Servers of services of `robeing.v1` that send each response to many: they take responses that are encoded already.
pub mod encoded {
    /// The service `robeing.v1.Directory`.
    #[allow(missing_docs)]
    pub mod directory {
        tonic::include_proto!("robeing.v1.Directory");
    }
}

/// The private protocols between the processes of a fleet: coordinators, agents and guards.
pub mod internal {
    /// Package `robeing.internal.v1`. Its descriptors are not kept, so that reflection cannot expose it.
    #[allow(missing_docs, clippy::large_enum_variant)]
    pub mod v1 {
        tonic::include_proto!("robeing.internal.v1");
    }
}

/// The API of an agent for worker processes, which run tasks for it.
pub mod worker {
    /// Package `robeing.worker.v1`.
    #[allow(missing_docs)]
    pub mod v1 {
        tonic::include_proto!("robeing.worker.v1");
    }

    /// The encoded `FileDescriptorSet` of `robeing.worker.v1`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/worker.bin"));
}

/// The protocol of messages between agents.
pub mod message {
    /// Package `robeing.message.v1`.
    #[allow(missing_docs, clippy::large_enum_variant)]
    pub mod v1 {
        tonic::include_proto!("robeing.message.v1");
    }

    /// The service `robeing.message.v1.Messages` with frames that are encoded, and read, by who uses it.
    #[allow(missing_docs, clippy::default_constructed_unit_structs)]
    pub mod raw {
        tonic::include_proto!("robeing.message.v1.Messages");
    }

    /// The encoded `FileDescriptorSet` of `robeing.message.v1`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/message.bin"));
}

/// The encoded `FileDescriptorSet` of `robeing.v1` and its imports, for gRPC reflection and for proto3 JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/robeing.bin"));

/// The maximum size of a gRPC message, in bytes: room for a batch of inputs of maximum size.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Returns the packages of a descriptor set, including imports, and the names of its services.
    fn contents(set: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
        let files = FileDescriptorSet::decode(set).expect("a descriptor set").file;
        let packages = files.iter().map(|file| file.package().to_owned()).collect();
        let services = files.iter().flat_map(|file| &file.service).map(|service| service.name().to_owned()).collect();
        (packages, services)
    }

    fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    #[test]
    fn a_client_generated_from_the_public_api_sees_no_raft_no_session_and_no_guards() {
        let (packages, services) = contents(FILE_DESCRIPTOR_SET);
        assert_eq!(packages, names(["google.protobuf", "robeing.v1"]));
        let public = "Admin Ballots DeadLetters Directory Fleet Messages Queues Resources Schedules Teams";
        let public: BTreeSet<String> = public.split(' ').map(str::to_owned).collect();
        assert_eq!(services, public);
        let text = String::from_utf8_lossy(FILE_DESCRIPTOR_SET);
        for private in ["robeing.internal", "robeing/internal", "AppendRequest", "AgentMessage", "GuardReport"] {
            assert!(!text.contains(private), "{private} is in the public descriptors");
        }
    }

    #[test]
    fn the_api_for_processes_beside_an_agent_needs_no_other() {
        let (packages, services) = contents(worker::FILE_DESCRIPTOR_SET);
        assert_eq!((packages, services), (names(["robeing.worker.v1"]), names(["Worker"])));
    }

    #[test]
    fn the_messages_between_agents_need_no_other_package() {
        let (packages, services) = contents(message::FILE_DESCRIPTOR_SET);
        assert_eq!((packages, services), (names(["robeing.message.v1"]), names(["Messages"])));
    }
}
