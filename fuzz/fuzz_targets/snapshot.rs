//! A snapshot is read or refused, and one that was read is written as it was.
#![no_main]

use robeing_fleet::Fleet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(fleet) = Fleet::decode(bytes) {
        let again = fleet.encode();
        assert_eq!(again, bytes, "there is one form of it");
    }
});
