//! The gRPC contract of Robeing: what the protos under `robeing/` say, as Rust.

#![allow(clippy::too_many_lines, reason = "what is generated has them")]

pub mod budget;
pub mod codec;

/// Package `robeing.v1`.
#[allow(missing_docs, clippy::large_enum_variant)]
pub mod v1 {
    tonic::include_proto!("robeing.v1");
}

/// What an agent offers to processes that run tasks for it.
pub mod worker {
    /// Package `robeing.worker.v1`.
    #[allow(missing_docs)]
    pub mod v1 {
        tonic::include_proto!("robeing.worker.v1");
    }
}

/// The encoded `FileDescriptorSet` of all protos, for gRPC reflection and for the proto3 JSON form.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/robeing.bin"));

/// The largest gRPC message a part accepts, bytes: room for a batch of inputs at their limit.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
