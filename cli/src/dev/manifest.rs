//! Reads the manifest of a fleet, and reports what is not used here.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Container;
use robeing_crds::{
    Ignored, ManifestError, PodOverrides, Pool, RobeingCluster, RobeingClusterSpec, find_cluster,
    limits::MAX_MANIFEST_BYTES,
};

use super::{
    DevError, messengers, runnable,
    screen::Screen,
    secrets::{SECRET, Secrets},
    text::ManifestText,
};
use crate::inputs::STDIN;

/// Reads the cluster of a manifest, and checks that it can run here. Other resources, except the Secrets that it refers
/// to, are ignored with a note.
pub(super) async fn read(path: PathBuf, screen: &mut Screen) -> Result<(RobeingCluster, Secrets), DevError> {
    let file = if path.as_os_str() == STDIN { "on standard input".to_owned() } else { path.display().to_string() };
    // On a blocking thread, because reading standard input can block.
    let read = tokio::task::spawn_blocking(move || read_bytes(&path)).await.map_err(io::Error::other).flatten();
    let unreadable = |error| DevError::Read { file: file.clone(), error };
    let bytes = read.map_err(unreadable)?;
    let refused = |error| DevError::Manifest { file: file.clone(), error: Box::new(error) };
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(refused(ManifestError::TooLarge));
    }
    let text = ManifestText::of(bytes).map_err(unreadable)?;
    let refused = |error| refused(text.in_file(error));
    let manifest = find_cluster(&text.text).map_err(refused)?;
    let secrets = Secrets::of_manifest(&text.text);
    let problems = runnable::problems(&manifest.cluster.spec, &secrets);
    if !problems.is_empty() {
        return Err(refused(manifest.refusal(problems)));
    }
    let named = named_secrets(&manifest.cluster.spec);
    let is_used = |other: &&Ignored| other.kind == SECRET && named.contains(other.name.as_str());
    let (used, ignored): (Vec<&Ignored>, Vec<&Ignored>) = manifest.ignored.iter().partition(is_used);
    if !ignored.is_empty() {
        let ignored: Vec<String> = ignored.iter().map(ToString::to_string).collect();
        screen.note(format!(
            "note: in the manifest {file}, only the RobeingCluster is used{}; ignored: {}",
            if used.is_empty() { "" } else { ", with the Secrets that its headers and webhooks refer to" },
            ignored.join(", ")
        ));
    }
    let pools = shaped_for_pods(&manifest.cluster.spec);
    if !pools.is_empty() {
        screen.note(format!(
            "note: tasks run here as this user, in this environment and directory; `template` and `container` only \
             apply on Kubernetes; they are set in pool {}",
            pools.join(", ")
        ));
    }
    if !manifest.cluster.spec.teams.is_empty() {
        screen.note("note: `spec.teams` only applies on Kubernetes; form teams here by `robeing team form`");
    }
    if manifest.cluster.spec.storage.is_some() {
        screen.note(
            "note: `spec.storage` only applies on Kubernetes; large inputs and outputs are in the data directory here",
        );
    }
    for note in messengers::notes(&manifest.cluster.spec.gateway, &secrets) {
        screen.note(format!("note: {note}"));
    }
    Ok((manifest.cluster, secrets))
}

/// Returns the names of the Secrets that headers and webhooks refer to.
fn named_secrets(spec: &RobeingClusterSpec) -> BTreeSet<&str> {
    let of_executors = spec.pools.iter().flat_map(|pool| pool.executor.secrets());
    of_executors.chain(spec.gateway.secrets()).map(|(_, key)| key.name.as_str()).collect()
}

/// Returns the pools that specify more about their pods than the image.
fn shaped_for_pods(spec: &RobeingClusterSpec) -> Vec<&str> {
    let says_more = |pool: &&Pool| {
        let container = pool.container.clone().map(|container| Container { image: None, ..container });
        pool.template.as_ref().is_some_and(|template| *template != PodOverrides::default())
            || container.is_some_and(|container| container != Container::default())
    };
    spec.pools.iter().filter(says_more).map(|pool| pool.name.as_str()).collect()
}

/// Reads a manifest, stopping one byte over the limit.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MAX_MANIFEST_BYTES as u64 + 1;
    if path.as_os_str() == STDIN {
        io::stdin().lock().take(most).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
