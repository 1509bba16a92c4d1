//! Releases the ownership of a pool's replicas. When a field manager stops setting a field that no one else owns, the
//! API server resets it to its default: a pool whose replicas are removed from the spec would shrink to one agent until
//! an autoscaler scales it. So the replicas are first applied once more under another field manager, which is used for
//! nothing else, and remain until someone changes them.

use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::names;

/// Returns the replicas that only this operator owns and that the next apply no longer sets. `None` if there is nothing
/// to keep. Zero replicas are not kept but reset to one, because autoscalers do not scale up from zero.
pub fn abandoned(wish: &DynamicObject, live: &DynamicObject) -> Option<u64> {
    if wish.data.pointer("/spec/replicas").is_some() {
        return None;
    }
    let replicas = live.data.pointer("/spec/replicas")?.as_u64().filter(|replicas| *replicas > 0)?;
    let managers = live.metadata.managed_fields.iter().flatten();
    let speak = managers.filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields.and_then(|fields| fields.pointer("/f:spec/f:replicas")).is_some()
    });
    let mut speak = speak.map(|entry| entry.manager.as_deref() == Some(names::OPERATOR)).peekable();
    (speak.peek().is_some() && speak.all(|operator| operator)).then_some(replicas)
}

/// Returns the apply request of the other field manager. It fails if the object has changed since it was read.
fn said(live: &DynamicObject, replicas: u64) -> Value {
    let (types, meta) = (live.types.clone().unwrap_or_default(), &live.metadata);
    json!({
        "apiVersion": types.api_version, "kind": types.kind,
        "metadata": {"name": meta.name, "resourceVersion": meta.resource_version},
        "spec": {"replicas": replicas},
    })
}

/// Keeps the replicas of a Deployment from being reset when the operator stops setting them.
pub async fn leave_replicas(api: &Api<DynamicObject>, name: &str, wish: &DynamicObject) -> kube::Result<()> {
    // The watch cache does not keep managed fields.
    let Some(live) = api.get_opt(name).await? else { return Ok(()) };
    let Some(replicas) = abandoned(wish, &live) else { return Ok(()) };
    tracing::info!(name, replicas, "releasing the ownership of a pool's replicas");
    let parameters = PatchParams::apply(names::HANDOVER);
    api.patch(name, &parameters, &Patch::Apply(said(&live, replicas))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(replicas: u64, managers: &[&str]) -> DynamicObject {
        let entry = |manager: &&str| {
            json!({"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:replicas": {}}}})
        };
        let mut entries: Vec<Value> = managers.iter().map(entry).collect();
        entries.push(json!({"manager": "kubelet", "fieldsV1": {"f:status": {"f:replicas": {}}}}));
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "resourceVersion": "7", "managedFields": entries},
            "spec": {"replicas": replicas},
        });
        serde_json::from_value(object).expect("an object")
    }

    fn wish(spec: Value) -> DynamicObject {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec});
        serde_json::from_value(object).expect("an object")
    }

    #[test]
    fn what_only_the_operator_said_is_kept() {
        let (silent, says) = (wish(json!({})), wish(json!({"replicas": 4})));
        assert_eq!(abandoned(&silent, &live(5, &[names::OPERATOR])), Some(5));
        assert_eq!(abandoned(&says, &live(5, &[names::OPERATOR])), None);
        assert_eq!(abandoned(&silent, &live(5, &[names::OPERATOR, "autoscaler"])), None, "someone else owns it");
        assert_eq!(abandoned(&silent, &live(5, &[])), None, "the operator does not own it");
        assert_eq!(abandoned(&silent, &live(1, &[names::OPERATOR])), Some(1));
        assert_eq!(abandoned(&silent, &live(0, &[names::OPERATOR])), None, "nothing would ever scale it up");
    }

    #[test]
    fn it_is_said_of_the_version_that_was_seen() {
        let text = said(&live(5, &[]), 5).to_string();
        assert!(text.contains(r#""resourceVersion":"7""#) && text.contains(r#""replicas":5"#), "{text}");
        assert!(!text.contains("managedFields"), "{text}");
    }
}
