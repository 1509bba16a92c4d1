//! The arguments and configuration files of the cluster's programs, and the cluster's initial objects. Pure: returns
//! text.

use std::{net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use crate::{
    plan::{DOMAIN, Place, Plan},
    record::Run,
    requirements::CNI,
    tools::{DNS_IMAGE, PAUSE_IMAGE},
};

/// devkube's folder on a machine, as the machine sees it; on the host it is `lib/devkube` in [`Run::disk`].
pub(crate) const OWN: &str = "/var/lib/devkube";
/// The socket of a node's containerd, as the node sees it.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// The port of CoreDNS in its pod, which may not use a privileged port.
const DNS_PORT: u16 = 1053;
/// The declared capacity of a volume. It is not enforced.
const VOLUME_SIZE: &str = "10Gi";
/// The storage class of the local volumes, which is the cluster's default class.
const STORAGE_CLASS: &str = "local";

/// Returns a kubeconfig for the API server at `server`, with the certificate called `user` in the cluster's `pki`
/// folder.
pub(crate) fn kubeconfig(pki: &Path, server: &str, user: &str) -> String {
    let file = |name: String| pki.join(name).display().to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "devkube", "cluster": {"server": server, "certificate-authority": file("ca.crt".into())}}],
        "users": [{"name": user, "user": {
            "client-certificate": file(format!("{user}.crt")),
            "client-key": file(format!("{user}.key")),
        }}],
        "contexts": [{"name": "devkube", "context": {"cluster": "devkube", "user": user}}],
        "current-context": "devkube",
    })
    .to_string()
}

/// Returns the URL of the API server for the cluster's machines.
pub(crate) fn server(plan: &Plan) -> String {
    format!("https://{}:{}", plan.control_plane().address, Plan::API_PORT)
}

pub(crate) fn etcd(run: &Run) -> Vec<String> {
    let client = "http://127.0.0.1:2379";
    vec![
        format!("--data-dir={}", run.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        // Safe, because the cluster does not survive a power failure of the host.
        "--unsafe-no-fsync".into(),
    ]
}

pub(crate) fn api_server(run: &Run, plan: &Plan) -> Vec<String> {
    let pki = |name: &str| run.join("pki").join(name).display().to_string();
    let address = plan.control_plane().address;
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={}", Plan::API_PORT),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}"),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        format!("--service-cluster-ip-range={}", Plan::SERVICES),
        "--allow-privileged=true".into(),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
    ]
}

pub(crate) fn controller_manager(run: &Run, plan: &Plan) -> Vec<String> {
    let pki = |name: &str| run.join("pki").join(name).display().to_string();
    let mut arguments = vec![
        format!("--kubeconfig={}", run.join("controller-manager.kubeconfig").display()),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--service-account-private-key-file={}", pki("sa.key")),
        "--use-service-account-credentials".into(),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        "--leader-elect=false".into(),
        // Detects a lost node within seconds; the defaults take most of a minute.
        "--node-monitor-grace-period=8s".into(),
        "--node-monitor-period=2s".into(),
    ];
    if plan.is_bare() {
        // Only the controllers that clean up, without a noticeable rate limit.
        arguments.push("--controllers=garbage-collector-controller,namespace-controller".into());
        arguments.extend(["--kube-api-qps=1000", "--kube-api-burst=1000"].map(String::from));
    }
    arguments
}

pub(crate) fn scheduler(run: &Run) -> Vec<String> {
    vec![format!("--kubeconfig={}", run.join("scheduler.kubeconfig").display()), "--leader-elect=false".into()]
}

pub(crate) fn kubelet(run: &Run, node: &Place) -> Vec<String> {
    vec![
        format!("--config={OWN}/kubelet.json"),
        format!("--kubeconfig={}", run.join(&format!("{}.kubeconfig", node.name)).display()),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={}", node.address),
        format!("--node-labels=topology.kubernetes.io/zone=zone-{}", node.name),
    ]
}

/// Returns the kubelet's configuration. [`crate::cgroup`] creates its cgroup.
pub(crate) fn kubelet_config(run: &Run, node: &Place) -> String {
    let pki = |name: &str| run.join("pki").join(name).display().to_string();
    pretty(&json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node.namespace),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "failCgroupV1": false,
        // Lets the kubelet ignore errors for kernel settings that a container or a small machine does not allow.
        "featureGates": {"KubeletInUserNamespace": true},
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "clusterDNS": [Plan::DNS],
        "clusterDomain": DOMAIN,
        "resolvConf": format!("{OWN}/resolv.conf"),
        "tlsCertFile": pki(&format!("{}.crt", node.name)),
        "tlsPrivateKeyFile": pki(&format!("{}.key", node.name)),
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": true,
        "maxPods": 200,
        // Together with the controller manager's grace period, this detects a lost node within seconds.
        "nodeStatusUpdateFrequency": "1s",
        "nodeLeaseDurationSeconds": 4,
    }))
}

/// Returns the configuration of kube-proxy.
pub(crate) fn proxy_config(run: &Run, node: &Place) -> String {
    pretty(&json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": run.join("proxy.kubeconfig").display().to_string()},
        "mode": "iptables",
        "clusterCIDR": Plan::PODS,
        "hostnameOverride": node.name,
        // 0: don't change the limits of the connection tracking table, which belongs to the whole host.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }))
}

/// Returns the configuration of a node's containerd.
pub(crate) fn containerd_config() -> String {
    format!(
        r#"version = 2
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{OWN}/cni"
"#
    )
}

/// Returns the CNI configuration for the network of a node's pods.
pub(crate) fn cni_config(pods: Ipv4Addr) -> String {
    pretty(&json!({
        "cniVersion": "0.4.0",
        "name": "devkube",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": format!("{OWN}/addresses"),
                    "ranges": [[{"subnet": format!("{pods}/24")}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    }))
}

/// Returns the folder of a volume, as the node sees it.
pub(crate) fn volume_folder(index: usize) -> String {
    format!("{OWN}/volumes/{index}")
}

/// Returns the initial objects of a cluster: a default storage class, local volumes, and DNS.
pub(crate) fn objects(plan: &Plan, volumes_per_node: usize) -> String {
    let mut items = vec![json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    })];
    for node in plan.nodes() {
        items.extend((1..=volumes_per_node).map(|index| volume(&node, index)));
    }
    items.extend(dns());
    pretty(&json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

fn volume(node: &Place, index: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": format!("{}-{index}", node.name)},
        "spec": {
            "capacity": {"storage": VOLUME_SIZE},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": volume_folder(index)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]},
            ]}]}},
        },
    })
}

fn dns() -> Vec<Value> {
    let metadata = json!({"name": "coredns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    });
    let corefile = format!(
        ".:{DNS_PORT} {{\n  errors\n  health :8080\n  ready :8181\n  \
         kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{\n    pods insecure\n    ttl 5\n  }}\n  cache 5\n}}\n"
    );
    let port = |name, protocol| json!({"name": name, "port": 53, "targetPort": DNS_PORT, "protocol": protocol});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        role,
        binding,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": corefile}}),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
            "spec": {
                "clusterIP": Plan::DNS,
                "selector": {"k8s-app": "kube-dns"},
                "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
            },
        }),
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                // Two, so that names still resolve when a node is lost.
                "replicas": 2,
                "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
                "template": {"metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": dns_pod()},
            },
        }),
    ]
}

fn dns_pod() -> Value {
    json!({
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }],
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "coredns",
            "image": DNS_IMAGE,
            "imagePullPolicy": "Never",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        }],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    })
}

fn pretty(value: &Value) -> String {
    // The alternate format of a JSON value is indented.
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (Run, Plan, Place) {
        let plan = Plan::new("ab12", 2).unwrap();
        let node = plan.machine("n2").unwrap();
        (Run::new("/tmp/devkube-ab12".into()), plan, node)
    }

    #[test]
    fn a_node_is_told() {
        let (run, _, node) = fixture();
        insta::assert_snapshot!("kubelet", kubelet(&run, &node).join("\n"));
        insta::assert_snapshot!("kubelet_config", kubelet_config(&run, &node));
        insta::assert_snapshot!("proxy_config", proxy_config(&run, &node));
        insta::assert_snapshot!("containerd_config", containerd_config());
        insta::assert_snapshot!("cni_config", cni_config(node.pods.unwrap()));
    }

    #[test]
    fn the_control_plane_is_told() {
        let (run, plan, _) = fixture();
        let all = [etcd(&run), api_server(&run, &plan), controller_manager(&run, &plan), scheduler(&run)];
        insta::assert_snapshot!("control_plane", all.map(|arguments| arguments.join("\n")).join("\n\n"));
        let bare = Plan::new("ab12", 0).unwrap();
        insta::assert_snapshot!("control_plane_alone", controller_manager(&run, &bare).join("\n"));
        let pki = run.join("pki");
        insta::assert_snapshot!("kubeconfig", kubeconfig(&pki, &server(&plan), "admin"));
    }

    #[test]
    fn a_new_cluster_gets() {
        let (_, plan, _) = fixture();
        insta::assert_snapshot!("objects", objects(&plan, 2));
    }
}
