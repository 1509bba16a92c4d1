//! Any text is either parsed as a manifest or refused with a message.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = robeing_crds::parse_manifests(text) {
        assert!(!error.to_string().is_empty());
    }
});
