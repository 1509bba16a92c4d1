//! Where an agent remembers which messages it has handled: a volume of its pod, which outlives its containers, so that
//! an agent that is restarted handles no message twice. A pod that is replaced is another agent, with a memory of its
//! own.

use k8s_openapi::{
    api::core::v1::{Container, EmptyDirVolumeSource, EnvVar, Volume, VolumeMount},
    apimachinery::pkg::api::resource::Quantity,
};
use robeing_settings::settings::{self, MAX_AGENT_DATA};

use super::pod::env;
use crate::{
    controller::validate::{Transport, ValidatedCluster},
    names::{JOURNAL_DIRECTORY, JOURNAL_VOLUME},
};

const MEBIBYTE: u64 = 1 << 20;
// The limit is written in whole mebibytes.
const _: () = assert!(MAX_AGENT_DATA.is_multiple_of(MEBIBYTE));

/// Returns whether agents get a journal. Those of a fleet that has yet to move to TLS know no messages, and are not
/// restarted for it.
fn is_kept(fleet: &ValidatedCluster) -> bool {
    fleet.identity.transport != Transport::Plaintext
}

/// Returns the variable of an agent with the directory of its journal.
pub(super) fn environment(fleet: &ValidatedCluster) -> Option<EnvVar> {
    is_kept(fleet).then(|| env(&settings::DATA, JOURNAL_DIRECTORY))
}

/// Mounts the journal into an agent's container. Whatever user that runs as may write there: the kubelet makes the
/// directory of such a volume writable for everyone.
pub(super) fn mount(fleet: &ValidatedCluster, container: &mut Container) {
    if is_kept(fleet) {
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: JOURNAL_VOLUME.into(),
            mount_path: JOURNAL_DIRECTORY.into(),
            ..VolumeMount::default()
        });
    }
}

/// Returns the volume of the journal, which is as large as an agent may fill it: the kubelet evicts a pod that writes
/// more.
pub(super) fn volume(fleet: &ValidatedCluster) -> Option<Volume> {
    let size = Quantity(format!("{}Mi", MAX_AGENT_DATA / MEBIBYTE));
    let empty = EmptyDirVolumeSource { size_limit: Some(size), medium: None };
    is_kept(fleet).then(|| Volume { name: JOURNAL_VOLUME.into(), empty_dir: Some(empty), ..Volume::default() })
}
