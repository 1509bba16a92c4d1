//! How a group is doing, as its members say.

use std::fmt::Write;

use serde::Serialize;

use super::{
    table::table,
    words::{plural, printable},
};

/// How a group is doing, for documents and for people.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// The number of the epoch.
    pub epoch: u64,
    /// The digest of its members, disks and keys.
    pub fingerprint: String,
    /// How many members must run so that the group decides.
    pub quorum: usize,
    /// The members, in their order.
    pub members: Vec<MemberStatus>,
}

/// How a member is doing.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name.
    pub member: String,
    /// Whether it takes part.
    pub state: MemberState,
    /// What it says of the protocol; `None` if it says nothing.
    #[serde(flatten)]
    pub protocol: Option<ProtocolStatus>,
    /// Why it does not take part, or has not answered; empty if it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a member says of the protocol.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtocolStatus {
    /// The view in which it is.
    pub view: u64,
    /// The primary of this view.
    pub primary: String,
    /// The number of the last decision that it has.
    pub decided: u64,
    /// Up to which decision a quorum has proved the state.
    pub proved: u64,
}

/// Whether a member takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MemberState {
    /// It does.
    Active,
    /// It waits for the next view to begin.
    ChangesView,
    /// It runs, and does not take part any more.
    Halted,
    /// It has another description of the group.
    OtherDescription,
    /// It refuses the question, for instance because it is no member.
    Refuses,
    /// It has not answered.
    Silent,
}

impl MemberState {
    /// Returns whether a member in this state decides with the others, if there are enough.
    pub fn runs(self) -> bool {
        matches!(self, Self::Active | Self::ChangesView)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::ChangesView => "changes view",
            Self::Halted => "halted",
            Self::OtherDescription => "other description",
            Self::Refuses => "refuses",
            Self::Silent => "no answer",
        }
    }
}

impl GroupStatus {
    /// Returns how many members run.
    fn running(&self) -> usize {
        self.members.iter().filter(|member| member.state.runs()).count()
    }

    /// Returns whether enough members run, so that the group can decide.
    pub fn can_decide(&self) -> bool {
        self.running() >= self.quorum
    }

    /// Formats it for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string never fails.
        let _ = writeln!(text, "Group:        {}", printable(&self.group));
        let _ = writeln!(text, "Epoch:        {}", self.epoch);
        let _ = writeln!(text, "Fingerprint:  {}", printable(&self.fingerprint));
        let can = if self.can_decide() { "yes" } else { "no" };
        let (running, all) = (self.running(), plural(self.members.len(), "member"));
        let _ = writeln!(text, "Can decide:   {can}, {running} of {all} running and {} needed", self.quorum);
        text.push('\n');
        let rows = self.members.iter().map(|member| {
            let of = |value: fn(&ProtocolStatus) -> String| member.protocol.as_ref().map(value).unwrap_or_default();
            [
                member.member.clone(),
                member.state.word().to_owned(),
                of(|protocol| protocol.view.to_string()),
                of(|protocol| protocol.primary.clone()),
                of(|protocol| protocol.decided.to_string()),
                of(|protocol| protocol.proved.to_string()),
                member.reason.clone(),
            ]
        });
        text.push_str(&table(["MEMBER", "STATE", "VIEW", "PRIMARY", "DECIDED", "PROVED", "REASON"], rows));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(states: [MemberState; 4]) -> GroupStatus {
        let members = ["a", "b", "c", "d"].into_iter().zip(states).map(|(name, state)| MemberStatus {
            member: name.into(),
            state,
            protocol: state.runs().then(|| ProtocolStatus { view: 5, primary: "b".into(), decided: 9, proved: 8 }),
            reason: if state.runs() { String::new() } else { "nothing came within 2 s".into() },
        });
        let members = members.collect();
        GroupStatus { group: "council".into(), epoch: 1, fingerprint: "c0de".into(), quorum: 3, members }
    }

    #[test]
    fn a_group_can_decide_while_enough_members_run() {
        use MemberState::{Active, ChangesView, Halted, OtherDescription, Refuses, Silent};
        for (states, can) in [
            ([Active; 4], true),
            ([Active, Active, ChangesView, Silent], true),
            ([Active, Active, Halted, Silent], false),
            ([Active, Active, OtherDescription, Refuses], false),
        ] {
            assert_eq!(status(states).can_decide(), can, "{states:?}");
        }
    }

    #[test]
    fn who_does_not_answer_is_shown_in_words_and_in_documents() {
        let status = status([MemberState::Active, MemberState::Silent, MemberState::ChangesView, MemberState::Active]);
        assert_eq!(
            status.text(),
            "Group:        council\n\
             Epoch:        1\n\
             Fingerprint:  c0de\n\
             Can decide:   yes, 3 of 4 members running and 3 needed\n\
             \n\
             MEMBER   STATE          VIEW   PRIMARY   DECIDED   PROVED   REASON\n\
             a        active         5      b         9         8        -\n\
             b        no answer      -      -         -         -        nothing came within 2 s\n\
             c        changes view   5      b         9         8        -\n\
             d        active         5      b         9         8        -\n"
        );
        let document = serde_json::to_value(&status).expect("it is JSON");
        let silent = serde_json::json!({"member": "b", "state": "silent", "reason": "nothing came within 2 s"});
        assert_eq!(document["members"][1], silent);
        let active = serde_json::json!(
            {"member": "a", "state": "active", "view": 5, "primary": "b", "decided": 9, "proved": 8}
        );
        assert_eq!(document["members"][0], active);
    }
}
