//! A manifest is read or refused with a sentence, whatever it is.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = robeing_crds::parse_manifests(text) {
        assert!(!error.to_string().is_empty());
    }
});
