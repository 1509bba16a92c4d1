//! The connections to stores, by the libraries that everything else here uses.

use std::{env, fmt, time::Duration};

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect},
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientConfigKey, ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_native_certs::load_native_certs;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// How long a connection may take to be made, for each address of the store.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const KEEP_IDLE: Duration = Duration::from_secs(20);

/// Makes clients of stores. Proxies are not supported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp).unwrap_or_default();
        let tls = tls().map_err(|source| object_store::Error::Generic { store: "TLS", source })?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = if is_yes(&allowed) { builder.https_or_http() } else { builder.https_only() };
        let mut tcp = connect::HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = builder.enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_IDLE)
            .build(connector);
        Ok(HttpClient::new(Service(client)))
    }
}

/// Returns whether the text of a setting says yes.
fn is_yes(text: &str) -> bool {
    ["true", "1", "yes", "on"].iter().any(|yes| text.eq_ignore_ascii_case(yes))
}

/// Returns the TLS settings: servers are verified against the system's certificates, and where there are none, as in an image
/// that has only programs, against Mozilla's. What `SSL_CERT_FILE` and `SSL_CERT_DIR` name counts alone.
fn tls() -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(load_native_certs().certs);
    if roots.is_empty() {
        let is_set = |variable: &&str| env::var_os(variable).is_some_and(|value| !value.is_empty());
        if let Some(variable) = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find(is_set) {
            return Err(format!("{variable} names no readable certificate; name PEM certificates, or unset it").into());
        }
        roots.add_parsable_certificates(TLS_SERVER_ROOT_CERTS.iter().cloned());
    }
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// A client of a store.
struct Service(Client<HttpsConnector<connect::HttpConnector>, HttpRequestBody>);

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.request(request).await.map_err(not_answered)?;
        Ok(response.map(|body| HttpResponseBody::new(body.map_err(interrupted))))
    }
}

/// Every request may be repeated: what is stored under a key is always the same.
fn not_answered(error: legacy::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
    HttpError::new(kind, error)
}

fn interrupted(error: hyper::Error) -> HttpError {
    HttpError::new(HttpErrorKind::Interrupted, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificates_that_are_built_in_can_be_used() {
        let mut roots = RootCertStore::empty();
        let (used, ignored) = roots.add_parsable_certificates(TLS_SERVER_ROOT_CERTS.iter().cloned());
        assert!(used > 50 && ignored == 0, "{used} and {ignored}");
    }
}
