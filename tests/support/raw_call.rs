//! Calls of gRPC methods with bytes that need not be messages.

use std::future::poll_fn;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use tonic::{Status, body::Body, client::GrpcService, transport::Channel};

/// Returns a message as it is in the body of a call: after a byte that says that it is not compressed, and its length.
pub fn framed(message: &[u8]) -> Bytes {
    announced(message.len(), message)
}

/// Returns the beginning of a message that is said to have this length.
///
/// # Panics
/// If the length does not fit in the four bytes that there are for it.
pub fn announced(length: usize, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(length.try_into().expect("four bytes"));
    framed.put_slice(message);
    framed.freeze()
}

/// Calls a method, `/package.Service/Method`, with this body, and returns the status with which it ends.
pub async fn call(channel: &Channel, method: &str, body: Bytes) -> Status {
    ended(channel.clone(), method, body).await.unwrap_or_else(|status| status)
}

async fn ended(mut channel: Channel, method: &str, body: Bytes) -> Result<Status, Status> {
    let request = Request::post(method)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(body)))
        .expect("the method is a path");
    let broken = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    poll_fn(|context| GrpcService::<Body>::poll_ready(&mut channel, context)).await.map_err(broken)?;
    let response = GrpcService::call(&mut channel, request).await.map_err(broken)?;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Ok(status);
    }
    let body = response.into_body().collect().await?;
    let status = body.trailers().and_then(Status::from_header_map);
    Ok(status.unwrap_or_else(|| Status::unknown("the answer has no status")))
}
