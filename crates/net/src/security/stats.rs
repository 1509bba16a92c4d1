//! Counts connections that were accepted and refused.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was refused before any call on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It doesn't speak TLS.
    Plaintext,
    /// The certificate is of an authority that this fleet doesn't trust.
    UnknownAuthority,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate names no member of this fleet.
    OtherFleet,
    /// The handshake was not finished in time.
    TooSlow,
    /// There are too many connections of this peer.
    TooMany,
    /// The remaining connections are kept for roles of higher priority.
    NoRoom,
    /// This process has no certificate yet.
    NotReady,
    /// Any other failure of the handshake.
    Malformed,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Plaintext,
        Self::UnknownAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::OtherFleet,
        Self::TooSlow,
        Self::TooMany,
        Self::NoRoom,
        Self::NotReady,
        Self::Malformed,
    ];

    /// Returns the reason as the value of a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::OtherFleet => "other_fleet",
            Self::TooSlow => "too_slow",
            Self::TooMany => "too_many",
            Self::NoRoom => "no_room",
            Self::NotReady => "not_ready",
            Self::Malformed => "malformed",
        }
    }
}

/// The numbers of connections of one listener or process.
#[derive(Debug, Default)]
pub struct TlsStats {
    authenticated: AtomicU64,
    anonymous: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

impl TlsStats {
    pub(super) fn count_accepted(&self, has_identity: bool) {
        let counter = if has_identity { &self.authenticated } else { &self.anonymous };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many connections were accepted with a certificate.
    pub fn authenticated(&self) -> u64 {
        self.authenticated.load(Ordering::Relaxed)
    }

    /// Returns how many connections were accepted without a certificate.
    pub fn anonymous(&self) -> u64 {
        self.anonymous.load(Ordering::Relaxed)
    }

    /// Returns how many connections were refused for this reason.
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }
}
