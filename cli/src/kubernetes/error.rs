//! Why a fleet on Kubernetes is not reached, each in a sentence that says what to change.

use std::{error::Error, path::PathBuf, time::Duration};

use kube::config::KubeconfigError;

use crate::exit::Exit;

/// Names that one sentence lists.
const LISTED_NAMES: usize = 10;

/// The role of Kubernetes that has a right.
fn role(right: &str) -> &'static str {
    if right.contains("portforward") { "edit" } else { "view" }
}

/// A fleet that is not reached.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is no kubeconfig where one was looked for.
    #[error("no kubeconfig{}; name one with --kubeconfig or KUBECONFIG, or a coordinator with --endpoint", at(.path.as_ref()))]
    NoKubeconfig {
        /// Where it would be, if that is known.
        path: Option<PathBuf>,
    },
    /// The kubeconfig can't be used.
    #[error("the kubeconfig can't be used: {problem}")]
    BadKubeconfig {
        /// What is wrong with it.
        problem: String,
    },
    /// The kubeconfig has no such context.
    #[error("the kubeconfig has no context {name:?}; {}", these(.others))]
    NoContext {
        /// What was asked for.
        name: String,
        /// Those it has.
        others: Vec<String>,
    },
    /// The kubeconfig says of no context that it is the current one.
    #[error("the kubeconfig has no current context; choose one with --context ({})", these(.others))]
    NoCurrentContext {
        /// Those it has.
        others: Vec<String>,
    },
    /// The API server does not answer.
    #[error("the API server of Kubernetes at {url} does not answer ({cause}); see whether kubectl reaches it")]
    ApiUnreachable {
        /// Where it should be.
        url: String,
        /// Why there is no answer.
        cause: String,
    },
    /// What answers is no API server, or one that speaks otherwise.
    #[error("what answers at {url} does not speak as Kubernetes does ({cause})")]
    NotKubernetes {
        /// Where.
        url: String,
        /// How that was seen.
        cause: String,
    },
    /// The API server does not know who asks.
    #[error("Kubernetes does not accept the kubeconfig's credentials ({cause}); log in again")]
    Unauthenticated {
        /// The API server's words, or the credential plugin's.
        cause: String,
    },
    /// A right is missing.
    #[error(
        "the right to {right} in namespace {namespace:?} is missing ({message}); ask for it, the role {:?} has it",
        role(.right)
    )]
    Forbidden {
        /// Verb and resource.
        right: &'static str,
        /// Where.
        namespace: String,
        /// The API server's words.
        message: String,
    },
    /// The API server answers a request with another error.
    #[error("Kubernetes did not {right} in namespace {namespace:?}: {message}")]
    Refused {
        /// Verb and resource.
        right: &'static str,
        /// Where.
        namespace: String,
        /// The API server's words.
        message: String,
    },
    /// The API server has no such kind of resource.
    #[error(
        "the Kubernetes at {url} knows no RobeingClusters; install the chart robeing-crds, or `robeing crd | kubectl create -f -`"
    )]
    NoDefinition {
        /// Which API server.
        url: String,
    },
    /// There is no such cluster.
    #[error("namespace {namespace:?} has no RobeingCluster {name:?}; {}", these(.others))]
    NoCluster {
        /// Where.
        namespace: String,
        /// What was asked for.
        name: String,
        /// Those it has.
        others: Vec<String>,
    },
    /// There is no cluster at all.
    #[error("namespace {namespace:?} has no RobeingCluster; name another namespace with --namespace")]
    NoClusters {
        /// Where.
        namespace: String,
    },
    /// There are several and none was named.
    #[error("namespace {namespace:?} has {} RobeingClusters; choose one with --cluster: {}", .names.len(), listed(.names))]
    SeveralClusters {
        /// Where.
        namespace: String,
        /// All of them.
        names: Vec<String>,
    },
    /// There is no coordinator to ask.
    #[error("no coordinator of RobeingCluster {namespace}/{name} is ready: {why}")]
    NoCoordinator {
        /// Where.
        namespace: String,
        /// Which cluster.
        name: String,
        /// What its pods and its status say.
        why: String,
    },
    /// There was a coordinator, and now there is none.
    #[error("none of its coordinators is ready")]
    NoneReady,
    /// The port of a pod can't be forwarded.
    #[error("port {port} of pod {pod} can't be forwarded ({cause})")]
    NotForwarded {
        /// Which pod.
        pod: String,
        /// Its port.
        port: u16,
        /// Why not.
        cause: String,
    },
    /// No pod was found and forwarded in time.
    #[error("no connection to a coordinator was forwarded within {after:?}")]
    ForwardTimedOut {
        /// How long was tried.
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

/// The innermost cause.
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
    /// A kubeconfig that can't be used. `contexts` are those that were read.
    pub(super) fn kubeconfig(error: KubeconfigError, contexts: Vec<String>) -> Self {
        match error {
            KubeconfigError::CurrentContextNotSet => Self::NoCurrentContext { others: contexts },
            KubeconfigError::LoadContext(name) => Self::NoContext { name, others: contexts },
            KubeconfigError::ReadConfig(error, path) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::NoKubeconfig { path: Some(path) }
            }
            KubeconfigError::FindPath => Self::NoKubeconfig { path: None },
            KubeconfigError::LoadClusterOfContext(name) => {
                Self::BadKubeconfig { problem: format!("its context names a cluster that it has not, {name:?}") }
            }
            // A parser shows the lines around what is wrong; those may hold credentials.
            KubeconfigError::Parse(_) => {
                Self::BadKubeconfig { problem: "it is no YAML of the form kubectl reads".into() }
            }
            other => Self::BadKubeconfig { problem: other.to_string() },
        }
    }

    /// Whether another coordinator would be refused likewise.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::ApiUnreachable { .. } | Self::Unauthenticated { .. } | Self::Forbidden { .. } | Self::NoneReady
        )
    }

    /// The exit code that says so.
    pub fn exit(&self) -> Exit {
        match self {
            Self::BadKubeconfig { .. }
            | Self::NoContext { .. }
            | Self::NoCurrentContext { .. }
            | Self::SeveralClusters { .. } => Exit::Usage,
            Self::NoKubeconfig { .. } => Exit::Local,
            Self::Unauthenticated { .. } | Self::Forbidden { .. } | Self::Refused { .. } => Exit::Refused,
            Self::NoDefinition { .. } | Self::NoCluster { .. } | Self::NoClusters { .. } => Exit::NotFound,
            Self::ApiUnreachable { .. }
            | Self::NotKubernetes { .. }
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
        assert_eq!(told, "the kubeconfig can't be used: it is no YAML of the form kubectl reads");
    }
}
