//! Any text is either an address, which is read back from its text form, or refused with a sentence.
#![no_main]

use robeing_agent::messaging::Address;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match text.parse::<Address>() {
        Ok(address) => assert_eq!(address.to_string().parse(), Ok(address)),
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
});
