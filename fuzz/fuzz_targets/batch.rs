//! The payload of a log entry is either decoded or refused; one that is decoded encodes to the same bytes.
#![no_main]

use bytes::Bytes;
use robeing_coordinator::raft::Batch;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok((now, commands)) = Batch(Bytes::copy_from_slice(bytes)).open() {
        let again = Batch::new(now, commands.iter().map(|command| &command[..]));
        assert_eq!(&again.0[..], bytes);
    }
});
