//! What the templates and pods of a fleet show about how its processes connect, and what agents prove themselves with.

use kube::{ResourceExt, api::DynamicObject};
use robeing_settings::{TlsMode, settings};

use crate::{
    controller::{
        observe::{Live, Observation},
        validate::{Proof, Transport},
    },
    names::Component,
    quorum::{membership::CoordinatorPod, transport},
};

/// Returns what the template of a workload sets about the identity of its processes.
pub(crate) fn identity_of(object: &DynamicObject) -> Option<(Transport, Option<Proof>)> {
    let containers = object.data.pointer("/spec/template/spec/containers")?.as_array()?;
    let variables = containers.iter().filter_map(|container| container.get("env")?.as_array()).flatten();
    let (mut transport, mut proof) = (Transport::Plaintext, None);
    for variable in variables {
        let value = variable.get("value").and_then(serde_json::Value::as_str).unwrap_or_default();
        match variable.get("name").and_then(serde_json::Value::as_str) {
            Some(name) if name == settings::TLS.variable() => {
                let is = |mode: TlsMode| value == mode.as_str();
                transport = if is(TlsMode::Strict) {
                    Transport::Strict
                } else if is(TlsMode::Permissive) {
                    Transport::Permissive
                } else {
                    Transport::Plaintext
                };
            }
            Some(name) if name == settings::SERVICE_ACCOUNT_TOKEN.variable() => proof = Some(Proof::Token),
            Some(name) if name == settings::JOIN_SECRET.variable() => proof = Some(Proof::JoinSecret),
            _ => {}
        }
    }
    Some((transport, proof))
}

impl Live {
    /// Returns how the pods of a workload connect, by its template.
    pub fn transport(&self) -> Transport {
        self.identity.map_or(Transport::Plaintext, |(transport, _)| transport)
    }

    /// Returns whether pods of an older template of this Deployment may be left.
    pub fn rolls(&self) -> bool {
        let seen = self.object.data.pointer("/status/observedGeneration").and_then(serde_json::Value::as_i64);
        let wanted = self.number("/spec/replicas").unwrap_or(1);
        let updated = self.number("/status/updatedReplicas").unwrap_or(0);
        let all = self.number("/status/replicas").unwrap_or(0);
        seen < self.object.metadata.generation || updated < wanted || all > updated
    }
}

impl Observation {
    /// Returns the Deployments of the cluster's own pools, including those that are not built any more.
    fn deployments(&self) -> impl Iterator<Item = &Live> {
        self.objects.iter().filter(|live| *live.kind == *"Deployment" && self.owns(live))
    }

    /// Returns whether agents prove themselves with tokens, by the template of any pool.
    pub fn has_tokens(&self) -> bool {
        self.deployments().any(|live| matches!(live.identity, Some((_, Some(Proof::Token)))))
    }

    /// Returns whether agents may prove themselves with join secrets: by the template of a pool, or by an older one
    /// that is being replaced.
    pub fn has_join_secrets(&self) -> bool {
        let joins = |live: &Live| matches!(live.identity, Some((_, Some(Proof::JoinSecret))));
        self.deployments().any(|live| joins(live) || live.rolls())
    }

    /// Returns the names of the workloads of which pods may be left that do not speak TLS.
    pub fn unmoved(&self) -> Vec<String> {
        let set = self.stateful_set().filter(|set| self.owns(set));
        let view = self.transports(true);
        let has_moved = |at: &transport::Workload| at.settled && at.transport != Transport::Plaintext;
        let all = set.into_iter().zip(view.coordinators).chain(self.deployments().zip(view.pools));
        all.filter(|(_, at)| !has_moved(at)).map(|(live, _)| live.object.name_any()).collect()
    }

    /// Returns how the processes connect, by their templates and pods.
    pub fn transports(&self, has_authority: bool) -> transport::View {
        let set = self.stateful_set().filter(|set| self.owns(set));
        let coordinators = set.map(|set| {
            let pods = self.coordinator_pods();
            let is_new = |pod: &CoordinatorPod| pod.updated && pod.ready && !pod.terminating;
            let replicas = set.number("/spec/replicas").unwrap_or(1);
            let settled = self.template_seen() && pods.len() >= replicas as usize && pods.values().all(is_new);
            transport::Workload { transport: set.transport(), settled }
        });
        // An agent that drains may still need connections as it had them.
        let mut agents = self.pods_of(Component::Agent, None);
        let drains = agents.any(|pod| pod.metadata.deletion_timestamp.is_some());
        let pools = self
            .deployments()
            .map(|live| transport::Workload { transport: live.transport(), settled: !drains && !live.rolls() });
        let wanted = match self.cluster.spec.identity.transport {
            robeing_crds::Transport::Strict => Transport::Strict,
            robeing_crds::Transport::Permissive => Transport::Permissive,
        };
        transport::View { wanted, has_authority, coordinators, pools: pools.collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload(env: serde_json::Value) -> Live {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
            "spec": {"template": {"spec": {"containers": [{"name": "other"}, {"name": "agent", "env": env}]}}},
        });
        Live::reduced(&"Deployment".into(), serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn a_template_shows_how_its_processes_connect_and_prove_themselves() {
        let old = workload(json!([{"name": "AGENT_ROLE", "value": "WORKER"}]));
        assert_eq!((old.transport(), old.identity), (Transport::Plaintext, Some((Transport::Plaintext, None))));
        for (mode, expected) in
            [("strict", Transport::Strict), ("permissive", Transport::Permissive), ("off", Transport::Plaintext)]
        {
            assert_eq!(workload(json!([{"name": "ROBEING_TLS", "value": mode}])).transport(), expected, "{mode}");
        }
        for (variable, proof) in
            [("ROBEING_SERVICE_ACCOUNT_TOKEN", Proof::Token), ("ROBEING_JOIN_SECRET", Proof::JoinSecret)]
        {
            let identity = workload(json!([{"name": variable, "value": "/x"}])).identity;
            assert_eq!(identity, Some((Transport::Plaintext, Some(proof))));
        }
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {}});
        assert_eq!(Live::new("Service", serde_json::from_value(service).expect("an object")).identity, None);
    }
}
