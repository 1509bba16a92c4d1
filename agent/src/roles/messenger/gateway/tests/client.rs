//! An HTTP client.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Body,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// How long anything may take here.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("it is text"))
    }
}

pub fn post(path: &str, json: &str) -> Request<Full<Bytes>> {
    let request = Request::post(path).header(CONTENT_TYPE, "application/json").header("host", "gateway");
    request.body(Bytes::copy_from_slice(json.as_bytes()).into()).expect("a request")
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "gateway").body(Full::default()).expect("a request")
}

/// Sends a request over a connection of its own.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(address).await.expect("it listens");
    over(stream, request).await.expect("it answers")
}

/// Sends a request over HTTP/1.1.
pub async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        answer(sender.send_request(request).await?).await
    };
    timeout(PATIENCE, exchange).await.expect("in time").map_err(|error: hyper::Error| format!("{error:?}"))
}

/// Sends a request over HTTP/2.
pub async fn over_http2<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<B>,
) -> Result<Answer, String>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + Send + 'static,
{
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = format!("https://gateway{path}").parse().expect("a URL");
    request.headers_mut().remove("host");
    let exchange = async {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        answer(sender.send_request(request).await?).await
    };
    timeout(PATIENCE, exchange).await.expect("in time").map_err(|error: hyper::Error| format!("{error:?}"))
}

async fn answer(response: http::Response<hyper::body::Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}
