//! Installs Robeing's charts as a user does, and removes them with everything that they leave.

use std::path::Path;

use anyhow::{Context as _, Result};
use devkube::TestCluster;

use super::image::FIRST;

/// The namespace of the operator.
pub const SYSTEM: &str = "robeing-system";

/// Returns the path of a chart of this repository.
fn chart(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").join(name).display().to_string()
}

/// Installs both charts, with `operators` replicas of the image [`FIRST`], and waits until they are ready.
///
/// # Errors
/// The output of helm, if it fails.
pub async fn install(cluster: &TestCluster, operators: usize) -> Result<()> {
    let (_, tag) = FIRST.split_once(':').context("the image has no tag")?;
    let (tag, replicas) = (format!("image.tag={tag}"), format!("replicas={operators}"));
    let within = ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout=4m"];
    cluster.helm(&[&["install", "robeing-crds", &chart("robeing-crds")][..], &within].concat()).await?;
    let settings = ["--set", &tag, "--set", &replicas];
    cluster.helm(&[&["install", "robeing", &chart("robeing")][..], &settings, &within].concat()).await?;
    Ok(())
}

/// Upgrades the operator with changed values, such as `lease.duration=6s`, and waits until it is ready.
///
/// # Errors
/// The output of helm, if it fails.
pub async fn reconfigure(cluster: &TestCluster, settings: &str) -> Result<()> {
    let within = ["--namespace", SYSTEM, "--reuse-values", "--wait", "--timeout=4m"];
    cluster.helm(&[&["upgrade", "robeing", &chart("robeing"), "--set", settings][..], &within].concat()).await?;
    Ok(())
}

/// Uninstalls both charts, and deletes what uninstalling keeps: the CustomResourceDefinition with every fleet, and the
/// namespace.
///
/// # Errors
/// The output of helm or kubectl, if one fails.
pub async fn uninstall(cluster: &TestCluster) -> Result<()> {
    for release in ["robeing", "robeing-crds"] {
        cluster.helm(&["uninstall", release, "--namespace", SYSTEM, "--wait"]).await?;
    }
    cluster.kubectl(&["delete", "customresourcedefinition", "robeingclusters.robeing.io", "--wait=false"]).await?;
    cluster.kubectl(&["delete", "namespace", SYSTEM, "--wait=false"]).await?;
    Ok(())
}
