//! What proves votes, and files of ballots.

use robeing_votes::{BallotFile, Envelope, KeyBinding, MAX_BINDING_BYTES, MAX_ENVELOPE_BYTES, Standing};

use super::check_sentence;

/// A vote with its signature is read as it would be written, or refused. So is what it says.
pub fn envelope(bytes: &[u8]) {
    let envelope = match Envelope::from_bytes(bytes) {
        Ok(envelope) => envelope,
        Err(refused) => return check_sentence(refused),
    };
    assert!(envelope.to_bytes()[..] == *bytes && bytes.len() <= MAX_ENVELOPE_BYTES);
    match envelope.statement() {
        Ok(statement) => assert_eq!(statement.to_bytes(), envelope.payload),
        Err(refused) => check_sentence(refused),
    }
    if let Err(refused) = envelope.verify_signature() {
        check_sentence(refused);
    }
}

/// The binding of a voting key is read as it would be written, or refused. So is what it says. The input is also taken
/// as the certificate.
pub fn binding(bytes: &[u8]) {
    let binding = match KeyBinding::from_bytes(bytes) {
        Ok(binding) => binding,
        Err(refused) => return check_sentence(refused),
    };
    assert!(binding.to_bytes()[..] == *bytes && bytes.len() <= MAX_BINDING_BYTES);
    if let Err(refused) = binding.statement() {
        check_sentence(refused);
    }
    check_sentence(binding.verify_signature(bytes).expect_err("a binding is no certificate"));
}

/// A file of a ballot is written as it was read, or refused. Whatever its votes are, each is worth something or wrong,
/// and no more weight counts than there is.
pub fn ballot_file(bytes: &[u8]) {
    let file = match BallotFile::from_json(bytes) {
        Ok(file) => file,
        Err(refused) => return check_sentence(refused),
    };
    assert_eq!(BallotFile::from_json(file.to_json().as_bytes()).as_ref(), Ok(&file));
    let report = file.verify(None);
    assert_eq!((report.votes.len(), report.authorities.len()), (file.votes.len(), file.authorities.len()));
    let tally = &report.tally;
    assert!(tally.approve + tally.reject + tally.abstain <= tally.total);
    assert!(tally.per_option.iter().sum::<u64>() <= tally.approve);
    for vote in &report.votes {
        match &vote.standing {
            Standing::Wrong(problem) => check_sentence(problem),
            Standing::Signed | Standing::Attested { .. } => assert!(vote.weight > 0),
        }
    }
}
