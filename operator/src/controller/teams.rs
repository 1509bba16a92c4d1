//! Keeps the teams of the spec: forms those that are missing, and disbands those that the spec has no more. The status
//! has their ids. An id follows from the cluster, from the team in the spec, and from the id that it replaces, so that a
//! team that was formed, and is not in the status yet, is found again.

use robeing_client::{
    Security,
    coordinators::{CoordinatorClient, Error},
};
use robeing_crds::{RobeingClusterStatus, Team, TeamState, TeamStatus, limits::MAX_TEAM_STATUSES};
use robeing_identity::digest;
use robeing_proto::v1;

use super::{
    ClusterCache, Context,
    asking::{digest_of, hex, is_refusal, reason, required_role},
    observe::Observation,
};

/// A coordinator that is asked.
struct Coordinator<'a> {
    client: &'a CoordinatorClient,
    address: &'a str,
    security: Security,
}

/// Forms, disbands and looks at teams. Returns what became of them; `None` if nothing could be found out.
pub(crate) async fn keep(
    observation: &Observation,
    before: Option<&RobeingClusterStatus>,
    context: &Context,
    cache: &ClusterCache,
) -> Option<Vec<TeamStatus>> {
    let Ok(answer) = &observation.fleet else { return None };
    let coordinator =
        Coordinator { client: &context.coordinators, address: &answer.from, security: cache.identity.security() };
    let teams = &observation.cluster.spec.teams;
    let known: &[TeamStatus] = before.map_or(&[], |before| before.teams.as_slice());
    let cluster = observation.cluster.metadata.uid.as_deref().unwrap_or_default();
    let mut kept = Vec::with_capacity(teams.len());
    // Without a quorum no call has an answer, and nothing else is done for the fleet while one is waited for. So after
    // the first one that has none, no other team is asked about in this round.
    let mut answers = true;
    // First those that are not wanted any more, whose members are free then.
    for gone in known.iter().filter(|known| is_uuid(&known.id) && teams.iter().all(|team| team.name != known.name)) {
        if !answers {
            kept.push(gone.clone());
        } else if let Err(error) = coordinator.disband(&gone.id).await {
            answers = is_refusal(&error);
            kept.push(unchanged(gone, &error));
        }
    }
    let has_room = has_room(kept.len(), teams.len());
    for team in teams {
        let known = known.iter().find(|known| known.name == team.name);
        if !answers || (known.is_none() && !has_room) {
            kept.extend(known.cloned());
            continue;
        }
        match coordinator.keep(cluster, team, known).await {
            Ok(status) => kept.push(status),
            Err(error) => {
                tracing::debug!(team = team.name, %error, "nothing is known of the team now");
                answers = is_refusal(&error);
                kept.extend(known.map(|known| unchanged(known, &error)));
            }
        }
    }
    Some(kept)
}

/// Returns whether new teams of this many in the spec are formed while so many others are still to be disbanded: the
/// status has room for [`MAX_TEAM_STATUSES`], with more of them it would be refused, and a team that is not in it is lost.
fn has_room(gone: usize, teams: usize) -> bool {
    gone + teams <= MAX_TEAM_STATUSES as usize
}

/// Returns whether all teams of the spec are as they should be, so that nothing changes soon.
pub(crate) fn are_settled(teams: Option<&[TeamStatus]>) -> bool {
    let is_settled = |team: &TeamStatus| team.state == TeamState::Active;
    teams.is_none_or(|teams| teams.iter().all(is_settled))
}

impl Coordinator<'_> {
    async fn keep(&self, cluster: &str, team: &Team, known: Option<&TeamStatus>) -> Result<TeamStatus, Error> {
        let spec = digest_of(team);
        let (mut id, replaced) = ids(cluster, &spec, known);
        if let Some(replaced) = replaced {
            self.disband(replaced).await?;
        }
        let mut found = match self.client.team(self.address, &self.security, id.clone()).await {
            // Such as a coordinator of a version without teams.
            Err(error) if is_refusal(&error) && known.is_none_or(|known| known.state == TeamState::NotFormed) => {
                return Ok(not_formed(team, id, spec, &error));
            }
            found => found?,
        };
        if found.as_ref().is_some_and(|found| !is_open_for(found, team)) {
            id = id_of(cluster, &spec, &id);
            found = None;
        }
        let formed = match found {
            Some(found) => Ok(found),
            None => self.client.form_team(self.address, &self.security, request(team, &id)).await,
        };
        match formed {
            Ok(formed) => Ok(status(team, id, spec, &formed)),
            Err(error) if is_refusal(&error) => Ok(not_formed(team, id, spec, &error)),
            Err(error) => Err(error),
        }
    }

    async fn disband(&self, id: &str) -> Result<(), Error> {
        self.client.disband_team(self.address, &self.security, id.to_owned()).await
    }
}

/// Returns the id of a team with this digest that replaces another one, or none if that is empty.
fn id_of(cluster: &str, spec: &str, replaced: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(format!("{cluster}/{spec}/{replaced}").as_bytes())[..16]);
    // A UUID of version 8, RFC 9562: its bits are up to its maker.
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Returns whether a text has the form of a UUID, which coordinators take.
fn is_uuid(text: &str) -> bool {
    let is_right = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_right)
}

/// Returns the id of the team with this digest, and the id of one that was formed for another spec and is to be
/// disbanded.
fn ids<'a>(cluster: &str, spec: &str, known: Option<&'a TeamStatus>) -> (String, Option<&'a str>) {
    match known.filter(|known| is_uuid(&known.id)) {
        None => (id_of(cluster, spec, ""), None),
        Some(known) if known.spec_digest == spec => (known.id.clone(), None),
        Some(known) => (id_of(cluster, spec, &known.id), Some(known.id.as_str())),
    }
}

fn request(team: &Team, id: &str) -> v1::FormTeamRequest {
    v1::FormTeamRequest {
        id: id.to_owned(),
        purpose: team.purpose.clone(),
        size: team.size,
        partial: team.partial,
        role: required_role(team.role).into(),
        skills: team.skills.clone(),
    }
}

/// Returns whether a team is not disbanded, and was formed for this one of the spec. Somebody else who knows the cluster
/// can form one under its id before.
fn is_open_for(found: &v1::Team, team: &Team) -> bool {
    let mut asked = request(team, &found.id);
    asked.skills.sort_unstable();
    asked.skills.dedup();
    found.state() != v1::TeamState::Disbanded
        && (&found.purpose, found.asked, found.partial) == (&asked.purpose, asked.size, asked.partial)
        && (found.role, &found.skills) == (asked.role, &asked.skills)
}

fn status(team: &Team, id: String, spec_digest: String, formed: &v1::Team) -> TeamStatus {
    let state = match formed.state() {
        v1::TeamState::Unspecified | v1::TeamState::Forming => TeamState::Forming,
        v1::TeamState::Active => TeamState::Active,
        v1::TeamState::Degraded => TeamState::Degraded,
        v1::TeamState::Disbanded => TeamState::Disbanded,
    };
    TeamStatus {
        name: team.name.clone(),
        id,
        spec_digest,
        state,
        members: u32::try_from(formed.members.len()).unwrap_or(u32::MAX),
        size: formed.size,
        leader: Some(formed.leader.clone()).filter(|leader| !leader.is_empty()),
        term: formed.term,
        message: None,
    }
}

fn not_formed(team: &Team, id: String, spec_digest: String, error: &Error) -> TeamStatus {
    let (name, size) = (team.name.clone(), team.size);
    TeamStatus { name, id, spec_digest, size, message: Some(reason(error)), ..TeamStatus::default() }
}

/// Returns what is known of a team after this error, with the reason if it is a refusal.
fn unchanged(known: &TeamStatus, error: &Error) -> TeamStatus {
    let message = if is_refusal(error) { Some(reason(error)) } else { known.message.clone() };
    TeamStatus { message, ..known.clone() }
}

#[cfg(test)]
mod tests {
    use robeing_crds::Role;
    use tonic::Code;

    use super::*;

    fn team(size: u32) -> Team {
        let (name, purpose) = ("review".to_owned(), "review the release".to_owned());
        Team { name, purpose, size, partial: false, role: Some(Role::Worker), skills: vec!["ocr".to_owned()] }
    }

    fn failed(code: Code) -> Error {
        Error::Refused { method: "FormTeam", address: "a".to_owned(), code, message: "too few".to_owned() }
    }

    #[test]
    fn a_team_has_one_id_until_the_spec_changes_and_then_another_one() {
        let (spec, other) = (digest_of(&team(3)), digest_of(&team(4)));
        let (first, replaced) = ids("u", &spec, None);
        assert_eq!(replaced, None);
        assert_eq!(ids("u", &spec, None).0, first, "also if it is not in the status yet");
        assert_ne!(ids("v", &spec, None).0, first, "another cluster has its own");
        let known = TeamStatus { id: first.clone(), spec_digest: spec.clone(), ..TeamStatus::default() };
        assert_eq!(ids("u", &spec, Some(&known)), (first.clone(), None));
        let (second, replaced) = ids("u", &other, Some(&known));
        assert_eq!((second == first, replaced), (false, Some(first.as_str())));
        let known = TeamStatus { id: second.clone(), spec_digest: other, ..TeamStatus::default() };
        assert_ne!(ids("u", &spec, Some(&known)).0, first, "the first one is disbanded");
        for id in ["", "review", "0190a0b0-0000-8000-8000-00000000000g"] {
            let broken = TeamStatus { id: id.to_owned(), spec_digest: "another".to_owned(), ..TeamStatus::default() };
            assert_eq!(ids("u", &spec, Some(&broken)), (first.clone(), None), "no coordinator takes {id:?}");
        }
    }

    #[test]
    fn ids_are_uuids() {
        let id = id_of("u", "s", "");
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!((&id[14..15], id[19..20].contains(['8', '9', 'a', 'b'])), ("8", true), "{id}");
        assert!(is_uuid(&id) && !is_uuid(&id[1..]) && !is_uuid(&id.replace('-', "0")), "{id}");
    }

    #[test]
    fn a_team_is_asked_for_and_shown_as_it_is() {
        let asked = request(&team(3), "i");
        assert_eq!((asked.id.as_str(), asked.size, asked.role()), ("i", 3, v1::Role::Worker));
        assert_eq!((asked.purpose.as_str(), asked.skills), ("review the release", vec!["ocr".to_owned()]));
        let formed = v1::Team { state: v1::TeamState::Active.into(), size: 3, term: 2, ..v1::Team::default() };
        let shown = status(&team(3), "i".to_owned(), "s".to_owned(), &formed);
        assert_eq!((shown.state, shown.size, shown.term, shown.leader), (TeamState::Active, 3, 2, None));
        assert!(are_settled(None) && are_settled(Some(&[])));
        let refused = failed(Code::ResourceExhausted);
        assert!(is_refusal(&refused) && !is_refusal(&Error::NoAddress));
        let shown = not_formed(&team(3), "i".to_owned(), "s".to_owned(), &refused);
        assert_eq!((shown.state, shown.message.as_deref()), (TeamState::NotFormed, Some("too few")));
        assert!(!are_settled(Some(&[shown])));
    }
    #[test]
    fn a_team_that_somebody_else_has_formed_under_the_id_is_not_taken_for_that_of_the_spec() {
        let mut asked = team(3);
        asked.skills = ["ocr", "law", "ocr"].map(str::to_owned).to_vec();
        let skills = ["law", "ocr"].map(str::to_owned).to_vec();
        let (purpose, role) = (asked.purpose.clone(), v1::Role::Worker.into());
        let formed = v1::Team { purpose, asked: 3, size: 2, role, skills, ..v1::Team::default() };
        assert!(is_open_for(&formed, &asked));
        let disbanded = v1::TeamState::Disbanded.into();
        for other in [
            v1::Team { state: disbanded, ..formed.clone() },
            v1::Team { purpose: "another".to_owned(), ..formed.clone() },
            v1::Team { asked: 2, ..formed.clone() },
            v1::Team { partial: true, ..formed.clone() },
            v1::Team { role: v1::Role::Guardian.into(), ..formed.clone() },
            v1::Team { skills: Vec::new(), ..formed.clone() },
        ] {
            assert!(!is_open_for(&other, &asked), "{other:?}");
        }
    }

    #[test]
    fn why_a_team_is_not_disbanded_is_told_and_that_nobody_answers_is_not() {
        let known = TeamStatus { state: TeamState::Active, term: 2, ..TeamStatus::default() };
        let refused = unchanged(&known, &failed(Code::PermissionDenied));
        assert_eq!(refused, TeamStatus { message: Some("too few".to_owned()), ..known.clone() });
        for error in [failed(Code::DeadlineExceeded), failed(Code::Unavailable), Error::NoAddress] {
            assert_eq!((unchanged(&known, &error), is_refusal(&error)), (known.clone(), false));
        }
    }

    #[test]
    fn the_status_has_room_for_all_teams_that_are_formed() {
        let most = MAX_TEAM_STATUSES as usize;
        assert!(has_room(most - 1, 1) && has_room(0, most));
        assert!(!has_room(most, 1) && !has_room(most - 1, 2));
    }
}
