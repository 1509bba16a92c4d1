//! The file of a ballot, from which anybody can verify it without the fleet.

use std::{
    fs::{File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use robeing_client::threshold;
use robeing_proto::v1::{Ballot, BallotState, ballot::Vote};
use robeing_votes::{
    BallotFile, Base64, Choice, FILE_VERSION, FileElector, FileEvidence, FileOutcome, FileThreshold, FileVote,
    MAX_FILE_BYTES, VoteError, hex,
};

/// The permissions of the file, which is made to be passed on.
const EVERYONE_READS: u32 = 0o644;

/// Why the file of a ballot can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BallotFileError {
    /// It can't be read.
    #[error("can't read {}: {error}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// It is no file of a ballot, or one that was changed so that it can't be read.
    #[error("{} is no file of a ballot: {problem}", .file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: VoteError,
    },
    /// It can't be written.
    #[error("can't write {}: {error}; give another file with --file", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The fleet has returned a ballot that this program does not understand.
    #[error("the ballot can't be written to a file: its {0} is of another version; upgrade this program")]
    Unknown(&'static str),
}

/// Returns the file of a ballot that was got with its evidence.
///
/// # Errors
/// [`BallotFileError::Unknown`] if it has values that this program does not know.
pub(super) fn of(ballot: &Ballot) -> Result<BallotFile, BallotFileError> {
    let unknown = BallotFileError::Unknown;
    let (numerator, denominator) = threshold(&ballot.threshold).ok_or(unknown("threshold"))?;
    let electors = ballot.electorate.iter();
    let mut file = BallotFile {
        api_version: FILE_VERSION.into(),
        fleet: ballot.fleet.clone(),
        id: ballot.id.clone(),
        question: ballot.question.clone(),
        options: ballot.options.clone(),
        electorate: electors.map(|one| FileElector { name: one.name.clone(), weight: one.weight }).collect(),
        threshold: FileThreshold { numerator, denominator },
        ttl_ms: ballot.ttl_ms,
        digest: hex(&ballot.digest),
        opened_by: ballot.opened_by.clone(),
        opened_at_ms: millis(ballot.opened_at.as_ref()),
        closed_at_ms: ballot.closed_at.as_ref().map(|at| millis(Some(at))),
        outcome: outcome(ballot.state()).ok_or(unknown("state"))?,
        option: ballot.option,
        votes: Vec::with_capacity(ballot.votes.len()),
        authorities: Vec::new(),
    };
    for vote in &ballot.votes {
        let kept = FileVote {
            member: vote.member.clone(),
            choice: u8::try_from(vote.choice).ok().and_then(Choice::from_number).ok_or(unknown("vote"))?,
            option: vote.option,
            reason: vote.reason.clone(),
            at_ms: millis(vote.at.as_ref()),
            attested_by: vote.attested_by.clone(),
            evidence: evidence(&mut file, vote),
        };
        file.votes.push(kept);
    }
    Ok(file)
}

fn evidence(file: &mut BallotFile, vote: &Vote) -> Option<FileEvidence> {
    vote.signed.then(|| FileEvidence {
        envelope: Base64(vote.envelope.clone()),
        binding: Base64(vote.binding.clone()),
        certificate: Base64(vote.certificate.clone()),
        authority: file.authority(vote.authority.clone()),
    })
}

fn outcome(state: BallotState) -> Option<FileOutcome> {
    match state {
        BallotState::Open => Some(FileOutcome::Open),
        BallotState::Approved => Some(FileOutcome::Approved),
        BallotState::Rejected => Some(FileOutcome::Rejected),
        BallotState::Expired => Some(FileOutcome::Expired),
        BallotState::Unspecified => None,
    }
}

/// Returns a time in Unix milliseconds; 0 if there is none.
fn millis(time: Option<&prost_types::Timestamp>) -> u64 {
    let Some(time) = time else { return 0 };
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    seconds.saturating_mul(1_000).saturating_add(u64::try_from(time.nanos / 1_000_000).unwrap_or_default())
}

/// Writes the file, whole or not at all.
pub(super) fn write(path: &Path, file: &BallotFile) -> Result<(), BallotFileError> {
    let failed = |error: io::Error| BallotFileError::Write { file: path.to_owned(), error };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new().permissions(Permissions::from_mode(EVERYONE_READS)).tempfile_in(folder);
    let mut aside = aside.map_err(failed)?;
    aside.write_all(file.to_json().as_bytes()).map_err(failed)?;
    aside.as_file().sync_all().map_err(failed)?;
    aside.persist(path).map(drop).map_err(|error| failed(error.error))
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<BallotFile, BallotFileError> {
    let failed = |error: io::Error| BallotFileError::Read { file: path.to_owned(), error };
    let mut bytes = Vec::new();
    // One byte more than there may be, so that a larger file is refused.
    let most = MAX_FILE_BYTES as u64 + 1;
    File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    BallotFile::from_json(&bytes).map_err(|problem| BallotFileError::Form { file: path.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_proto::v1::ballot::Member;

    use super::*;

    fn ballot() -> Ballot {
        let member = |name: &str| Member { name: name.into(), weight: 1, ..Member::default() };
        let vote = |member: &str, signed, authority: &'static [u8]| Vote {
            member: member.into(),
            choice: 1,
            at: Some(prost_types::Timestamp { seconds: 7, nanos: 8_000_000 }),
            attested_by: "coordinator-0".into(),
            signed,
            authority: Bytes::from_static(authority),
            ..Vote::default()
        };
        Ballot {
            id: "0190163d-8694-739b-aea5-966c26f8ad91".into(),
            question: "deploy?".into(),
            electorate: ["a", "b", "c"].map(member).to_vec(),
            threshold: "2/3".into(),
            opened_by: "client:ada".into(),
            state: BallotState::Approved.into(),
            votes: vec![vote("a", true, b"one"), vote("b", true, b"one"), vote("c", false, b"")],
            digest: Bytes::from_static(&[0xab; 32]),
            ttl_ms: 30_000,
            ..Ballot::default()
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_has_each_authority_once() {
        let file = of(&ballot()).expect("it is understood");
        assert_eq!((file.authorities.len(), file.votes[0].at_ms, &*file.digest), (1, 7_008, &*"ab".repeat(32)));
        assert!(file.votes[1].evidence.is_some() && file.votes[2].evidence.is_none());
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("ballot.json");
        for _ in 0..2 {
            write(&path, &file).expect("it is written, and replaced");
        }
        assert_eq!(read(&path).expect("it is read"), file);
        let error = write(&folder.path().join("no/b.json"), &file).expect_err("there is no folder").to_string();
        assert!(error.contains("no/b.json: ") && error.ends_with("give another file with --file"), "{error}");
    }

    #[test]
    fn what_is_no_file_of_a_ballot_is_refused_with_its_name() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "{}").expect("written");
        let error = read(file.path()).expect_err("it is no ballot").to_string();
        assert!(error.contains("is no file of a ballot: "), "{error}");
        let large = File::create(file.path()).expect("created");
        large.set_len(MAX_FILE_BYTES as u64 + 1).expect("a file with a hole");
        assert!(matches!(read(file.path()), Err(BallotFileError::Form { .. })));
        assert!(matches!(read(Path::new("/nonexistent")), Err(BallotFileError::Read { .. })));
    }

    #[test]
    fn what_this_program_does_not_know_is_not_written() {
        for (unknown, what) in
            [(Ballot { threshold: "most".into(), ..ballot() }, "threshold"), (Ballot { state: 9, ..ballot() }, "state")]
        {
            let error = of(&unknown).expect_err("it is unknown").to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
