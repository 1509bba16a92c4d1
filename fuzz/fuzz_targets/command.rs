//! A command is either decoded or refused; one that is decoded encodes to the same bytes, and violates no invariant
//! when it is applied.
#![no_main]

use robeing_fleet::{
    Command, ControlCommand, Fleet, FleetConfig, Stamp, decode_command, encode_command, known_version,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(command) = decode_command(bytes) else { return };
    let mut again = Vec::new();
    encode_command(&command, &mut again);
    assert_eq!(again, bytes, "the encoding is canonical");
    let mut fleet = Fleet::new(FleetConfig::default());
    let newest = Command::Control(ControlCommand::RaiseVersion(known_version()));
    for command in [newest, command] {
        fleet.apply(Stamp::at(1), command, &mut Vec::new());
    }
    fleet.audit().expect("the invariants hold");
});
