//! Leaves the size of a pool to others. What one field manager stops to say, and nobody else says, falls back to its default: a
//! pool whose size is taken out of the spec would shrink to one agent until an autoscaler comes. So its size is first said once
//! more under another name, which is never used for anything else, and stays until somebody changes it.

use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::names;

/// The replicas that only this operator speaks for and the next apply no longer says. None where there is nothing to keep:
/// also a pool of no agents, which autoscalers leave as it is, falls back to one.
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

/// What is said under the other name, and only of the version that was seen.
fn said(live: &DynamicObject, replicas: u64) -> Value {
    let (types, meta) = (live.types.clone().unwrap_or_default(), &live.metadata);
    json!({
        "apiVersion": types.api_version, "kind": types.kind,
        "metadata": {"name": meta.name, "resourceVersion": meta.resource_version},
        "spec": {"replicas": replicas},
    })
}

/// Keeps the replicas of a Deployment from falling back when the operator stops to say them.
pub async fn leave_replicas(api: &Api<DynamicObject>, name: &str, wish: &DynamicObject) -> kube::Result<()> {
    // The watch cache does not keep who says what.
    let Some(live) = api.get_opt(name).await? else { return Ok(()) };
    let Some(replicas) = abandoned(wish, &live) else { return Ok(()) };
    tracing::info!(name, replicas, "leaving the size of a pool to others");
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
        assert_eq!(abandoned(&silent, &live(5, &[names::OPERATOR, "autoscaler"])), None, "somebody speaks for it");
        assert_eq!(abandoned(&silent, &live(5, &[])), None, "it is not the operator's");
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
