//! Repairs what a server-side apply alone can't. Apply merges lists by keys: an entry whose key was changed manually is
//! a different entry, which remains beside the operator's own, and either takes effect or makes the API server refuse
//! both. Likewise, if two fields exclude each other, one that was set manually remains when the operator's is restored.
//! So the lists of such an object, or its whole spec, are first brought to their desired state by a patch of another
//! field manager, which owns none of it in the end. What to patch is a pure decision.

use kube::{
    Api, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Map, Value, json};

use crate::{controller::apply, names};

/// Lists that the API server merges, and the keys of their entries.
const KEYED: [(&str, &[&str]); 9] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    // Those of a Service and of a container.
    ("ports", &["port", "containerPort", "protocol"]),
];
/// Fields that an object keeps as the API server first set them.
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

/// How often an object is looked at and written before a conflict with other writers is an error of this reconciliation.
const MAX_TRIES: u32 = 5;

/// How much of an object is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Removes the entries of others that displace the operator's own from lists.
    Lists,
    /// Removes everything that is not the operator's from the spec.
    Spec,
}

/// Applies an object. `exists` means that it exists, and `drifted` that someone else has changed it since the last
/// apply.
pub(crate) async fn apply(
    api: &Api<DynamicObject>,
    name: &str,
    wish: &DynamicObject,
    exists: bool,
    drifted: bool,
) -> kube::Result<DynamicObject> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_to_apply(api, name, wish, exists, drifted).await {
            // Someone else, such as the Deployment controller, wrote between the look and the write.
            Err(error) if is_conflict(&error) && tries < MAX_TRIES => {}
            applied => return applied,
        }
    }
}

async fn try_to_apply(
    api: &Api<DynamicObject>,
    name: &str,
    wish: &DynamicObject,
    exists: bool,
    drifted: bool,
) -> kube::Result<DynamicObject> {
    let mut repaired = false;
    let mut applied = if drifted && exists {
        // The watch cache does not keep the fields that may be displaced.
        let mut live = api.get_opt(name).await?;
        if live.as_ref().is_some_and(|live| is_displaced(&wish.data, &live.data)) {
            match replace(api, name, wish, Depth::Lists).await {
                Ok(Some(restored)) => live = Some(restored),
                Err(error) if is_conflict(&error) => return Err(error),
                // The apply below decides.
                Ok(None) | Err(_) => {}
            }
            repaired = true;
        }
        // An apply to another version than that one would restore the operator's entry beside the one that displaced it,
        // which then looks like one that somebody has added, and stays.
        let mut wish = wish.clone();
        wish.metadata.resource_version = live.and_then(|live| live.metadata.resource_version);
        patch(api, name, &wish).await
    } else {
        patch(api, name, wish).await
    };
    for depth in [Depth::Lists, Depth::Spec] {
        if !exists || !applied.as_ref().is_err_and(is_invalid) {
            break;
        }
        match replace(api, name, wish, depth).await {
            Ok(Some(_)) => {
                repaired = true;
                applied = patch(api, name, wish).await;
            }
            Err(error) if is_conflict(&error) => return Err(error),
            Ok(None) | Err(_) => {}
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

/// Returns whether the API server rejects the object as invalid.
pub(crate) fn is_invalid(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 422)
}

/// Returns whether the object has another version than the one that was to be written.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Brings an object to its desired state, to this depth. Returns it as it is then; `None` if there was nothing to do.
async fn replace(
    api: &Api<DynamicObject>,
    name: &str,
    wish: &DynamicObject,
    depth: Depth,
) -> kube::Result<Option<DynamicObject>> {
    // The watch cache may lag, and a patch of an older version must not undo a newer one.
    let Some(live) = api.get_opt(name).await? else { return Ok(None) };
    let same_owner = wish.owner_references().iter().all(|owner| live.owner_references().contains(owner));
    let is_ours = same_owner || apply::is_uncontrolled(&live);
    let Some(mut patch) = difference(&live.data, &target(wish, &live, depth)).filter(|_| is_ours) else {
        return Ok(None);
    };
    tracing::info!(name, ?depth, "repairing what an apply alone does not restore");
    patch["metadata"]["resourceVersion"] = json!(live.metadata.resource_version);
    if depth == Depth::Spec {
        patch["metadata"]["ownerReferences"] = json!(wish.metadata.owner_references);
    }
    let parameters = PatchParams { field_manager: Some(names::REPAIR.into()), ..PatchParams::default() };
    api.patch(name, &parameters, &Patch::Merge(patch)).await.map(Some)
}

/// Removes the field manager of the repair: the operator must be the only owner of the fields it applies, so that they
/// are removed when it stops setting them.
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
        // The two managers then share the fields, which matters only when the operator stops setting them.
        Err(_) => applied,
    }
}

/// Returns whether a list contains an entry of others in place of one of the operator's.
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

/// Returns the keys and the entries of a list that is merged.
fn entries<'a>(field: &str, value: &'a Value) -> Option<(&'static [&'static str], &'a Vec<Value>)> {
    let (_, keys) = KEYED.iter().find(|(known, _)| *known == field)?;
    // A list whose entries lack these keys may have the same name.
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

/// Returns what the data of an object should become.
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

/// Returns the desired spec, with the fields that the API server or an autoscaler set.
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

/// Returns the desired value, with everything else that exists. In lists, other entries remain only where nothing is
/// displaced.
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

/// Returns the merge patch that turns `from` into `to`; `None` if they are equal.
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
