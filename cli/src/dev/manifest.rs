//! Reads the manifest of a fleet, and says what of it is not used here.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Container;
use robeing_crds::{
    ManifestError, PodOverrides, Pool, RobeingCluster, RobeingClusterSpec, Secrets, find_cluster,
    limits::MAX_MANIFEST_BYTES,
};

use super::{DevError, runnable, screen::Screen, text::ManifestText};
use crate::inputs::STDIN;

/// The cluster of a manifest, if it can be run here. Other resources beside it are told and ignored.
pub(super) async fn read(path: PathBuf, screen: &mut Screen) -> Result<(RobeingCluster, Secrets), DevError> {
    let file = if path.as_os_str() == STDIN { "on standard input".to_owned() } else { path.display().to_string() };
    // On a thread of its own, because standard input may keep one waiting.
    let read = tokio::task::spawn_blocking(move || read_bytes(&path)).await.map_err(io::Error::other).flatten();
    let unreadable = |error| DevError::Read { file: file.clone(), error };
    let bytes = read.map_err(unreadable)?;
    let refused = |error| DevError::Manifest { file: file.clone(), error: Box::new(error) };
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(refused(ManifestError::TooLarge { bytes: bytes.len() }));
    }
    let text = ManifestText::of(bytes).map_err(unreadable)?;
    let refused = |error| refused(text.in_file(error));
    let manifest = find_cluster(&text.text).map_err(refused)?;
    let problems = runnable::problems(&manifest.cluster.spec, &manifest.secrets);
    if !problems.is_empty() {
        return Err(refused(manifest.refusal(problems)));
    }
    if !manifest.ignored.is_empty() {
        let ignored: Vec<String> = manifest.ignored.iter().map(ToString::to_string).collect();
        screen.note(format!(
            "note: of the manifest {file} only the RobeingCluster is used; ignored: {}",
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
    Ok((manifest.cluster, manifest.secrets))
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
