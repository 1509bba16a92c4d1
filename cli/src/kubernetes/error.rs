//! Errors in reaching a fleet on Kubernetes, each with a sentence that states what to change.

use std::{error::Error, path::PathBuf, time::Duration};

use kube::config::KubeconfigError;

use crate::exit::Exit;

/// Maximum number of names that a message lists.
const LISTED_NAMES: usize = 10;

/// Returns the default ClusterRole of Kubernetes that grants a permission.
fn role(right: &str) -> &'static str {
    if ["portforward", "serviceaccounts/token"].iter().any(|what| right.contains(what)) { "edit" } else { "view" }
}

/// Why a fleet could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is no kubeconfig.
    #[error("no kubeconfig{}; name one with --kubeconfig or KUBECONFIG, or a coordinator with --endpoint", at(.path.as_ref()))]
    NoKubeconfig {
        /// The expected path, if it is known.
        path: Option<PathBuf>,
    },
    /// The kubeconfig is invalid.
    #[error("the kubeconfig can't be used: {problem}")]
    BadKubeconfig {
        /// What is wrong with it.
        problem: String,
    },
    /// The kubeconfig does not contain the requested context.
    #[error("the kubeconfig has no context {name:?}; {}", these(.others))]
    NoContext {
        /// The requested name.
        name: String,
        /// The contexts that it contains.
        others: Vec<String>,
    },
    /// The kubeconfig does not set a current context.
    #[error("the kubeconfig has no current context; choose one with --context ({})", these(.others))]
    NoCurrentContext {
        /// The contexts that it contains.
        others: Vec<String>,
    },
    /// The API server does not answer.
    #[error("the API server of Kubernetes at {url} does not answer ({cause}); see whether kubectl reaches it")]
    ApiUnreachable {
        /// The URL of the API server.
        url: String,
        /// The cause.
        cause: String,
    },
    /// The server is not an API server, or its responses can't be parsed.
    #[error("the server at {url} does not respond like a Kubernetes API server ({cause})")]
    NotKubernetes {
        /// The URL of the server.
        url: String,
        /// What shows that.
        cause: String,
    },
    /// The API server rejected the credentials.
    #[error("Kubernetes does not accept the kubeconfig's credentials ({cause}); log in again")]
    Unauthenticated {
        /// The message from the API server or the credential plugin.
        cause: String,
    },
    /// A permission is missing.
    #[error(
        "permission to {right} in namespace {namespace:?} is missing ({message}); the ClusterRole {:?} grants it",
        role(.right)
    )]
    Forbidden {
        /// The verb and the resource.
        right: String,
        /// The namespace.
        namespace: String,
        /// The message from the API server.
        message: String,
    },
    /// The API server returned another error.
    #[error("Kubernetes failed to {right} in namespace {namespace:?}: {message}")]
    Refused {
        /// The verb and the resource.
        right: String,
        /// The namespace.
        namespace: String,
        /// The message from the API server.
        message: String,
    },
    /// The API server does not have the CustomResourceDefinition.
    #[error(
        "the API server at {url} does not know RobeingClusters; install the chart robeing-crds, or run \
         `robeing crd | kubectl create -f -`"
    )]
    NoDefinition {
        /// The URL of the API server.
        url: String,
    },
    /// The requested cluster does not exist.
    #[error("namespace {namespace:?} has no RobeingCluster {name:?}; {}", these(.others))]
    NoCluster {
        /// The namespace.
        namespace: String,
        /// The requested name.
        name: String,
        /// The clusters in the namespace.
        others: Vec<String>,
    },
    /// The namespace has no cluster.
    #[error("namespace {namespace:?} has no RobeingCluster; name another namespace with --namespace")]
    NoClusters {
        /// The namespace.
        namespace: String,
    },
    /// The namespace has several clusters, and none was selected.
    #[error("namespace {namespace:?} has {} RobeingClusters; choose one with --cluster: {}", .names.len(), listed(.names))]
    SeveralClusters {
        /// The namespace.
        namespace: String,
        /// All of their names.
        names: Vec<String>,
    },
    /// The ServiceAccount whose token was to be requested does not exist.
    #[error(
        "namespace {namespace:?} has no ServiceAccount {name:?}; name another one with --service-account, or see whether the \
         operator could create it: `kubectl describe robeingclusters`"
    )]
    NoAccount {
        /// The namespace.
        namespace: String,
        /// The name of the account.
        name: String,
    },
    /// The ConfigMap with the trusted authorities can't be used.
    #[error(
        "ConfigMap {namespace}/{name} should contain the trusted authorities, but {problem}; the operator restores it"
    )]
    BadTrust {
        /// The namespace.
        namespace: String,
        /// The name of the ConfigMap.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No coordinator can be called.
    #[error("no coordinator of RobeingCluster {namespace}/{name} is ready: {why}")]
    NoCoordinator {
        /// The namespace.
        namespace: String,
        /// The name of the cluster.
        name: String,
        /// What its pods and its status report.
        why: String,
    },
    /// There was a ready coordinator, but now there is none.
    #[error("none of its coordinators is ready")]
    NoneReady,
    /// The port of a pod could not be forwarded.
    #[error("port {port} of pod {pod} can't be forwarded ({cause})")]
    NotForwarded {
        /// The pod.
        pod: String,
        /// Its port.
        port: u16,
        /// The cause.
        cause: String,
    },
    /// No connection to a pod was opened in time.
    #[error("no connection to a coordinator was forwarded within {after:?}")]
    ForwardTimedOut {
        /// The time limit.
        after: Duration,
    },
}

fn at(path: Option<&PathBuf>) -> String {
    path.map(|path| format!(" at {}", path.display())).unwrap_or_default()
}

fn these(names: &[String]) -> String {
    match names {
        [] => "it has none".into(),
        names => format!("it has {}", listed(names)),
    }
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(LISTED_NAMES);
    let listed = names[..names.len() - more].join(", ");
    if more == 0 { listed } else { format!("{listed} and {more} more") }
}

/// Returns the innermost cause.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(deeper) = innermost.source() {
        innermost = deeper;
    }
    match innermost.downcast_ref::<std::io::Error>() {
        Some(error) => robeing_client::io_cause(error),
        None => innermost.to_string(),
    }
}

impl KubernetesError {
    /// Converts an error of reading a kubeconfig. `contexts` are the contexts that were read.
    pub(super) fn kubeconfig(error: KubeconfigError, contexts: Vec<String>) -> Self {
        match error {
            KubeconfigError::CurrentContextNotSet => Self::NoCurrentContext { others: contexts },
            KubeconfigError::LoadContext(name) => Self::NoContext { name, others: contexts },
            KubeconfigError::ReadConfig(error, path) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::NoKubeconfig { path: Some(path) }
            }
            KubeconfigError::FindPath => Self::NoKubeconfig { path: None },
            KubeconfigError::LoadClusterOfContext(name) => Self::BadKubeconfig {
                problem: format!("its context names a cluster that it does not define, {name:?}"),
            },
            // The parser's message shows the surrounding lines, which can contain credentials.
            KubeconfigError::Parse(_) => {
                Self::BadKubeconfig { problem: "it is not YAML in the form that kubectl reads".into() }
            }
            other => Self::BadKubeconfig { problem: other.to_string() },
        }
    }

    /// Returns whether other coordinators would fail in the same way.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::ApiUnreachable { .. } | Self::Unauthenticated { .. } | Self::Forbidden { .. } | Self::NoneReady
        )
    }

    /// Returns the exit code for the error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::BadKubeconfig { .. }
            | Self::NoContext { .. }
            | Self::NoCurrentContext { .. }
            | Self::SeveralClusters { .. } => Exit::Usage,
            Self::NoKubeconfig { .. } => Exit::Local,
            Self::Unauthenticated { .. } | Self::Forbidden { .. } | Self::Refused { .. } => Exit::Refused,
            Self::NoDefinition { .. } | Self::NoCluster { .. } | Self::NoClusters { .. } | Self::NoAccount { .. } => {
                Exit::NotFound
            }
            Self::ApiUnreachable { .. }
            | Self::NotKubernetes { .. }
            | Self::BadTrust { .. }
            | Self::NoCoordinator { .. }
            | Self::NoneReady
            | Self::NotForwarded { .. }
            | Self::ForwardTimedOut { .. } => Exit::Unreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_names_are_listed() {
        let names = |count: usize| (0..count).map(|index| format!("f{index}")).collect::<Vec<_>>();
        assert_eq!(these(&[]), "it has none");
        assert_eq!(listed(&names(2)), "f0, f1");
        assert!(listed(&names(LISTED_NAMES)).ends_with(", f9"), "{}", listed(&names(LISTED_NAMES)));
        assert!(listed(&names(LISTED_NAMES + 1)).ends_with(", f9 and 1 more"), "{}", listed(&names(LISTED_NAMES + 1)));
    }

    #[test]
    fn nothing_of_a_broken_kubeconfig_is_shown() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "users: [{name: a, user: {token: SECRET, : ]").expect("it can be written");
        let error = kube::config::Kubeconfig::read_from(file.path()).expect_err("it is no YAML");
        let told = KubernetesError::kubeconfig(error, vec![]).to_string();
        assert_eq!(told, "the kubeconfig can't be used: it is not YAML in the form that kubectl reads");
    }
}
