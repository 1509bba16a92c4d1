//! What messengers do for what is outside the fleet: each serves a gateway, and they call the webhooks of the manifest.

use std::path::{Path, PathBuf};

use robeing_crds::{Gateway, Pool, Role, Webhook};

use super::{DevError, Secrets, identity};

/// The file with the list of webhooks in the data directory.
const WEBHOOKS: &str = "webhooks.json";

/// Returns whether the agents of a pool serve a gateway and call webhooks.
pub(super) fn serves(pool: &Pool) -> bool {
    pool.role == Role::Messenger
}

/// Returns the file with the webhooks that messengers call; `None` if there are none.
pub(super) fn webhooks_file(gateway: &Gateway, data: &Path) -> Option<PathBuf> {
    (!gateway.is_empty()).then(|| data.join(WEBHOOKS))
}

/// Writes the list of webhooks that messengers call, which only this user can read: whoever knows a URL may be able to
/// post to it.
///
/// # Errors
/// If the data directory can't be written to.
pub(super) fn write_webhooks(gateway: &Gateway, data: &Path) -> Result<(), DevError> {
    if gateway.is_empty() {
        return Ok(());
    }
    let written = identity::write(data, WEBHOOKS, &gateway.for_agents());
    written.map_err(|error| DevError::Data { dir: data.to_owned(), error })
}

/// Returns the webhooks that can be called here: those whose Secret is in the manifest. With the others, messengers
/// could not start.
pub(super) fn callable(gateway: &Gateway, secrets: &Secrets) -> Gateway {
    let has_secret = |webhook: &&Webhook| secrets.get(&webhook.secret_key_ref).is_ok();
    Gateway { webhooks: gateway.webhooks.iter().filter(has_secret).cloned().collect() }
}

/// Returns what to tell about the webhooks of a manifest, as sentences: which are called, and why others are not.
pub(super) fn notes(gateway: &Gateway, secrets: &Secrets) -> Vec<String> {
    let called = callable(gateway, secrets).webhooks;
    let called: Vec<&str> = called.iter().map(|webhook| webhook.name.as_str()).collect();
    let called = (!called.is_empty()).then(|| {
        format!("the webhooks of the manifest are called when tasks of this fleet end: {}", called.join(", "))
    });
    let uncalled = gateway.webhooks.iter().filter_map(|webhook| {
        let key = &webhook.secret_key_ref;
        let problem = secrets.get(key).err()?;
        let secret = format!("the key {} of the Secret {}", key.key, key.name);
        Some(format!("the webhook {} is not called: {secret} {problem}", webhook.name))
    });
    called.into_iter().chain(uncalled).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use robeing_settings::TlsMode;
    use serde_json::{Value, json};

    use super::*;
    use crate::dev::plan::{Plan, Process, attachable_agents, gateways};

    const MANIFEST: &str = r#"
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: example}
spec:
  pools:
  - {name: mine, replicas: 1, executor: {worker: {}}}
  - {name: mess, role: Messenger, replicas: 1, standby: 1, executor: {echo: {}}}
  gateway:
    webhooks:
    - {name: elsewhere, url: "https://a.example/hooks", secretKeyRef: {name: absent, key: a}}
    - {name: billing, url: "http://127.0.0.1:9/hooks", secretKeyRef: {name: hooks, key: billing}, kinds: [invoice]}
---
apiVersion: v1
kind: Secret
metadata: {name: hooks}
stringData: {billing: s3cret of 24 characters!}
"#;

    fn gateway() -> (Gateway, Secrets) {
        let manifest = robeing_crds::find_cluster(MANIFEST).unwrap_or_else(|error| panic!("{error}"));
        (manifest.cluster.spec.gateway, Secrets::of_manifest(MANIFEST))
    }

    /// Returns the plan of the manifest, with these ports for its agents.
    fn plan(agents: &[u16], tls: TlsMode) -> Plan {
        let manifest = robeing_crds::find_cluster(MANIFEST).unwrap_or_else(|error| panic!("{error}"));
        let (mut spec, secrets) = (manifest.cluster.spec, Secrets::of_manifest(MANIFEST));
        spec.gateway = callable(&spec.gateway, &secrets);
        assert_eq!((attachable_agents(&spec), gateways(&spec)), (1, 2));
        Plan::of(&spec, "example", &[4001], agents, Path::new("/data"), tls).with_secrets(&secrets)
    }

    fn value<'a>(process: &'a Process, flag: &str) -> Option<&'a str> {
        process.arguments.iter().find_map(|argument| argument.strip_prefix(flag)?.strip_prefix('='))
    }

    #[test]
    fn every_messenger_serves_a_gateway_and_no_other_agent_does() {
        let started = plan(&[5001, 5002, 5003], TlsMode::Strict);
        let at = |name: &str, url: &str| (name.to_owned(), url.to_owned());
        assert_eq!(started.attachable, [at("mine-0", "127.0.0.1:5001")]);
        let urls = [at("mess-0", "https://127.0.0.1:5002"), at("mess-1", "https://127.0.0.1:5003")];
        assert_eq!(started.gateways, urls);
        let listens: Vec<_> = started.processes.iter().map(|process| value(process, "--gateway-listen")).collect();
        assert_eq!(listens, [None, None, Some("127.0.0.1:5002"), Some("127.0.0.1:5003")]);
        assert_eq!(plan(&[5001, 5002], TlsMode::Off).gateways, [at("mess-0", "http://127.0.0.1:5002")]);
    }

    #[test]
    fn messengers_call_the_webhooks_whose_secrets_are_in_the_manifest() {
        let started = plan(&[], TlsMode::Strict);
        let called: Vec<_> = started.processes.iter().map(|process| value(process, "--webhooks")).collect();
        assert_eq!(called, [None, None, Some("/data/webhooks.json"), Some("/data/webhooks.json")]);
        for messenger in &started.processes[2..] {
            let [secret] = &messenger.environment[..] else { panic!("one variable: {messenger:?}") };
            let (name, value) = ("ROBEING_WEBHOOK_SECRET_1", Some("s3cret of 24 characters!"));
            assert_eq!((&*secret.name, secret.value.to_str()), (name, value));
        }
        assert!(!format!("{started:?}").contains("s3cret"), "{started:?}");
        let (gateway, secrets) = gateway();
        let notes = notes(&gateway, &secrets);
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].ends_with(": billing"), "{notes:?}");
        let uncalled = "the webhook elsewhere is not called: the key a of the Secret absent does not exist";
        assert!(notes[1].starts_with(uncalled), "{notes:?}");
    }

    #[test]
    fn the_list_of_webhooks_has_variables_in_place_of_secrets_and_only_this_user_can_read_it() {
        let data = tempfile::tempdir().expect("a temporary directory");
        write_webhooks(&Gateway::default(), data.path()).expect("there is nothing to write");
        assert_eq!(webhooks_file(&Gateway::default(), data.path()), None);
        let (gateway, secrets) = gateway();
        let gateway = callable(&gateway, &secrets);
        write_webhooks(&gateway, data.path()).expect("written");
        let file = webhooks_file(&gateway, data.path()).expect("there are webhooks");
        let list: Value = serde_json::from_slice(&fs::read(&file).expect("it is there")).expect("it is JSON");
        assert_eq!(list[0]["secret"], json!({"env": "ROBEING_WEBHOOK_SECRET_1"}));
        assert_eq!((&list[0]["name"], list.as_array().map(Vec::len)), (&json!("billing"), Some(1)));
        assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    }
}
