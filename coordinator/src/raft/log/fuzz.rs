//! What fuzz targets run of the format of the log.

use bytes::{Bytes, BytesMut};

use super::{
    frame::{self, ALIGN},
    record,
};

/// The salt of the segments.
const SALT: u64 = 7;

/// A part of a segment: a frame in it is whole or none, and records that are read are written and read the same again.
pub fn log(bytes: &[u8]) {
    let segment = Bytes::copy_from_slice(bytes);
    for offset in (0..bytes.len()).step_by(ALIGN) {
        if let Some((seq, body)) = frame::decode_at(SALT, &segment, offset) {
            assert_eq!(frame::encode(SALT, seq, &body), segment[offset..offset + frame::frame_len(body.len())]);
            records(body);
        }
        let _ = (frame::announced(&bytes[offset..]), frame::torn_len(&bytes[offset..], 1));
    }
    assert!(frame::find_begun(bytes).is_none_or(|offset| offset < bytes.len() && offset % ALIGN == 0));
    let framed = frame::encode(SALT, 1, bytes);
    assert_eq!(frame::decode_at(SALT, &framed, 0), Some((1, segment.clone())));
    assert_eq!(frame::decode_at(SALT + 1, &framed, 0), None, "a frame of another segment is none");
    records(segment);
}

fn records(body: Bytes) {
    let written = |records: &[record::Record]| {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record::put_record(&mut bytes, record));
        bytes.freeze()
    };
    match record::decode(body) {
        Ok(records) => {
            let bytes = written(&records);
            let again = record::decode(bytes.clone()).expect("it was written");
            assert_eq!(written(&again), bytes);
        }
        Err(bad) => assert!(bad.to_string().starts_with("record kind ")),
    }
}
