//! A journal of messages is either read up to its first damage or refused; what is read is written the same again.
#![no_main]

use bytes::Bytes;
use robeing_agent::messaging::journal::format;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = format::header(7).to_vec();
    file.extend(bytes);
    for file in [Bytes::copy_from_slice(bytes), file.into()] {
        let Some(content) = format::read(&file) else { continue };
        assert!(content.end <= file.len());
        let mut again = format::header(content.journal).to_vec();
        again.extend(format::frame(content.journal, 1, &content.records));
        let again = format::read(&again.into()).expect("a journal");
        assert_eq!(again.records, content.records);
    }
});
