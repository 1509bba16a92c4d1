//! The events that the operator must, and must not, publish about a fleet.

use std::collections::BTreeSet;

use super::deployed::{CLUSTER, Deployed, text};

/// The events that existed at some time.
#[derive(Clone, Debug, Default)]
pub struct Mark(BTreeSet<String>);

impl Deployed {
    /// Returns the events of the fleet as `(name, reason, note)`, in no particular order.
    ///
    /// # Errors
    /// If they can't be listed.
    pub async fn events(&self) -> Result<Vec<(String, String, String)>, String> {
        let list = self.json(&["get", "events.events.k8s.io"]).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let ours = items.iter().filter(|event| event["regarding"]["name"] == CLUSTER);
        Ok(ours.map(|event| (text(&event["metadata"]["name"]), text(&event["reason"]), text(&event["note"]))).collect())
    }

    /// Remembers the events that exist now, to distinguish later ones from them.
    ///
    /// # Panics
    /// If they can't be listed.
    pub async fn mark(&self) -> Mark {
        let events = self.events().await.unwrap_or_else(|error| panic!("{error}"));
        Mark(events.into_iter().map(|(name, ..)| name).collect())
    }

    /// Returns the notes of the events with this reason since a mark.
    ///
    /// # Errors
    /// If they can't be listed.
    pub async fn notes(&self, since: &Mark, reason: &str) -> Result<Vec<String>, String> {
        let events = self.events().await?.into_iter();
        let new = events.filter(|(name, what, _)| what == reason && !since.0.contains(name));
        Ok(new.map(|(.., note)| note).collect())
    }

    /// Waits for an event with this reason whose note contains `words`, and returns the note.
    ///
    /// # Panics
    /// As [`Deployed::until`].
    pub async fn told(&self, since: &Mark, reason: &str, words: &str) -> String {
        self.until(&format!("an event {reason} with {words:?}"), async || {
            let notes = self.notes(since, reason).await?;
            notes.iter().find(|note| note.contains(words)).cloned().ok_or_else(|| format!("{notes:?}"))
        })
        .await
    }

    /// Checks that there are no events with any of these reasons since a mark. The second part of a pair is the failure
    /// message.
    ///
    /// # Panics
    /// If there are any, or the events can't be listed.
    pub async fn never_told(&self, since: &Mark, reasons: &[(&str, &str)]) {
        for (reason, why) in reasons {
            let notes = self.notes(since, reason).await.unwrap_or_else(|error| panic!("{error}"));
            assert!(notes.is_empty(), "{why}: {notes:?}");
        }
    }

    /// Waits for the events about the loss of these agents and about their tasks. `operator_too` states that the
    /// operator was lost with them: the event about the tasks may then come too late for the test, and is not awaited.
    ///
    /// # Panics
    /// As [`Deployed::until`].
    pub async fn told_lost(&self, since: &Mark, agents: &[String], operator_too: bool) {
        for agent in agents {
            self.told(since, "AgentLost", agent).await;
        }
        if !operator_too {
            self.told(since, "TasksRedistributed", "taken from agent").await;
        }
    }

    /// Checks that no agent whose pod ended since a mark was lost: such agents drain. Agents whose pods remain may be
    /// lost for a moment, if the machine is so busy that their heartbeats are delayed beyond the session timeout.
    ///
    /// # Panics
    /// If one was lost, or the events can't be listed.
    pub async fn all_drained(&self, since: &Mark) {
        let lost = self.notes(since, "AgentLost").await.unwrap_or_else(|error| panic!("{error}"));
        let staying = self.staying("agent").await.unwrap_or_else(|error| panic!("{error}"));
        let ended = |note: &&String| !note.ends_with("is back.") && !staying.keys().any(|name| note.contains(name));
        let ended: Vec<_> = lost.iter().filter(ended).collect();
        assert!(ended.is_empty(), "agents that should have drained were lost: {ended:?}");
    }
}
