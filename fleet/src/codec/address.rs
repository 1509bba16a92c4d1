//! Encoding of network addresses as text.

use std::net::{Ipv4Addr, SocketAddr};

use bilrost::{
    Canonicity, DecodeErrorKind,
    encoding::{DistinguishedProxiable, EmptyState, ForOverwrite, General, Proxiable},
};

/// The encoding of a [`SocketAddr`].
pub(crate) struct Endpoint;

impl Proxiable<Endpoint> for SocketAddr {
    type Proxy = String;

    fn encode_proxy(&self) -> String {
        self.to_string()
    }

    fn decode_proxy(&mut self, text: String) -> Result<(), DecodeErrorKind> {
        *self = text.parse().map_err(|_| DecodeErrorKind::InvalidValue)?;
        Ok(())
    }
}

impl DistinguishedProxiable<Endpoint> for SocketAddr {
    fn decode_proxy_distinguished(&mut self, text: String) -> Result<Canonicity, DecodeErrorKind> {
        self.decode_proxy(text.clone())?;
        // An IPv6 address can be written in several ways.
        Ok(if self.to_string() == text { Canonicity::Canonical } else { Canonicity::NotCanonical })
    }
}

impl ForOverwrite<Endpoint, SocketAddr> for () {
    fn for_overwrite() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    }
}

impl ForOverwrite<Endpoint, Option<SocketAddr>> for () {
    fn for_overwrite() -> Option<SocketAddr> {
        None
    }
}

impl EmptyState<Endpoint, Option<SocketAddr>> for () {
    fn is_empty(address: &Option<SocketAddr>) -> bool {
        address.is_none()
    }

    fn clear(address: &mut Option<SocketAddr>) {
        *address = None;
    }
}

bilrost::delegate_proxied_encoding!(
    use encoding (General)
    to encode proxied type (SocketAddr)
    using proxy tag (Endpoint)
    with encoding (Endpoint)
    including distinguished
);
