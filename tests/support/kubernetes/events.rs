//! What the operator tells of a fleet by events, and what it must not.

use std::collections::BTreeSet;

use super::deployed::{CLUSTER, Deployed, text};

/// The events that were there at some time.
#[derive(Clone, Debug, Default)]
pub struct Mark(BTreeSet<String>);

impl Deployed {
    /// Events of the fleet as `(name, reason, note)`, in no order.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn events(&self) -> Result<Vec<(String, String, String)>, String> {
        let list = self.json(&["get", "events.events.k8s.io"]).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let ours = items.iter().filter(|event| event["regarding"]["name"] == CLUSTER);
        Ok(ours.map(|event| (text(&event["metadata"]["name"]), text(&event["reason"]), text(&event["note"]))).collect())
    }

    /// Remembers the events that are there, so that later ones can be told from them.
    ///
    /// # Panics
    /// When they can't be listed.
    pub async fn mark(&self) -> Mark {
        let events = self.events().await.unwrap_or_else(|error| panic!("{error}"));
        Mark(events.into_iter().map(|(name, ..)| name).collect())
    }

    /// The notes of the events of one reason since then.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn notes(&self, since: &Mark, reason: &str) -> Result<Vec<String>, String> {
        let events = self.events().await?.into_iter();
        let new = events.filter(|(name, what, _)| what == reason && !since.0.contains(name));
        Ok(new.map(|(.., note)| note).collect())
    }

    /// Waits for an event of this reason whose note contains these words; answers the note.
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

    /// Makes sure that nothing was told for any of these reasons since then.
    ///
    /// # Panics
    /// When something was, or the events can't be listed.
    pub async fn never_told(&self, since: &Mark, reasons: &[(&str, &str)]) {
        for (reason, why) in reasons {
            let notes = self.notes(since, reason).await.unwrap_or_else(|error| panic!("{error}"));
            assert!(notes.is_empty(), "{why}: {notes:?}");
        }
    }

    /// Waits until the loss of these agents is told, and what became of their tasks. `operator_too` says that the operator was
    /// lost with them; what became of the tasks may then be told too late for the test.
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

    /// Makes sure that no agent whose pod ended since then was lost: they drain. Those that stay may be lost for a moment, on
    /// a machine that is busy for longer than a session lasts without a heartbeat.
    ///
    /// # Panics
    /// When one was, or the events can't be listed.
    pub async fn all_drained(&self, since: &Mark) {
        let lost = self.notes(since, "AgentLost").await.unwrap_or_else(|error| panic!("{error}"));
        let staying = self.staying("agent").await.unwrap_or_else(|error| panic!("{error}"));
        let ended = |note: &&String| !note.ends_with("is back.") && !staying.keys().any(|name| note.contains(name));
        let ended: Vec<_> = lost.iter().filter(ended).collect();
        assert!(ended.is_empty(), "agents that end drain: {ended:?}");
    }
}
