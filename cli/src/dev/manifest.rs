//! Reads the manifest of a fleet, and says what of it is not used here.

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
    DevError, runnable,
    screen::Screen,
    secrets::{SECRET, Secrets},
    text::ManifestText,
};
use crate::inputs::STDIN;

/// The cluster of a manifest, if it can be run here. Other resources beside it, but for the Secrets that it
/// names, are reported and ignored.
pub(super) async fn read(path: PathBuf, screen: &mut Screen) -> Result<(RobeingCluster, Secrets), DevError> {
    let file = if path.as_os_str() == STDIN { "on standard input".to_owned() } else { path.display().to_string() };
    // On a thread of its own, because standard input may keep one waiting.
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
            "note: of the manifest {file} only the RobeingCluster is used{}; ignored: {}",
            if used.is_empty() { "" } else { ", with the Secrets that its headers name" },
            ignored.join(", ")
        ));
    }
    let pools = shaped_for_pods(&manifest.cluster.spec);
    if !pools.is_empty() {
        screen.note(format!(
            "note: here tasks run as this user, with this environment and directory; what else `template` and `container` say is for \
             Kubernetes: pool {}",
            pools.join(", ")
        ));
    }
    Ok((manifest.cluster, secrets))
}

/// The names of the Secrets that headers have their values from.
fn named_secrets(spec: &RobeingClusterSpec) -> BTreeSet<&str> {
    spec.pools.iter().flat_map(|pool| pool.executor.secrets()).map(|(_, key)| key.name.as_str()).collect()
}

/// The pools that say more of their pods than which image.
fn shaped_for_pods(spec: &RobeingClusterSpec) -> Vec<&str> {
    let says_more = |pool: &&Pool| {
        let container = pool.container.clone().map(|container| Container { image: None, ..container });
        pool.template.as_ref().is_some_and(|template| *template != PodOverrides::default())
            || container.is_some_and(|container| container != Container::default())
    };
    spec.pools.iter().filter(says_more).map(|pool| pool.name.as_str()).collect()
}

/// The bytes of a manifest, no more than shows that they are too many.
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
