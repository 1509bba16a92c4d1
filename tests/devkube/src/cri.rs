//! Checks whether a node's container runtime is ready, with the call `Status` of the Kubernetes container runtime
//! interface (CRI, defined in `api.proto`). A kubelet that starts before the runtime answers this call exits. Needs
//! only the runtime's socket.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Request,
    client::Grpc,
    codegen::http::{Uri, uri::PathAndQuery},
    transport::Endpoint,
};
use tonic_prost::ProstCodec;

/// The deadline of one call.
const ANSWER: Duration = Duration::from_secs(5);
/// The condition that is true if containers can be run.
const RUNTIME_READY: &str = "RuntimeReady";

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeCondition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    message: String,
}

/// Fails, with a description of the answer, unless the runtime at this socket can run containers.
pub(crate) async fn ready(socket: PathBuf) -> Result<(), String> {
    let answer = timeout(ANSWER, status(socket)).await.map_err(|_| format!("no answer within {ANSWER:?}"))??;
    runs(&answer)
}

async fn status(socket: PathBuf) -> Result<StatusResponse, String> {
    let connector = tower::service_fn(move |_: Uri| {
        let connecting = UnixStream::connect(socket.clone());
        async move { connecting.await.map(TokioIo::new) }
    });
    // The host name is not resolved, because the connector uses the socket.
    let endpoint = Endpoint::from_static("http://containerd");
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| chain(&error))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| chain(&error))?;
    let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/Status");
    let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
    let answer = client.unary(Request::new(StatusRequest {}), path, codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

fn runs(answer: &StatusResponse) -> Result<(), String> {
    let conditions = answer.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.kind == RUNTIME_READY) {
        Some(condition) if condition.status => Ok(()),
        Some(condition) => Err(format!("{}: {}", condition.reason, condition.message)),
        None => Err(format!("it does not report {RUNTIME_READY}")),
    }
}

/// Formats an error with its causes, which tonic's own text omits.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_ready_when_it_says_so() {
        let answer = |kind: &str, status| {
            let (reason, message) = ("Starting".to_owned(), "not yet".to_owned());
            let condition = RuntimeCondition { kind: kind.into(), status, reason, message };
            StatusResponse { status: Some(RuntimeStatus { conditions: vec![condition] }) }
        };
        assert_eq!(runs(&answer("RuntimeReady", true)), Ok(()));
        assert_eq!(runs(&answer("RuntimeReady", false)), Err("Starting: not yet".into()));
        assert_eq!(runs(&answer("NetworkReady", true)), Err("it does not report RuntimeReady".into()));
        assert_eq!(runs(&StatusResponse { status: None }), Err("it does not report RuntimeReady".into()));
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = ready(folder.path().join("none.sock")).await.unwrap_err();
        assert!(error.contains("No such file"), "{error}");
    }
}
