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
    for part in kept_by_the_operator(&manifest.cluster.spec) {
        screen.note(format!("note: {part}"));
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

/// Returns what is said of the parts of the spec that only the operator keeps.
fn kept_by_the_operator(spec: &RobeingClusterSpec) -> Vec<&'static str> {
    let parts = [
        (
            spec.teams.is_empty(),
            "no teams are formed here: `spec.teams` applies on Kubernetes; see `robeing team form`",
        ),
        (
            spec.schedules.is_empty(),
            "no schedules are set here: `spec.schedules` applies on Kubernetes; see `robeing schedule set`",
        ),
    ];
    parts.into_iter().filter(|(is_empty, _)| !is_empty).map(|(_, note)| note).collect()
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

#[cfg(test)]
mod tests {
    use robeing_crds::parse_manifest;

    use super::*;

    #[test]
    fn it_is_said_that_teams_and_schedules_are_kept_on_kubernetes_alone() {
        let notes = |spec: &str| {
            let head = "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: c}\n";
            let cluster = parse_manifest(&format!("{head}spec: {spec}\n")).unwrap_or_else(|error| panic!("{error}"));
            kept_by_the_operator(&cluster.spec)
        };
        assert_eq!(notes("{}"), Vec::<&str>::new());
        let team = "teams: [{name: a, purpose: p, size: 1}]";
        let schedule = "schedules: [{name: a, cron: '@daily', task: {kind: k}}]";
        let both = notes(&format!("{{{team}, {schedule}}}"));
        assert!(both[0].contains("robeing team form") && both[1].contains("robeing schedule set"), "{both:?}");
        assert_eq!(notes(&format!("{{{schedule}}}")).len(), 1);
    }
}
