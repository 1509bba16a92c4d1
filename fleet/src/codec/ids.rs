//! Encoding of the id types as plain numbers.

use bilrost::{
    Canonicity, DecodeErrorKind,
    encoding::{DistinguishedProxiable, EmptyState, ForOverwrite, PlainBytes, Proxiable, Varint},
};

use crate::{AgentId, AllocationId, BallotId, LetterId, SessionId, TaskId, TeamId};

/// The proxy tag that distinguishes these conversions from others.
struct AsNumber;

macro_rules! encoded_as {
    ($id:ident, $proxy:ty, $encoding:ty, $to:expr, $from:expr) => {
        impl Proxiable<AsNumber> for $id {
            type Proxy = $proxy;

            #[inline]
            fn encode_proxy(&self) -> $proxy {
                $to(self.0)
            }

            #[inline]
            fn decode_proxy(&mut self, proxy: $proxy) -> Result<(), DecodeErrorKind> {
                self.0 = $from(proxy);
                Ok(())
            }
        }

        impl DistinguishedProxiable<AsNumber> for $id {
            #[inline]
            fn decode_proxy_distinguished(&mut self, proxy: $proxy) -> Result<Canonicity, DecodeErrorKind> {
                self.decode_proxy(proxy)?;
                Ok(Canonicity::Canonical)
            }
        }

        impl ForOverwrite<(), $id> for () {
            fn for_overwrite() -> $id {
                $id::default()
            }
        }

        impl EmptyState<(), $id> for () {
            fn is_empty(id: &$id) -> bool {
                *id == $id::default()
            }

            fn clear(id: &mut $id) {
                *id = $id::default();
            }
        }

        bilrost::delegate_proxied_encoding!(
            use encoding ($encoding)
            to encode proxied type ($id)
            using proxy tag (AsNumber)
            with general encodings
            including distinguished
        );
    };
}

encoded_as!(TaskId, [u8; 16], PlainBytes, u128::to_be_bytes, u128::from_be_bytes);
encoded_as!(LetterId, [u8; 16], PlainBytes, u128::to_be_bytes, u128::from_be_bytes);
encoded_as!(BallotId, [u8; 16], PlainBytes, u128::to_be_bytes, u128::from_be_bytes);
encoded_as!(TeamId, [u8; 16], PlainBytes, u128::to_be_bytes, u128::from_be_bytes);
encoded_as!(AllocationId, [u8; 16], PlainBytes, u128::to_be_bytes, u128::from_be_bytes);
encoded_as!(AgentId, u32, Varint, u32::from, u32::from);
encoded_as!(SessionId, u64, Varint, u64::from, u64::from);
