//! Brings the API server's objects to their desired state: by server-side apply under one field manager, and by
//! deletion of the cluster's objects that are no longer desired. Which call to make is a pure decision; an object that
//! has not changed since the last apply is not touched.

mod error;

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hasher},
    io,
    time::Duration,
};

use error::is;
pub use error::{Error, is_gone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    controller::{build::Desired, observe::Live, release_replicas, repair, requeue},
    names,
    runtime::retry::Refusals,
};

/// For how long after an apply the watch cache may still show the previous state.
pub const CACHE_LAG: Duration = Duration::from_secs(5);
/// A resource version that no object ever has, since the API server's first one is later. An apply with it can create
/// an object, but never changes an existing one.
const NO_VERSION: &str = "1";
/// An annotation that the Deployment controller increments; it is not part of the desired state.
const DEPLOYMENT_REVISION: &str = "deployment.kubernetes.io/revision";

/// Returns the operator's parameters for a server-side apply. It forces conflicts: the operator owns every field it
/// sets.
pub fn field_manager() -> PatchParams {
    PatchParams::apply(names::OPERATOR).force()
}

/// The last apply of an object by this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    desired: u64,
    before: Option<u64>,
    after: u64,
    /// The resource version that was last seen to match `after`, so that it need not be compared again.
    version: Option<String>,
    at: Instant,
}

impl Record {
    /// Returns whether an object has not changed since the apply.
    fn is_of(&self, live: &Live) -> bool {
        let same = self.version.is_some() && self.version == live.object.metadata.resource_version;
        same || self.after == live.fingerprint
    }
}

/// The last applies of a cluster's objects by this process, by kind and name.
pub type Records = BTreeMap<(String, String), Record>;

/// What to do with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do nothing: it has not changed since the last apply.
    Leave,
    /// Wait: it was applied so recently that the cache does not show it yet, or an earlier cluster of the same name
    /// left it and it is about to be deleted.
    Await,
    /// Apply it.
    Apply,
    /// Create it, or read it if it exists: the cache has no object of that name with the operator's label, but there
    /// may be one without the label, which must not be taken over.
    Look,
    /// Refuse it: it belongs to someone else.
    Foreign,
}

/// Decides what to do with an object. `wish` is the fingerprint of the desired object, `live` the object in the cache,
/// and `owner` the uid of the cluster.
pub fn judge(
    (desired, wish): (&DynamicObject, u64),
    live: Option<&Live>,
    record: Option<&Record>,
    owner: &str,
    now: Instant,
) -> Verdict {
    let same_wish = record.filter(|record| record.desired == wish);
    let lagging = |record: &&Record| now.duration_since(record.at) < CACHE_LAG;
    let Some(live) = live else {
        return if same_wish.is_some_and(|record| lagging(&record)) { Verdict::Await } else { Verdict::Look };
    };
    if !is_ours(live, owner, disks(desired)) {
        return if is_leftover(&live.object, desired) { Verdict::Await } else { Verdict::Foreign };
    }
    match same_wish {
        Some(record) if record.is_of(live) => Verdict::Leave,
        Some(record) if lagging(&record) && record.before == Some(live.fingerprint) => Verdict::Await,
        _ => Verdict::Apply,
    }
}

/// Returns whether the cluster with this uid controls the object with this metadata.
pub fn is_owned(metadata: &ObjectMeta, owner: &str) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|reference| reference.controller == Some(true) && reference.uid == owner)
}

/// Returns whether an object with a cluster's labels belongs to that cluster: the cluster controls it, or no one
/// controls it and the operator has applied it before, which means that its owner was removed manually. `wished` is the
/// result of [`disks`] for the desired object: a StatefulSet with other disks can't be changed to have these.
pub fn is_ours(live: &Live, owner: &str, wished: Option<Option<&str>>) -> bool {
    is_owned(&live.object.metadata, owner)
        || (live.applied && is_uncontrolled(&live.object) && disks(&live.object) == wished)
}

/// Returns whether an object has no controller.
pub(crate) fn is_uncontrolled(object: &DynamicObject) -> bool {
    object.owner_references().iter().all(|reference| reference.controller != Some(true))
}

/// Returns the storage class of the disks that a StatefulSet creates (`Some(None)` if it names no class); `None` if it
/// creates no disks.
fn disks(object: &DynamicObject) -> Option<Option<&str>> {
    let claim = object.data.pointer("/spec/volumeClaimTemplates/0")?;
    Some(claim.pointer("/spec/storageClassName").and_then(serde_json::Value::as_str))
}

/// Returns whether the operator is one of the object's field managers.
pub fn is_applied(object: &DynamicObject) -> bool {
    object
        .managed_fields()
        .iter()
        .any(|entry| entry.manager.as_deref() == Some(names::OPERATOR) && entry.operation.as_deref() == Some("Apply"))
}

/// Returns whether an object belongs to an earlier cluster of the same name, so that the garbage collector will delete
/// it.
fn is_leftover(live: &DynamicObject, desired: &DynamicObject) -> bool {
    controller(desired).is_some_and(|(kind, name)| is_left_by(live, kind, name))
}

/// Returns whether an object that does not belong to this cluster belongs to an earlier one of this kind and name.
pub(crate) fn is_left_by(live: &DynamicObject, kind: &str, name: &str) -> bool {
    controller(live) == Some((kind, name))
}

fn controller(object: &DynamicObject) -> Option<(&str, &str)> {
    let owner = object.owner_references().iter().find(|reference| reference.controller == Some(true))?;
    Some((&owner.kind, &owner.name))
}

/// Returns whether two objects have the labels of the same cluster.
fn is_of_one_cluster(one: &DynamicObject, other: &DynamicObject) -> bool {
    [names::LABEL_NAME, names::LABEL_INSTANCE]
        .iter()
        .all(|label| one.labels().get(*label) == other.labels().get(*label))
}

/// Returns a number that changes whenever a part of the object changes that an apply could set.
pub fn fingerprint(object: &DynamicObject) -> u64 {
    let meta = &object.metadata;
    let annotations: Vec<_> = object.annotations().iter().filter(|(key, _)| *key != DEPLOYMENT_REVISION).collect();
    let fields: Vec<_> = object.data.as_object().into_iter().flatten().filter(|(name, _)| *name != "status").collect();
    fingerprint_of(&(&meta.labels, annotations, &meta.owner_references, &meta.deletion_timestamp, fields))
}

/// Returns a number that changes whenever the serialized value changes.
pub(crate) fn fingerprint_of(told: &impl Serialize) -> u64 {
    let mut hashing = Hashing::default();
    // This can't fail: neither the writer nor the keys do, which are all strings.
    let _ = serde_json::to_writer(&mut hashing, told);
    hashing.0.finish()
}

/// Hashes what is written without keeping a copy, since this is done for every object in every reconciliation.
#[derive(Default)]
struct Hashing(DefaultHasher);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The result of applying.
#[derive(Debug, Default)]
pub struct Applied {
    /// The failures.
    pub errors: Vec<Error>,
    /// Whether something was changed now, or so recently that the cache does not show it yet.
    pub changing: bool,
}

/// Does `work` unless it was refused recently, and records the refusal if it is refused now. `wish` returns a number
/// that identifies the request; since computing it takes time, it is called only where something is or was refused.
pub async fn unless_refused<T>(
    refusals: &mut Refusals,
    (kind, name, wish): (&str, &str, impl Fn() -> u64),
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if refusals.knows(kind, name)
        && let Some(refusal) = refusals.of(kind, name, wish(), Instant::now())
    {
        return Err(Error::Again { sentence: refusal.sentence.clone(), foreign: refusal.foreign });
    }
    let done = work.await;
    match &done {
        Ok(_) => refusals.done(kind, name),
        Err(error) if error.is_unreachable() => {}
        Err(error) => {
            let refused = (error.is_foreign(), error.to_string());
            refusals.note((kind, name, wish()), refused, Instant::now(), requeue::chance());
        }
    }
    done
}

/// Returns whether a workload depends on an object that belongs to someone else: on the ServiceAccount that it would
/// run as, or on the Service through which it would reach its coordinators.
fn rests_on(wish: &DynamicObject, foreign: &HashSet<(String, String)>) -> bool {
    let Some(pod) = wish.data.pointer("/spec/template/spec") else { return false };
    let account = pod.get("serviceAccountName").and_then(serde_json::Value::as_str).unwrap_or_default();
    foreign.iter().any(|(kind, name)| kind == "Service" || (kind == "ServiceAccount" && name == account))
}

/// The cluster whose objects are applied, and where they are applied.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The client of the API server.
    pub client: &'a Client,
    /// The cluster's namespace.
    pub namespace: &'a str,
    /// The cluster's uid.
    pub owner: &'a str,
}

impl Target<'_> {
    /// Applies the desired objects and deletes the orphans, except those whose names are in `kept`. A failure does not
    /// prevent the other objects from being applied, unless the API server is unreachable; a workload is not created if
    /// it depends on an object of someone else.
    pub async fn apply(
        self,
        desired: &[Desired],
        live: &[Live],
        kept: &HashSet<String>,
        records: &mut Records,
        refusals: &mut Refusals,
    ) -> Applied {
        let mut applied = Applied::default();
        let mut foreign = HashSet::new();
        for wish in desired {
            let (kind, name) = (wish.kind.kind.as_str(), wish.name());
            let found = live.iter().find(|live| *live.kind == *kind && live.object.name_any() == name);
            if found.is_none() && rests_on(&wish.object, &foreign) {
                continue;
            }
            // This is done for every object in every reconciliation, so only once.
            let desired = fingerprint(&wish.object);
            let asked = || asked(desired, found);
            let was_refused = refusals.knows(kind, name);
            let work = apply_one(self, (wish, desired), found, was_refused, records);
            match unless_refused(refusals, (kind, name, asked), work).await {
                Ok(changing) => applied.changing |= changing,
                // The other owner's object is sufficient.
                Err(error) if error.is_foreign() && wish.yields => {}
                Err(error) => {
                    let unreachable = error.is_unreachable();
                    if error.is_foreign() {
                        foreign.insert((kind.to_owned(), name.to_owned()));
                    }
                    applied.errors.push(error);
                    if unreachable {
                        return applied;
                    }
                }
            }
        }
        self.delete_orphans(desired, live, kept, records, refusals, &mut applied).await;
        applied
    }

    async fn delete_orphans(
        self,
        desired: &[Desired],
        live: &[Live],
        kept: &HashSet<String>,
        records: &mut Records,
        refusals: &mut Refusals,
        applied: &mut Applied,
    ) {
        let wanted: HashSet<(&str, &str)> = desired.iter().map(|wish| (wish.kind.kind.as_str(), wish.name())).collect();
        for orphan in live {
            let (object, name) = (&orphan.object, orphan.object.name_any());
            let stays = wanted.contains(&(&*orphan.kind, name.as_str())) || kept.contains(&name);
            if stays || object.metadata.deletion_timestamp.is_some() || !is_owned(&object.metadata, self.owner) {
                continue;
            }
            records.remove(&(orphan.kind.to_string(), name.clone()));
            applied.changing = true;
            // No desired object has this number.
            let work = delete(self.client, self.namespace, orphan);
            if let Err(error) = unless_refused(refusals, (&orphan.kind, &name, || 0), work).await {
                applied.errors.push(error);
            }
        }
    }
}

/// Returns a number that identifies a desired object together with the current state of the object.
fn asked(desired: u64, live: Option<&Live>) -> u64 {
    desired ^ live.map_or(0, |live| live.fingerprint).rotate_left(1)
}

/// Applies one object if necessary. Returns whether it was changed now or very recently.
async fn apply_one(
    target: Target<'_>,
    (wish, desired): (&Desired, u64),
    live: Option<&Live>,
    was_refused: bool,
    records: &mut Records,
) -> Result<bool, Error> {
    let Target { client, namespace, owner } = target;
    let (kind, name) = (&wish.kind.kind, wish.name());
    let key = (kind.clone(), name.to_owned());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &wish.kind);
    let foreign = || Error::Foreign { kind: kind.clone(), name: name.to_owned() };
    let mut applied = None;
    match judge((&wish.object, desired), live, records.get(&key), owner, Instant::now()) {
        Verdict::Leave => {
            if let (Some(record), Some(live)) = (records.get_mut(&key), live) {
                record.version.clone_from(&live.object.metadata.resource_version);
            }
            return Ok(false);
        }
        Verdict::Await => return Ok(true),
        Verdict::Foreign => return Err(foreign()),
        Verdict::Apply => {}
        Verdict::Look => {
            // There is almost never such an object. If the request was refused before, the object is read first.
            if !was_refused {
                let made = make(&api, name, &wish.object).await;
                applied = made.map_err(|error| Error::of("apply", kind, name, error))?;
            }
            if applied.is_none() {
                let found = api.get_opt(name).await.map_err(|error| Error::of("read", kind, name, error))?;
                let found = found.map(|found| Live::new(kind, found)).filter(|found| {
                    let is_taken = is_of_one_cluster(&found.object, &wish.object);
                    !(is_owned(&found.object.metadata, owner) || is_taken && is_ours(found, owner, disks(&wish.object)))
                });
                match found {
                    Some(found) if is_leftover(&found.object, &wish.object) => return Ok(true),
                    Some(_) => return Err(foreign()),
                    None => {}
                }
            }
        }
    }
    let applied = match applied {
        Some(made) => made,
        None => {
            // Without a record, this process can't know whether someone else has changed the object.
            let drifted = records.get(&key).is_none_or(|record| record.desired == desired);
            change(&api, wish, live, drifted).await?
        }
    };
    let (before, after) = (live.map(|live| live.fingerprint), fingerprint(&applied));
    let changed = before != Some(after);
    if changed {
        tracing::info!(kind, name, namespace, "applied");
    }
    let version = applied.resource_version();
    records.insert(key, Record { desired, before, after, version, at: Instant::now() });
    Ok(changed)
}

/// Creates an object, unless one of that name exists.
async fn make(api: &Api<DynamicObject>, name: &str, wish: &DynamicObject) -> kube::Result<Option<DynamicObject>> {
    let mut wish = wish.clone();
    wish.metadata.resource_version = Some(NO_VERSION.to_owned());
    match api.patch(name, &field_manager(), &Patch::Apply(wish)).await {
        Err(kube::Error::Api(status)) if is(&status, 409) => Ok(None),
        made => made.map(Some),
    }
}

/// Applies an object that may exist.
async fn change(
    api: &Api<DynamicObject>,
    wish: &Desired,
    live: Option<&Live>,
    drifted: bool,
) -> Result<DynamicObject, Error> {
    let (kind, name) = (&wish.kind.kind, wish.name());
    let says_replicas = |object: &DynamicObject| object.data.pointer("/spec/replicas").is_some();
    if live.is_some_and(|live| says_replicas(&live.object)) && !says_replicas(&wish.object) {
        let left = release_replicas::leave_replicas(api, name, &wish.object).await;
        left.map_err(|error| Error::of("release the replicas of", kind, name, error))?;
    }
    let mut applied = repair::apply(api, name, &wish.object, live.is_some(), drifted).await;
    if applied.as_ref().is_err_and(repair::is_invalid) && live.is_some() {
        applied = match remake(api, name, &wish.object).await {
            Ok(Some(made)) => Ok(made),
            // The error of the apply describes the problem.
            Ok(None) => applied,
            Err(error) => Err(error),
        };
    }
    applied.map_err(|error| Error::of("apply", kind, name, error))
}

/// Recreates an object that someone made immutable, which can't be undone. Pods read it only when they start.
async fn remake(api: &Api<DynamicObject>, name: &str, wish: &DynamicObject) -> kube::Result<Option<DynamicObject>> {
    let Some(live) = api.get_opt(name).await? else { return Ok(None) };
    if live.data.get("immutable") != Some(&serde_json::Value::Bool(true)) {
        return Ok(None);
    }
    tracing::info!(name, "recreating an object that was made immutable");
    let only = Preconditions { uid: live.uid(), resource_version: live.resource_version() };
    api.delete(name, &DeleteParams::background().preconditions(only)).await?;
    make(api, name, wish).await
}

async fn delete(client: &Client, namespace: &str, orphan: &Live) -> Result<(), Error> {
    let name = orphan.object.name_any();
    let Some(resource) =
        crate::runtime::stores::OWNED.iter().map(|kind| kind()).find(|resource| *resource.kind == *orphan.kind)
    else {
        return Ok(());
    };
    tracing::info!(kind = &*orphan.kind, name, "deleting an object that is no longer desired");
    delete_exactly(client, namespace, &resource, &name, orphan.object.uid()).await
}

/// Deletes the object of that name if it still has this uid. Succeeds if it is already gone.
pub async fn delete_exactly(
    client: &Client,
    namespace: &str,
    resource: &ApiResource,
    name: &str,
    uid: Option<String>,
) -> Result<(), Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let only = Preconditions { uid, resource_version: None };
    match api.delete(name, &DeleteParams::background().preconditions(only)).await {
        Err(error) if !is_gone(&error) => Err(Error::of("delete", &resource.kind, name, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
