//! Conversion of references to objects in the object store.

use robeing_fleet::BlobRef;
use robeing_proto::v1;

use super::fields::{BadField, bad};

/// Reads a reference in a field. Whether it is within bounds is checked where it is used.
pub fn blob_ref(field: &'static str, blob: &v1::BlobRef) -> Result<BlobRef, BadField> {
    let sha256 = blob.sha256[..].try_into();
    let sha256 = sha256.map_err(|_| bad(field, format!("its sha256 has {} bytes, and not 32", blob.sha256.len())))?;
    Ok(BlobRef { sha256, bytes: blob.bytes })
}

/// Converts a reference to its API form.
pub fn told_blob_ref(blob: &BlobRef) -> v1::BlobRef {
    v1::BlobRef { sha256: blob.sha256.to_vec().into(), bytes: blob.bytes }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use robeing_fleet::limits::{BLOB_REF_BYTES, MAX_BLOB_BYTES};
    use robeing_proto::internal::v1 as internal;

    use super::*;

    #[test]
    fn a_reference_counts_for_no_less_than_it_has_in_a_message() {
        let object = Some(told_blob_ref(&BlobRef { sha256: [7; 32], bytes: MAX_BLOB_BYTES }));
        let result = internal::PassedResult { output_ref: object.clone(), ..Default::default() };
        let part = internal::StoredPart { at: u64::from(u32::MAX), object };
        let given = internal::Assignment { stored: vec![part], ..Default::default() };
        assert!(given.encoded_len() <= BLOB_REF_BYTES && result.encoded_len() <= BLOB_REF_BYTES);
    }

    #[test]
    fn a_reference_is_read_as_it_is_told_and_a_hash_of_another_length_is_refused() {
        let blob = BlobRef { sha256: [7; 32], bytes: 5 };
        let told = told_blob_ref(&blob);
        assert_eq!(blob_ref("input_ref", &told), Ok(blob));
        for length in [0, 31, 33] {
            let wrong = v1::BlobRef { sha256: vec![7; length].into(), ..told.clone() };
            assert!(blob_ref("input_ref", &wrong).is_err(), "{length}");
        }
    }
}
