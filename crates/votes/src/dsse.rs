//! What signatures are of, and how messages are read.

use bilrost::DistinguishedOwnedMessage;

use crate::VoteError;

/// Returns what is signed of a payload: the pre-authentication encoding of DSSE, version 1. Its type is part of it, and
/// both are preceded by their length.
pub(crate) fn encoding(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads a message of at most `most` bytes, which must be canonical.
pub(crate) fn read<T>(what: &'static str, most: usize, bytes: &[u8]) -> Result<T, VoteError>
where
    T: DistinguishedOwnedMessage,
{
    VoteError::if_larger(what, bytes.len(), most)?;
    T::decode_canonical(bytes).map_err(|error| VoteError::malformed(what, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_as_dsse_has_it() {
        // The example of the specification.
        let encoded = encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        assert_eq!(encoding("", b""), b"DSSEv1 0  0 ");
    }
}
