//! Writes a cluster's status and events to the API server.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PostParams},
};
use robeing_crds::{API_VERSION, KIND, RobeingCluster, RobeingClusterStatus};
use serde_json::json;

use crate::{
    controller::{
        Context, apply,
        report::{EventRecord, Importance},
    },
    names,
};

/// Applies the status. Does nothing if the cluster no longer exists.
pub(crate) async fn patch_status(
    context: &Context,
    cluster: &RobeingCluster,
    status: &RobeingClusterStatus,
) -> Result<(), apply::Error> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let api: Api<RobeingCluster> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({"apiVersion": API_VERSION, "kind": KIND, "status": status});
    let patched = api.patch_status(&name, &apply::field_manager(), &Patch::Apply(patch)).await;
    match patched {
        Err(error) if !apply::is_gone(&error) => Err(apply::Error::of("report the status of", KIND, &name, error)),
        _ => Ok(()),
    }
}

/// Publishes an event. A failure is only logged, since losing an event is harmless.
pub(crate) async fn publish(context: &Context, cluster: &RobeingCluster, happened: EventRecord) {
    let now = Timestamp::now();
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(context.client.clone(), &namespace);
    let type_ = match happened.importance {
        Importance::Normal => "Normal",
        Importance::Warning => "Warning",
    };
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", cluster.name_any(), suffix(cluster, &happened, now))),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        action: Some(happened.action.to_owned()),
        reason: Some(happened.reason),
        note: Some(shortened(happened.note)),
        event_time: Some(MicroTime(now)),
        regarding: Some(cluster.object_ref(&())),
        reporting_controller: Some(names::OPERATOR.to_owned()),
        reporting_instance: Some(context.instance.clone()),
        type_: Some(type_.to_owned()),
        ..Event::default()
    };
    match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == ALREADY_EXISTS => {}
        Err(error) => tracing::warn!(%error, "an event could not be published"),
        Ok(_) => {}
    }
}

/// Maximum length of an event's note, in bytes; the API server accepts 1,024.
const MAX_NOTE: usize = 1_000;

fn shortened(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    note
}

/// The HTTP status if another operator has already published the event.
const ALREADY_EXISTS: u16 = 409;

/// Returns the suffix of an event's name: unique even for two events in the same nanosecond, but always the same for an
/// event with [`EventRecord::once`].
fn suffix(cluster: &RobeingCluster, happened: &EventRecord, now: Timestamp) -> u128 {
    let Some(once) = &happened.once else {
        return uuid::Uuid::new_v4().as_u128() >> 64 ^ now.as_nanosecond().unsigned_abs();
    };
    // All processes of the same build compute the same hash.
    let mut hasher = DefaultHasher::new();
    (cluster.uid(), &happened.reason, once).hash(&mut hasher);
    hasher.finish().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_once_has_one_name_for_each_life_of_a_cluster() {
        let cluster = |uid: &str| {
            let mut cluster = RobeingCluster::new("fleet", Default::default());
            cluster.metadata.uid = Some(uid.to_owned());
            cluster
        };
        let happened = |once: Option<&str>| EventRecord {
            importance: Importance::Warning,
            reason: "AgentLost".into(),
            action: "Lose",
            note: String::new(),
            once: once.map(ToOwned::to_owned),
        };
        let name = |uid: &str, once: Option<&str>| suffix(&cluster(uid), &happened(once), Timestamp::UNIX_EPOCH);
        assert_eq!(name("a", Some("agent 1")), name("a", Some("agent 1")));
        assert_ne!(name("a", Some("agent 1")), name("a", Some("agent 2")));
        assert_ne!(name("a", Some("agent 1")), name("b", Some("agent 1")));
        assert_ne!(name("a", None), name("a", None));
    }
}
