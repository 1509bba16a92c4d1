//! The gRPC contract of Robeing: what the protos under `robeing/` say, as Rust.

#![allow(clippy::too_many_lines, reason = "what is generated has them")]

pub mod budget;
pub mod codec;

/// Package `robeing.v1`: what anybody may call.
#[allow(missing_docs, clippy::large_enum_variant)]
pub mod v1 {
    tonic::include_proto!("robeing.v1");
}

/// What the processes of one fleet say to each other: coordinators, agents and guards.
pub mod internal {
    /// Package `robeing.internal.v1`. No descriptor of it is kept, so that reflection can't tell it.
    #[allow(missing_docs, clippy::large_enum_variant)]
    pub mod v1 {
        tonic::include_proto!("robeing.internal.v1");
    }
}

/// What an agent offers to processes that run tasks for it.
pub mod worker {
    /// Package `robeing.worker.v1`.
    #[allow(missing_docs)]
    pub mod v1 {
        tonic::include_proto!("robeing.worker.v1");
    }

    /// The encoded `FileDescriptorSet` of `robeing.worker.v1`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/worker.bin"));
}

/// The encoded `FileDescriptorSet` of `robeing.v1` and what it imports, for gRPC reflection and for the proto3 JSON form.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/robeing.bin"));

/// The largest gRPC message a part accepts, bytes: room for a batch of inputs at their limit.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Packages of a set, its imports included, and the names of its services.
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
        assert_eq!(services, names(["Admin", "Fleet"]));
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
}
