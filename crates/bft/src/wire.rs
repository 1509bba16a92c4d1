//! The canonical encoding: integers are big-endian and of fixed width, lists and byte strings have a length of four
//! bytes, choices a tag of one byte. A value has exactly one encoding, and every other byte string is refused.

use bytes::Bytes;

use crate::{
    error::DecodeError,
    limits::{MAX_LIST, MAX_NAME_BYTES, MAX_STATE_BYTES},
};

/// The bytes of an encoding that were not read yet.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of these bytes.
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// Returns the next bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Returns a length, which is at most `max`.
    ///
    /// # Errors
    /// If it is larger, or truncated.
    pub fn length(&mut self, max: usize) -> Result<usize, DecodeError> {
        let length = u32::take(self)? as usize;
        if length > max { Err(DecodeError::TooLong { length, max }) } else { Ok(length) }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// If something is.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}

/// A value with a canonical encoding.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads a value.
    ///
    /// # Errors
    /// If the bytes are not the canonical encoding of a value.
    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Returns the encoding.
    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Decodes a value from exactly these bytes.
    ///
    /// # Errors
    /// If the bytes are not the canonical encoding of a value, and nothing else.
    fn decoded(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let value = Self::take(&mut input)?;
        input.finish()?;
        Ok(value)
    }
}

macro_rules! integers {
    ($($type:ty),+) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let (head, _) = input.bytes(size_of::<Self>())?.split_first_chunk().ok_or(DecodeError::Truncated)?;
                Ok(Self::from_be_bytes(*head))
            }
        }
    )+};
}

integers!(u8, u16, u32, u64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::UnknownTag { what: "a flag", tag }),
        }
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.bytes(N)?.first_chunk().copied().ok_or(DecodeError::Truncated)
    }
}

/// Writes a length. Longer values than `u32::MAX` can't be: all are limited.
pub(crate) fn put_length(length: usize, out: &mut Vec<u8>) {
    u32::try_from(length).unwrap_or(u32::MAX).put(out);
}

impl Wire for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        out.extend_from_slice(self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = input.length(MAX_STATE_BYTES)?;
        Ok(Self::copy_from_slice(input.bytes(length)?))
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = input.length(MAX_NAME_BYTES)?;
        Self::from_utf8(input.bytes(length)?.to_vec()).map_err(|_| DecodeError::NotUtf8)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        for one in self {
            one.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // Nothing is allocated for entries that are not there.
        (0..input.length(MAX_LIST)?).map(|_| T::take(input)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if bool::take(input)? { T::take(input).map(Some) } else { Ok(None) }
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        T::take(input).map(Self::new)
    }
}

/// Implements [`Wire`] for a struct, field by field in this order.
macro_rules! wire_struct {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)+
            }

            fn take(input: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::error::DecodeError> {
                Ok(Self { $($field: $crate::wire::Wire::take(input)?),+ })
            }
        }
    };
}

/// Implements [`Wire`] for an enum whose variants have one field each, by tag.
macro_rules! wire_enum {
    ($name:ident, $what:literal { $($tag:literal = $variant:ident),+ $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(value) => {
                        out.push($tag);
                        $crate::wire::Wire::put(value, out);
                    })+
                }
            }

            fn take(input: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::error::DecodeError> {
                match u8::take(input)? {
                    $($tag => Ok(Self::$variant($crate::wire::Wire::take(input)?)),)+
                    tag => Err($crate::error::DecodeError::UnknownTag { what: $what, tag }),
                }
            }
        }
    };
}

/// Defines a number or byte string with a type of its own.
macro_rules! wire_newtype {
    ($(#[doc = $doc:literal])+ $name:ident($inner:ty)) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::wire::Wire::put(&self.0, out);
            }

            fn take(input: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::error::DecodeError> {
                $crate::wire::Wire::take(input).map(Self)
            }
        }
    };
}

pub(crate) use {wire_enum, wire_newtype, wire_struct};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_encoding() {
        assert_eq!(Option::<u16>::decoded(&[1, 0, 7]).unwrap(), Some(7));
        assert_eq!(Option::<u16>::decoded(&[2, 0, 7]), Err(DecodeError::UnknownTag { what: "a flag", tag: 2 }));
        assert_eq!(u16::decoded(&[0, 7, 0]), Err(DecodeError::Trailing(1)));
        assert_eq!(u16::decoded(&[0]), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_length_is_checked_before_its_bytes() {
        let long = u32::try_from(MAX_LIST).unwrap() + 1;
        let refused = Vec::<u8>::decoded(&long.to_be_bytes());
        assert_eq!(refused, Err(DecodeError::TooLong { length: MAX_LIST + 1, max: MAX_LIST }));
        let mut full = u32::try_from(MAX_LIST).unwrap().to_be_bytes().to_vec();
        full.resize(4 + MAX_LIST, 1);
        assert_eq!(Vec::<u8>::decoded(&full).unwrap().len(), MAX_LIST);
    }
}
