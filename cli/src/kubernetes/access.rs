//! Access to the API server the way kubectl does it, and the few requests that are sent to it.

use std::{env, error::Error as _, io, path::PathBuf, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap as ConfigMapKind, Pod as PodKind, ServiceAccount},
};
use kube::{
    Api, Client, Config, Resource as _,
    api::{GetParams, ListParams, PostParams, Request},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use robeing_crds::RobeingCluster;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    KubernetesError, Location,
    api::{ConfigMap, List, Named, Pod, Resource, TokenAnswer},
    credentials::TOKEN_LIFETIME,
    error::cause,
    forward::Forward,
};

/// Time limit for a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of clusters in a namespace whose names are read.
const NAMES: u32 = 500;

/// The audience of tokens for coordinators. The API server itself refuses such a token.
const AUDIENCE: &str = "robeing";

const GET_CLUSTERS: &str = "get robeingclusters";
const LIST_CLUSTERS: &str = "list robeingclusters";
const LIST_PODS: &str = "list pods";
const GET_CONFIG_MAPS: &str = "get configmaps";
const CREATE_TOKEN: &str = "create serviceaccounts/token";
const FORWARD: &str = "get and create pods/portforward";

/// A client of the API server for one namespace.
pub(super) struct ApiServer {
    client: Client,
    url: String,
    namespace: String,
    /// Time limit of each request.
    timeout: Duration,
}

impl ApiServer {
    /// Reads the kubeconfig. No request is sent yet.
    pub async fn new(place: &Location, timeout: Duration) -> Result<Self, KubernetesError> {
        // This only fails if a provider is already installed, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = config(place).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // The fleet's client retries its calls itself, within a time limit that the user sets.
        config.default_retry = false;
        let namespace = place.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client =
            Client::try_from(config).map_err(|error| KubernetesError::BadKubeconfig { problem: cause(&error) })?;
        Ok(Self { client, url, namespace, timeout })
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the name of the only cluster in the namespace.
    pub async fn only_cluster(&self) -> Result<String, KubernetesError> {
        let mut names = self.clusters().await?;
        let namespace = self.namespace.clone();
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            (Some(last), false) => {
                names.push(last);
                Err(KubernetesError::SeveralClusters { namespace, names })
            }
            (None, _) => Err(KubernetesError::NoClusters { namespace }),
        }
    }

    /// Returns the cluster with that name.
    pub async fn cluster(&self, name: &str) -> Result<Resource, KubernetesError> {
        let path = RobeingCluster::url_path(&(), Some(&self.namespace));
        let request = Request::new(path).get(name, &GetParams::default());
        match self.ask(GET_CLUSTERS, request).await? {
            Some(resource) => Ok(resource),
            None => Err(KubernetesError::NoCluster {
                namespace: self.namespace.clone(),
                name: name.into(),
                others: self.clusters().await?,
            }),
        }
    }

    async fn clusters(&self) -> Result<Vec<String>, KubernetesError> {
        let path = RobeingCluster::url_path(&(), Some(&self.namespace));
        let request = Request::new(path).list(&ListParams::default().limit(NAMES));
        match self.ask::<List<Named>>(LIST_CLUSTERS, request).await? {
            Some(list) => Ok(list.items.into_iter().map(|item| item.metadata.name).collect()),
            None => Err(KubernetesError::NoDefinition { url: self.url.clone() }),
        }
    }

    /// Returns the coordinator pods of a cluster, sorted by name.
    pub async fn coordinators(&self, cluster: &str) -> Result<Vec<Pod>, KubernetesError> {
        let labels = format!(
            "app.kubernetes.io/name=robeing,app.kubernetes.io/instance={cluster},app.kubernetes.io/component=coordinator"
        );
        let path = PodKind::url_path(&(), Some(&self.namespace));
        let request = Request::new(path).list(&ListParams::default().labels(&labels));
        let list = self.ask::<List<Pod>>(LIST_PODS, request).await?;
        let mut pods = list.map(|list| list.items).unwrap_or_default();
        pods.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        Ok(pods)
    }

    /// Returns the ConfigMap with that name, if it exists.
    pub async fn config_map(&self, name: &str) -> Result<Option<ConfigMap>, KubernetesError> {
        let path = ConfigMapKind::url_path(&(), Some(&self.namespace));
        self.ask(GET_CONFIG_MAPS, Request::new(path).get(name, &GetParams::default())).await
    }

    /// Requests a token of a ServiceAccount, with which coordinators know it.
    pub async fn token(&self, account: &str) -> Result<TokenAnswer, KubernetesError> {
        let right = format!("{CREATE_TOKEN} for {account}");
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.into()],
            expiration_seconds: i64::try_from(TOKEN_LIFETIME.as_secs()).ok(),
            bound_object_ref: None,
        };
        let body = serde_json::to_vec(&TokenRequest { spec, ..TokenRequest::default() });
        let body = body.map_err(|error| self.failure(&right, kube::Error::SerdeError(error)))?;
        let path = ServiceAccount::url_path(&(), Some(&self.namespace));
        let request = Request::new(path).create_subresource("token", account, &PostParams::default(), body);
        match self.ask::<TokenAnswer>(&right, request).await? {
            Some(answer) if answer.status.token.is_empty() => Err(KubernetesError::NotKubernetes {
                url: self.url.clone(),
                cause: "its answer to a TokenRequest contains no token".into(),
            }),
            Some(answer) => Ok(answer),
            None => Err(KubernetesError::NoAccount { namespace: self.namespace.clone(), name: account.to_owned() }),
        }
    }

    /// Opens a connection to a port of a pod.
    pub async fn forward(&self, pod: &str, port: u16) -> Result<Forward, KubernetesError> {
        let pods: Api<PodKind> = Api::namespaced(self.client.clone(), &self.namespace);
        let not_forwarded = |cause: String| KubernetesError::NotForwarded { pod: pod.into(), port, cause };
        let forwarder = pods.portforward(pod, &[port]).await.map_err(|error| match self.failure(FORWARD, error) {
            KubernetesError::Refused { message, .. } => not_forwarded(message),
            other => other,
        })?;
        Forward::take(forwarder, port).ok_or_else(|| not_forwarded("the stream is missing".into()))
    }

    /// Reads objects; `None` if the API server returns 404.
    async fn ask<T: DeserializeOwned>(
        &self,
        right: &str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Option<T>, KubernetesError> {
        let request = request.map_err(|error| self.failure(right, kube::Error::BuildRequest(error)))?;
        match timeout(self.timeout, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(error)) => Err(self.failure(right, error)),
            Err(_) => Err(KubernetesError::ApiUnreachable {
                url: self.url.clone(),
                cause: format!("no answer within {:?}", self.timeout),
            }),
        }
    }

    fn failure(&self, right: &str, error: kube::Error) -> KubernetesError {
        let (url, namespace, right) = (self.url.clone(), self.namespace.clone(), right.to_owned());
        match error {
            kube::Error::Api(status) => {
                let message = status.message.trim().to_owned();
                match status.code {
                    401 => KubernetesError::Unauthenticated { cause: message },
                    403 => KubernetesError::Forbidden { right, namespace, message },
                    _ => KubernetesError::Refused { right, namespace, message },
                }
            }
            kube::Error::Auth(error) => KubernetesError::Unauthenticated { cause: cause(&error) },
            error @ (kube::Error::HyperError(_) | kube::Error::Service(_)) => {
                // A middleware that obtains a token also fails with a service error.
                match error.source().and_then(|source| source.downcast_ref::<kube::client::AuthError>()) {
                    Some(error) => KubernetesError::Unauthenticated { cause: cause(error) },
                    None => KubernetesError::ApiUnreachable { url, cause: cause(&error) },
                }
            }
            kube::Error::SerdeError(error) => KubernetesError::NotKubernetes { url, cause: error.to_string() },
            other => KubernetesError::Refused { right, namespace, message: other.to_string() },
        }
    }
}

/// Returns the configuration that kubectl would use; in a pod without a kubeconfig, the pod's service account.
async fn config(place: &Location) -> Result<Config, KubernetesError> {
    let kubeconfig = match read(place) {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => {
            let error = KubernetesError::kubeconfig(error, vec![]);
            let asked_for_one = place.kubeconfig.is_some() || place.context.is_some();
            return match error {
                KubernetesError::NoKubeconfig { .. } if !asked_for_one => Config::incluster().map_err(|_| error),
                _ => Err(error),
            };
        }
    };
    let contexts = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let options = KubeConfigOptions { context: place.context.clone(), ..Default::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| KubernetesError::kubeconfig(error, contexts))
}

fn read(place: &Location) -> Result<Kubeconfig, KubeconfigError> {
    if let Some(file) = &place.kubeconfig {
        return Kubeconfig::read_from(file);
    }
    let listed: Vec<PathBuf> = env::var_os("KUBECONFIG")
        .map(|paths| env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    if listed.len() < 2 {
        return Kubeconfig::read();
    }
    // As kubectl does, merge the files that exist.
    let mut merged: Option<Kubeconfig> = None;
    for path in &listed {
        match Kubeconfig::read_from(path) {
            Ok(next) => merged = Some(merged.unwrap_or_default().merge(next)?),
            Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    merged.ok_or_else(|| KubeconfigError::ReadConfig(io::ErrorKind::NotFound.into(), listed[0].clone()))
}
