//! The notice of a ballot, as a coordinator sends it to the agents among its members: JSON in a letter.

use std::time::Duration;

use robeing_votes::{BallotContent, MAX_ELECTORS, MAX_OPTIONS};
use serde::Deserialize;
use uuid::Uuid;

/// Maximum size of a notice, bytes. A ballot with the longest question, the most options and the most members, all of
/// whose characters are escaped, has fewer.
pub const MAX_NOTICE_BYTES: usize = 512 * 1024;

/// Why a notice can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    /// It is too large.
    #[error("the notice has {0} bytes, {MAX_NOTICE_BYTES} at most")]
    TooLarge(usize),
    /// It has another form.
    #[error("the notice can't be read: {0}; upgrade the older of this agent and the coordinators")]
    Form(String),
    /// It has more of something than a ballot may have.
    #[error("the notice has {count} {what}, {most} at most")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        most: usize,
    },
    /// Its digest is another one than that of what it says: it was changed on its way.
    #[error("the notice has another digest than its content: it was changed after the ballot was opened")]
    Digest,
    /// It is of another fleet.
    #[error("the notice is of the fleet {0:?}, and this agent is in another one")]
    OtherFleet(String),
    /// The agent has no vote.
    #[error("this agent is no member of the ballot")]
    NotMember,
}

#[derive(Debug, Deserialize)]
struct Member {
    name: String,
    weight: u32,
}

/// A notice as it is written. Later versions may add fields, on which no vote depends: they are not in the digest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    ballot: String,
    fleet: String,
    question: String,
    options: Vec<String>,
    electorate: Vec<Member>,
    threshold: String,
    ttl_ms: u64,
    digest: String,
}

/// What an agent needs of a notice to vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The id of the ballot.
    pub ballot: Uuid,
    /// The fleet, as signed votes name it.
    pub fleet: String,
    /// What members who approve choose among.
    pub options: Vec<String>,
    /// The digest of the ballot's content, which the notice has in full.
    pub digest: [u8; 32],
    /// How long the ballot is open at most.
    pub ttl: Duration,
}

impl Notice {
    /// Reads the notice for the agent `me`. `fleet` is the fleet of its certificate, if it has one.
    ///
    /// # Errors
    /// [`NoticeError`] if it is malformed, beyond a limit, of another fleet, not for this agent, or not what its digest
    /// says.
    pub fn read(payload: &[u8], me: &str, fleet: Option<&str>) -> Result<Self, NoticeError> {
        if payload.len() > MAX_NOTICE_BYTES {
            return Err(NoticeError::TooLarge(payload.len()));
        }
        let written: Written = serde_json::from_slice(payload).map_err(|error| NoticeError::Form(error.to_string()))?;
        let counts =
            [("options", written.options.len(), MAX_OPTIONS), ("members", written.electorate.len(), MAX_ELECTORS)];
        for (what, count, most) in counts {
            if count > most {
                return Err(NoticeError::TooMany { what, count, most });
            }
        }
        if fleet.is_some_and(|fleet| fleet != written.fleet) {
            return Err(NoticeError::OtherFleet(written.fleet.chars().take(200).collect()));
        }
        if !written.electorate.iter().any(|member| member.name == me) {
            return Err(NoticeError::NotMember);
        }
        let form = |problem: &str| NoticeError::Form(problem.to_owned());
        let ballot = Uuid::try_parse(&written.ballot).map_err(|_| form("the id of the ballot is no UUID"))?;
        let threshold = fraction(&written.threshold).ok_or_else(|| form("its threshold is no fraction such as 2/3"))?;
        let content = BallotContent {
            fleet: &written.fleet,
            id: ballot.as_u128(),
            question: &written.question,
            options: &written.options,
            electorate: written.electorate.iter().map(|member| (member.name.as_str(), member.weight)).collect(),
            threshold,
            ttl: written.ttl_ms,
        };
        let digest = content.digest();
        if robeing_votes::hex(&digest) != written.digest {
            return Err(NoticeError::Digest);
        }
        let Written { fleet, options, ttl_ms, .. } = written;
        Ok(Self { ballot, fleet, options, digest, ttl: Duration::from_millis(ttl_ms) })
    }
}

/// Reads a fraction above 0 and at most 1.
fn fraction(text: &str) -> Option<(u32, u32)> {
    let (numerator, denominator) = text.split_once('/')?;
    let (numerator, denominator) = (numerator.parse().ok()?, denominator.parse().ok()?);
    (0 < numerator && numerator <= denominator).then_some((numerator, denominator))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::decisions::fixture::{FLEET, notice};

    fn read(notice: &Value) -> Result<Notice, NoticeError> {
        Notice::read(notice.to_string().as_bytes(), "b", Some(FLEET))
    }

    #[test]
    fn a_notice_is_what_its_digest_says() {
        let right = notice(FLEET, 7, &["x", "y"]);
        let known = read(&right).expect("it is right");
        assert_eq!((known.ballot.as_u128(), &*known.options[1], &*known.fleet), (7, "y", FLEET));
        for (field, other) in [
            ("ballot", json!(Uuid::from_u128(8).to_string())),
            ("question", json!("delete?")),
            ("options", json!(["x", "z"])),
            ("electorate", json!([{"name": "b", "weight": 3}, {"name": "client:ada", "weight": 1}])),
            ("threshold", json!("1/3")),
            ("ttlMs", json!(30_001)),
            ("digest", json!("00".repeat(32))),
            ("digest", json!("")),
        ] {
            let mut changed = right.clone();
            changed[field] = other;
            assert_eq!(read(&changed), Err(NoticeError::Digest), "{field}");
        }
        let mut more = right;
        more["later"] = json!("something");
        assert!(read(&more).is_ok(), "a later version says more");
    }

    #[test]
    fn a_notice_of_others_is_refused() {
        let elsewhere = notice("spiffe://robeing.local/ns/default/cluster/two", 7, &[]);
        assert!(matches!(read(&elsewhere), Err(NoticeError::OtherFleet(_))));
        let text = elsewhere.to_string();
        assert!(Notice::read(text.as_bytes(), "b", None).is_ok(), "without a certificate the fleet is what it says");
        assert_eq!(Notice::read(text.as_bytes(), "c", None), Err(NoticeError::NotMember));
    }

    #[test]
    fn a_notice_has_limits() {
        let with = |field: &str, value: Value| {
            let mut changed = notice(FLEET, 7, &[]);
            changed[field] = value;
            read(&changed)
        };
        let many = |count: usize| json!(vec!["x"; count]);
        assert_eq!(with("options", many(MAX_OPTIONS)), Err(NoticeError::Digest), "so many it may have");
        let (count, most) = (MAX_OPTIONS + 1, MAX_OPTIONS);
        assert_eq!(with("options", many(count)), Err(NoticeError::TooMany { what: "options", count, most }));
        let members = |count: usize| json!(vec![json!({"name": "b", "weight": 1}); count]);
        assert_eq!(with("electorate", members(MAX_ELECTORS)), Err(NoticeError::Digest));
        assert!(matches!(with("electorate", members(MAX_ELECTORS + 1)), Err(NoticeError::TooMany { .. })));
        for threshold in ["0/3", "4/3", "1/0", "2", "/", "-1/3", "1/4294967296", "0.5"] {
            assert!(matches!(with("threshold", json!(threshold)), Err(NoticeError::Form(_))), "{threshold}");
        }
        assert!(matches!(with("ballot", json!("7")), Err(NoticeError::Form(_))));
        let mut long = notice(FLEET, 7, &[]).to_string().into_bytes();
        long.resize(MAX_NOTICE_BYTES, b' ');
        assert!(Notice::read(&long, "b", Some(FLEET)).is_ok());
        long.push(b' ');
        assert_eq!(Notice::read(&long, "b", Some(FLEET)), Err(NoticeError::TooLarge(MAX_NOTICE_BYTES + 1)));
    }

    #[test]
    fn the_largest_ballot_fits_into_a_notice() {
        let escaped = "\u{1}";
        let question = escaped.repeat(4_096);
        let options = vec![escaped.repeat(128); MAX_OPTIONS];
        let member = json!({"name": "x".repeat(300), "weight": 1_000});
        let largest = json!({"question": question, "options": options, "electorate": vec![member; MAX_ELECTORS]});
        assert!(largest.to_string().len() + 4_096 < MAX_NOTICE_BYTES);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, text in "\\{.{0,80}\\}") {
            prop_assert!(Notice::read(&bytes, "b", None).is_err());
            prop_assert!(Notice::read(text.as_bytes(), "b", None).is_err());
        }
    }
}
