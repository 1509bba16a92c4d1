//! A snapshot is either decoded or refused; one that is decoded encodes to the same bytes.
#![no_main]

use robeing_fleet::Fleet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(fleet) = Fleet::decode(bytes) {
        let again = fleet.encode();
        assert_eq!(again, bytes, "the encoding is canonical");
    }
});
