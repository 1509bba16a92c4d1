//! Who calls, and how that is passed on to the coordinators:
//!
//! - A client with a certificate: the messenger calls with its own certificate, and names the client. Coordinators accept
//!   that from messengers alone, and decide by the client's rights.
//! - A bearer token: it is passed on over a connection without the messenger's certificate, so that the coordinator
//!   decides by the token alone; never without TLS.
//! - Neither: the call is passed on over such a connection, too, and is refused unless anonymous clients may make it.

use http::{HeaderMap, HeaderValue, StatusCode, header::AUTHORIZATION};
use robeing_identity::PeerRole;
use robeing_net::{ConnectInfo, gate::ON_BEHALF_OF};
use tonic::metadata::{Ascii, MetadataValue};

use super::problem::Problem;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A client with a certificate of this name.
    Client(MetadataValue<Ascii>),
    /// A client with a token: the whole header, `Bearer TOKEN`.
    Token(MetadataValue<Ascii>),
    /// Somebody without either.
    Anonymous,
}

impl Caller {
    /// Returns who has sent a request with these headers over this connection. `tls`: whether the agent has TLS.
    ///
    /// # Errors
    /// 401 or 403 if it is nobody that the gateway serves.
    pub fn of(connection: &ConnectInfo, headers: &HeaderMap, tls: bool) -> Result<Self, Problem> {
        let unauthenticated = |detail: &str| Err(Problem::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", detail));
        if let Some(peer) = &connection.identity {
            if peer.id.role() != PeerRole::Client {
                let detail = format!(
                    "the gateway serves clients; {}s call the coordinators with their certificate",
                    peer.id.role()
                );
                return Err(Problem::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", detail));
            }
            return match MetadataValue::try_from(peer.id.name()) {
                Ok(name) => Ok(Self::Client(name)),
                Err(_) => unauthenticated("the name in the certificate is not text"),
            };
        }
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = given.next() else { return Ok(Self::Anonymous) };
        if given.next().is_some() {
            return unauthenticated("there are several headers Authorization; send one");
        }
        if tls && !connection.encrypted {
            return unauthenticated("a token must not be sent without TLS; whoever saw it can use it: make a new one");
        }
        match bearer(value) {
            // Without TLS, coordinators know nobody, and everybody could read the token.
            Some(_) if !tls => Ok(Self::Anonymous),
            Some(value) => Ok(Self::Token(value)),
            None => unauthenticated("the header Authorization is not of the form Bearer TOKEN"),
        }
    }

    /// Adds to a call for whom it is.
    pub fn mark<T>(&self, request: &mut tonic::Request<T>) {
        match self {
            Self::Client(name) => {
                request.metadata_mut().insert(ON_BEHALF_OF, name.clone());
            }
            Self::Token(value) => {
                request.metadata_mut().insert(AUTHORIZATION.as_str(), value.clone());
            }
            Self::Anonymous => {}
        }
    }
}

/// Returns the header as it is passed on, with the scheme as coordinators expect it.
fn bearer(value: &HeaderValue) -> Option<MetadataValue<Ascii>> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return None;
    }
    let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use robeing_identity::Realm;
    use robeing_net::security::PeerIdentity;

    use super::*;

    fn connection(member: Option<PeerRole>) -> ConnectInfo {
        let realm = Realm::new("a", "b", "c").expect("a realm");
        let identity =
            member.map(|role| Arc::new(PeerIdentity { id: realm.member(role, "ann").expect("a name"), key: [0; 32] }));
        ConnectInfo { identity, encrypted: true, ..ConnectInfo::default() }
    }

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_clients_certificate_counts_before_its_token_and_no_other_members_does() {
        for role in PeerRole::ALL {
            let caller = Caller::of(&connection(Some(role)), &with("Bearer x"), true);
            match role {
                PeerRole::Client => assert_eq!(caller, Ok(Caller::Client(MetadataValue::from_static("ann")))),
                _ => assert_eq!(caller.map_err(|problem| problem.status()), Err(StatusCode::FORBIDDEN), "{role}"),
            }
        }
    }

    #[test]
    fn a_token_is_passed_on_as_it_is_and_nothing_else_is() {
        let stranger = connection(None);
        let of = |value| Caller::of(&stranger, &with(value), true).map_err(|problem| problem.status());
        assert_eq!(of("bearer  a.b.c"), Ok(Caller::Token(MetadataValue::from_static("Bearer a.b.c"))));
        for wrong in ["Basic eDp5", "Bearer", "Bearer ", "", "a.b.c"] {
            assert_eq!(of(wrong), Err(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        let mut twice = with("Bearer a");
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(Caller::of(&stranger, &twice, true).is_err());
        assert_eq!(Caller::of(&stranger, &HeaderMap::new(), true), Ok(Caller::Anonymous));
    }

    #[test]
    fn a_token_that_everybody_could_read_is_refused_where_there_is_tls() {
        let plain = ConnectInfo::default();
        assert!(Caller::of(&plain, &with("Bearer a"), true).is_err());
        assert_eq!(Caller::of(&plain, &with("Bearer a"), false), Ok(Caller::Anonymous), "it is not passed on");
        assert_eq!(Caller::of(&plain, &HeaderMap::new(), true), Ok(Caller::Anonymous));
    }
}
