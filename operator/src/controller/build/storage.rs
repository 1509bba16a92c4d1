//! The object store of a fleet in the environment of its agents. Commands do not inherit the variables with its settings,
//! and those with secrets refer to Secrets.

use k8s_openapi::api::core::v1::EnvVar;
use robeing_crds::StorageVariable;
use robeing_settings::{OBJECT_STORE_VARIABLES, settings};

use super::pod::{env, env_from_secret, variable};
use crate::controller::validate::ValidatedCluster;

/// Returns the variables of an agent with the URL of the object store, and with the settings of that.
pub(super) fn environment(fleet: &ValidatedCluster) -> Vec<EnvVar> {
    let Some(storage) = &fleet.object_storage else { return Vec::new() };
    let url = env(&settings::OBJECT_STORE, &storage.url);
    [url].into_iter().chain(storage.env.iter().map(setting)).collect()
}

fn setting(setting: &StorageVariable) -> EnvVar {
    let name = format!("{OBJECT_STORE_VARIABLES}{}", setting.name);
    match &setting.secret_key_ref {
        Some(key) => env_from_secret(&name, key),
        // Kubernetes expands nothing in it.
        None => variable(&name, setting.value.clone().unwrap_or_default().replace('$', "$$")),
    }
}
