//! Puts back what a server-side apply alone can't. It merges lists by keys: an entry whose key was changed by hand is another
//! one, which stays beside the operator's own, in force or so that the API server refuses both. And of fields that exclude each
//! other, a hand's stays when the operator's comes back. So the lists of such an object, or its whole spec, are first made what
//! they should be, by a patch of another field manager, which owns nothing of it in the end. What to patch is a pure decision.

use kube::{
    Api, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Map, Value, json};

use crate::{apply, names};

/// Lists that the API server merges, and what tells their entries apart.
const KEYED: [(&str, &[&str]); 9] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    // Of a Service, and of a container.
    ("ports", &["port", "containerPort", "protocol"]),
];
/// What the API server gave an object for good.
const GIVEN: [&str; 10] = [
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "internalTrafficPolicy",
    "sessionAffinity",
    "volumeClaimTemplates",
    "serviceName",
    "podManagementPolicy",
    "selector",
];

/// How much of an object is made what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Lists lose the entries that others have in place of the operator's own.
    Lists,
    /// The spec loses everything that is not the operator's.
    Spec,
}

/// Applies an object. `exists` says that there is one, and `drifted` that somebody else changed it since the last apply.
pub(crate) async fn apply(
    api: &Api<DynamicObject>,
    name: &str,
    wish: &DynamicObject,
    exists: bool,
    drifted: bool,
) -> kube::Result<DynamicObject> {
    let mut repaired = false;
    if drifted && exists {
        // The watch cache does not keep what is displaced.
        repaired = api.get_opt(name).await?.is_some_and(|live| is_displaced(&wish.data, &live.data));
    }
    if repaired {
        // Whether it was taken or not, the apply decides.
        let _ = replace(api, name, wish, Depth::Lists).await;
    }
    let mut applied = patch(api, name, wish).await;
    for depth in [Depth::Lists, Depth::Spec] {
        if !exists || !applied.as_ref().is_err_and(is_invalid) {
            break;
        }
        if let Ok(true) = replace(api, name, wish, depth).await {
            repaired = true;
            applied = patch(api, name, wish).await;
        }
    }
    match applied {
        Ok(applied) if repaired => Ok(forget_repair(api, name, applied).await),
        applied => applied,
    }
}

async fn patch(api: &Api<DynamicObject>, name: &str, wish: &DynamicObject) -> kube::Result<DynamicObject> {
    api.patch(name, &apply::field_manager(), &Patch::Apply(wish)).await
}

/// Whether the API server says that an object of this form can't be.
pub(crate) fn is_invalid(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 422)
}

/// Makes an object what it should be, to this depth; whether there was anything to do.
async fn replace(api: &Api<DynamicObject>, name: &str, wish: &DynamicObject, depth: Depth) -> kube::Result<bool> {
    // The watch cache may be behind, and a patch of an older version must not undo a newer one.
    let Some(live) = api.get_opt(name).await? else { return Ok(false) };
    let same_owner = wish.owner_references().iter().all(|owner| live.owner_references().contains(owner));
    let is_ours = same_owner || apply::is_uncontrolled(&live);
    let Some(mut patch) = difference(&live.data, &target(wish, &live, depth)).filter(|_| is_ours) else {
        return Ok(false);
    };
    tracing::info!(name, ?depth, "putting back what an apply alone does not");
    patch["metadata"]["resourceVersion"] = json!(live.metadata.resource_version);
    if depth == Depth::Spec {
        patch["metadata"]["ownerReferences"] = json!(wish.metadata.owner_references);
    }
    let parameters = PatchParams { field_manager: Some(names::REPAIR.into()), ..PatchParams::default() };
    api.patch(name, &parameters, &Patch::Merge(patch)).await.map(|_| true)
}

/// What the operator applies it owns alone, so that it goes when the operator stops saying it.
async fn forget_repair(api: &Api<DynamicObject>, name: &str, applied: DynamicObject) -> DynamicObject {
    let managers = applied.metadata.managed_fields.iter().flatten();
    let others: Vec<_> = managers.filter(|entry| entry.manager.as_deref() != Some(names::REPAIR)).collect();
    if others.len() == applied.metadata.managed_fields.iter().flatten().count() {
        return applied;
    }
    let patch = json!({"metadata": {"managedFields": others, "resourceVersion": applied.metadata.resource_version}});
    let parameters = PatchParams { field_manager: Some(names::REPAIR.into()), ..PatchParams::default() };
    match api.patch(name, &parameters, &Patch::Merge(patch)).await {
        Ok(patched) => patched,
        // It owns it together with another name then, which matters only when the fleet stops having it.
        Err(_) => applied,
    }
}

/// Whether a list holds an entry of others in place of one of the operator's.
pub(crate) fn is_displaced(wish: &Value, live: &Value) -> bool {
    let (Some(wish), Some(live)) = (wish.as_object(), live.as_object()) else { return false };
    wish.iter().filter(|(field, _)| *field != "volumeClaimTemplates").any(|(field, wished)| {
        let Some(found) = live.get(field) else { return false };
        match (entries(field, wished), entries(field, found)) {
            (Some((keys, wished)), Some((_, found))) => {
                let lacks = wished.iter().any(|entry| of_key(keys, found, entry).is_none());
                let strange = found.iter().any(|entry| of_key(keys, wished, entry).is_none());
                let within = |entry: &Value| of_key(keys, found, entry).is_some_and(|found| is_displaced(entry, found));
                (lacks && strange) || wished.iter().any(within)
            }
            _ => is_displaced(wished, found),
        }
    })
}

/// The entries of a list that is merged, and their keys.
fn entries<'a>(field: &str, value: &'a Value) -> Option<(&'static [&'static str], &'a Vec<Value>)> {
    let (_, keys) = KEYED.iter().find(|(known, _)| *known == field)?;
    // A list of something else may have the name, such as the ports of a rule.
    let list = value.as_array().filter(|list| list.iter().all(|entry| key(keys, entry).iter().any(Option::is_some)))?;
    Some((keys, list))
}

fn of_key<'a>(keys: &[&str], list: &'a [Value], like: &Value) -> Option<&'a Value> {
    list.iter().find(|entry| key(keys, entry) == key(keys, like))
}

fn key(keys: &[&str], entry: &Value) -> Vec<Option<Value>> {
    let default = |name: &str| (name == "protocol" && entry.is_object()).then(|| json!("TCP"));
    let of = |name: &&str| entry.get(*name).cloned().or_else(|| default(name));
    keys.iter().map(of).collect()
}

/// What the data of an object should become.
fn target(wish: &DynamicObject, live: &DynamicObject, depth: Depth) -> Value {
    match depth {
        Depth::Lists => merged(&wish.data, &live.data),
        Depth::Spec => {
            let mut target = merged(&wish.data, &live.data);
            if let Some(spec) = wish.data.get("spec") {
                target["spec"] = alone(spec, live.data.get("spec").unwrap_or(&Value::Null));
            }
            target
        }
    }
}

/// A spec as it is wished, with what the API server or an autoscaler gave it.
fn alone(wish: &Value, live: &Value) -> Value {
    let mut spec = wish.clone();
    let given = GIVEN.iter().chain(&["replicas"]).filter_map(|field| Some((*field, live.get(*field)?)));
    for (field, value) in given {
        let keeps = spec.get(field).is_none() || ["volumeClaimTemplates"].contains(&field);
        if keeps && let Some(spec) = spec.as_object_mut() {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    spec
}

/// What is wished, with what else there is but in lists: there only where nothing is displaced.
fn merged(wish: &Value, live: &Value) -> Value {
    let (Some(wished), Some(found)) = (wish.as_object(), live.as_object()) else { return wish.clone() };
    let mut whole = found.clone();
    for (field, wished) in wished {
        let value = match (entries(field, wished), found.get(field)) {
            (_, Some(found)) if field == "volumeClaimTemplates" => found.clone(),
            (Some((keys, wished)), Some(found)) if found.is_array() => {
                let found = found.as_array().map_or(&[][..], Vec::as_slice);
                merged_list(keys, wished, found)
            }
            (_, Some(found)) => merged(wished, found),
            (_, None) => wished.clone(),
        };
        whole.insert(field.clone(), value);
    }
    Value::Object(whole)
}

fn merged_list(keys: &[&str], wished: &[Value], found: &[Value]) -> Value {
    let lacks = wished.iter().any(|entry| of_key(keys, found, entry).is_none());
    let ours =
        wished.iter().map(|entry| of_key(keys, found, entry).map_or(entry.clone(), |found| merged(entry, found)));
    let strange = found.iter().filter(|entry| !lacks && of_key(keys, wished, entry).is_none()).cloned();
    ours.chain(strange).collect()
}

/// The merge patch that makes one of the other; `None`: they are the same.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    let (Some(from), Some(to)) = (from.as_object(), to.as_object()) else {
        return (from != to).then(|| to.clone());
    };
    let mut patch = Map::new();
    for (field, value) in to {
        let changed = match from.get(field) {
            Some(known) => difference(known, value),
            None => Some(value.clone()),
        };
        patch.extend(changed.map(|changed| (field.clone(), changed)));
    }
    patch.extend(from.keys().filter(|field| !to.contains_key(*field)).map(|field| (field.clone(), Value::Null)));
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests;
