//! Compiles the protos with `protox`, so that no system `protoc` is needed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;
use tonic_prost_build::manual;

/// The public packages, each with the file for its descriptors. Each is compiled alone, so that private messages can
/// get into its descriptors only through an import.
const PUBLIC: [(&str, &str); 3] =
    [("robeing/v1", "robeing.bin"), ("robeing/worker/v1", "worker.bin"), ("robeing/message/v1", "message.bin")];
/// The private package that processes of a fleet use among themselves. Its descriptors are not kept.
const PRIVATE: &str = "robeing/internal/v1";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut all = protos(PRIVATE)?;
    for (folder, descriptors) in PUBLIC {
        let files = protos(folder)?;
        fs::write(out.join(descriptors), protox::compile(&files, ["."])?.encode_to_vec())?;
        all.extend(files);
    }
    let generate = tonic_prost_build::configure().bytes(".").codec_path("crate::codec::BoundedCodec");
    generate.compile_fds(protox::compile(&all, ["."])?)?;
    encoded_services();
    raw_services();
    Ok(())
}

/// Generates servers of services whose responses are encoded once and sent to many.
fn encoded_services() {
    let watch = manual::Method::builder()
        .name("watch_agents")
        .route_name("WatchAgents")
        .input_type("crate::v1::WatchAgentsRequest")
        .output_type("bytes::Bytes")
        .codec_path("crate::codec::EncodedCodec")
        .server_streaming()
        .build();
    let directory = manual::Service::builder().name("Directory").package("robeing.v1").method(watch).build();
    manual::Builder::new().build_client(false).compile(&[directory]);
}

/// Generates client and server of messages between agents, which read and write the frames themselves.
fn raw_services() {
    let exchange = manual::Method::builder()
        .name("exchange")
        .route_name("Exchange")
        .input_type("bytes::Bytes")
        .output_type("bytes::Bytes")
        .codec_path("crate::codec::RawCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let messages = manual::Service::builder().name("Messages").package("robeing.message.v1").method(exchange).build();
    manual::Builder::new().compile(&[messages]);
}

/// Returns the protos in a folder, sorted by name.
fn protos(folder: &str) -> Result<Vec<PathBuf>, std::io::Error> {
    println!("cargo:rerun-if-changed={folder}");
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    Ok(files)
}
