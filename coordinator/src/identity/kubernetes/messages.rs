//! The questions and answers of the API server: [TokenReview] and [LocalSubjectAccessReview].
//!
//! [TokenReview]: https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
//! [LocalSubjectAccessReview]: https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/local-subject-access-review-v1/

use std::{collections::BTreeMap, sync::Arc};

use robeing_identity::jwt::ServiceAccountClaims;
use robeing_net::gate::TokenUser;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{cache::Decision, error::KubernetesError};
use crate::identity::rights::Right;

/// The audience for which tokens must be made.
pub const AUDIENCE: &str = "robeing";
/// Maximum size of what is known of a user, bytes: name, groups and the rest.
pub const MAX_USER_BYTES: usize = 16 * 1024;
/// Maximum number of characters of the API server's reason for a denial.
pub const MAX_REASON: usize = 256;
/// The API group and the resource on which rights are granted.
const GROUP: &str = "robeing.io";
const RESOURCE: &str = "robeingclusters";
/// Where a service account's name begins among users' names.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// What the API server adds to the user of a token that is bound to a pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

pub(super) const TOKEN_REVIEWS: &str = "tokenreviews";
pub(super) const ACCESS_REVIEWS: &str = "localsubjectaccessreviews";

/// A user of Kubernetes, as the API server authenticated it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct User {
    /// The name. That of a service account is `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default, rename = "username", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The uid; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What else is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Returns the user of a service-account token that was verified without the API server, with the groups that the
    /// API server gives to every service account.
    pub fn service_account(claims: &ServiceAccountClaims) -> Self {
        let (namespace, name) = (&claims.namespace, &claims.service_account);
        let groups = [
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ];
        let pod = claims.pod.iter().flat_map(|(name, uid)| [(POD_NAME, name), (POD_UID, uid)]);
        Self {
            name: format!("{SERVICE_ACCOUNT}{namespace}:{name}"),
            uid: String::new(),
            groups: groups.into(),
            extra: pod.map(|(key, value)| (key.to_owned(), vec![value.clone()])).collect(),
        }
    }

    /// Returns the user as the caller of a call.
    pub fn told(&self) -> TokenUser {
        let Self { name, uid, groups, extra } = self.clone();
        TokenUser { name, uid, groups, extra }
    }

    /// Returns the namespace and the name of the service account that the user is; `None` if it is another user.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
    }

    /// Returns the name of the pod that the user's token is bound to, if it is bound to one.
    pub fn pod(&self) -> Option<&str> {
        match self.extra.get(POD_NAME).map(Vec::as_slice) {
            Some([name]) => Some(name),
            _ => None,
        }
    }

    /// Returns whether no more than [`MAX_USER_BYTES`] are known of the user.
    pub(crate) fn is_bounded(&self) -> bool {
        let lists = std::iter::once(&self.groups).chain(self.extra.values());
        let texts = lists.flatten().chain(self.extra.keys()).chain([&self.name, &self.uid]);
        texts.map(String::len).sum::<usize>() <= MAX_USER_BYTES
    }
}

impl From<&TokenUser> for User {
    fn from(told: &TokenUser) -> Self {
        let TokenUser { name, uid, groups, extra } = told.clone();
        Self { name, uid, groups, extra }
    }
}

/// What a right is on Kubernetes: a verb on a subresource of the cluster.
fn verb_and_subresource(right: Right) -> (&'static str, &'static str) {
    match right {
        Right::Submit => ("create", "tasks"),
        Right::Read => ("get", "tasks"),
        Right::Vote => ("create", "votes"),
        Right::Message => ("create", "messages"),
        Right::Admin => ("update", "admin"),
    }
}

/// Returns the question who a token is.
pub(super) fn token_review(token: &str) -> String {
    let spec = json!({"token": token, "audiences": [AUDIENCE]});
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}).to_string()
}

/// Returns the question whether a user has a right on a cluster.
pub(super) fn access_review(user: &User, right: Right, namespace: &str, cluster: &str) -> String {
    let (verb, subresource) = verb_and_subresource(right);
    let attributes = json!({
        "namespace": namespace, "verb": verb, "group": GROUP, "resource": RESOURCE, "subresource": subresource,
        "name": cluster,
    });
    let spec = json!({
        "resourceAttributes": attributes,
        "user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
    });
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview",
        "metadata": {"namespace": namespace}, "spec": spec,
    })
    .to_string()
}

#[derive(Deserialize)]
struct Answer<S> {
    status: S,
}

#[derive(Deserialize)]
struct TokenStatus {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct AccessStatus {
    allowed: bool,
    #[serde(default)]
    denied: bool,
    #[serde(default)]
    reason: String,
    #[serde(default, rename = "evaluationError")]
    evaluation_error: String,
}

pub(super) fn read<'a, T: Deserialize<'a>>(about: &'static str, json: &'a [u8]) -> Result<T, KubernetesError> {
    serde_json::from_slice(json).map_err(|error| {
        // The message of serde may quote a value.
        let problem = format!("it is no such answer (line {}, column {})", error.line(), error.column());
        KubernetesError::Answer { about, problem }
    })
}

fn denied<T>(reasons: [&str; 2], otherwise: &str) -> Decision<T> {
    let reason = reasons.into_iter().find(|reason| !reason.is_empty()).unwrap_or(otherwise);
    Decision::Denied(reason.chars().take(MAX_REASON).collect())
}

/// Reads the answer who a token is.
pub(crate) fn reviewed(json: &[u8]) -> Result<Decision<Arc<User>>, KubernetesError> {
    let status = read::<Answer<TokenStatus>>(TOKEN_REVIEWS, json)?.status;
    if !status.authenticated {
        return Ok(denied([&status.error, ""], "the API server does not know the token"));
    }
    // An authenticator that knows no audiences returns none, and may have taken a token that is for another audience.
    if !status.audiences.iter().any(|audience| audience == AUDIENCE) {
        return Ok(denied(["", ""], "the token is not made for the audience robeing"));
    }
    if status.user.name.is_empty() {
        return Err(KubernetesError::Answer { about: TOKEN_REVIEWS, problem: "the user has no name".into() });
    }
    // Denied, and no failure of the API server, or one such user would keep all others from being asked about.
    if status.user.is_bounded() { Ok(Decision::Allowed(Arc::new(status.user))) } else { Ok(too_much_known()) }
}

/// Returns the decision about a user of whom more is known than [`MAX_USER_BYTES`].
pub(super) fn too_much_known<T>() -> Decision<T> {
    Decision::Denied(format!("the user has more than {MAX_USER_BYTES} bytes of groups and the like"))
}

/// Reads the answer whether a user has a right.
pub(crate) fn accessed(json: &[u8]) -> Result<Decision<()>, KubernetesError> {
    let status = read::<Answer<AccessStatus>>(ACCESS_REVIEWS, json)?.status;
    if status.allowed && !status.denied {
        return Ok(Decision::Allowed(()));
    }
    Ok(denied([&status.reason, &status.evaluation_error], "no role grants it"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn review(status: &Value) -> Result<Decision<Arc<User>>, KubernetesError> {
        reviewed(json!({"kind": "TokenReview", "status": status}).to_string().as_bytes())
    }

    fn access(status: &Value) -> Result<Decision<()>, KubernetesError> {
        accessed(json!({"spec": {}, "status": status}).to_string().as_bytes())
    }

    #[test]
    fn the_user_of_a_token_is_the_same_by_the_api_server_and_by_its_keys() {
        let claims = ServiceAccountClaims {
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            namespace: "default".into(),
            service_account: "s".into(),
            pod: Some(("p".into(), "u".into())),
            token_id: "id".into(),
            expires: 0,
        };
        let status = json!({
            "authenticated": true,
            "audiences": ["robeing"],
            "user": {
                "username": "system:serviceaccount:default:s",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["p"],
                    "authentication.kubernetes.io/pod-uid": ["u"],
                },
            },
        });
        let user = User::service_account(&claims);
        assert_eq!(review(&status), Ok(Decision::Allowed(Arc::new(user.clone()))));
        assert_eq!((user.as_service_account(), user.pod()), (Some(("default", "s")), Some("p")));
        let person = User { name: "ann".into(), ..User::default() };
        assert_eq!((person.as_service_account(), person.pod()), (None, None));
    }

    #[test]
    fn a_token_counts_only_if_it_is_made_for_the_fleet() {
        let user = json!({"username": "ann"});
        let denied = |reason: &str| Ok(Decision::Denied(reason.to_owned()));
        for audiences in [json!([]), json!(["https://kubernetes.default.svc"])] {
            let status = json!({"authenticated": true, "user": user, "audiences": audiences});
            assert_eq!(review(&status), denied("the token is not made for the audience robeing"));
        }
        let status = json!({"authenticated": true, "user": user});
        assert_eq!(review(&status), denied("the token is not made for the audience robeing"));
        let status =
            json!({"user": {"username": "ann"}, "audiences": ["robeing"], "error": "é".repeat(MAX_REASON + 1)});
        assert_eq!(review(&status), denied(&"é".repeat(MAX_REASON)));
        assert_eq!(review(&json!({})), denied("the API server does not know the token"));
    }

    #[test]
    fn what_is_known_of_a_user_is_bounded() {
        let with = |groups: usize| {
            let user = json!({"username": "ann", "groups": ["g".repeat(groups)]});
            review(&json!({"authenticated": true, "audiences": ["robeing"], "user": user}))
        };
        assert!(matches!(with(MAX_USER_BYTES - 3), Ok(Decision::Allowed(_))));
        assert_eq!(with(MAX_USER_BYTES - 2), Ok(too_much_known()));
        let nobody = review(&json!({"authenticated": true, "audiences": ["robeing"]}));
        assert!(matches!(nobody, Err(KubernetesError::Answer { .. })));
    }

    #[test]
    fn access_is_allowed_only_if_it_is_said_so_and_not_denied() {
        assert_eq!(access(&json!({"allowed": true})), Ok(Decision::Allowed(())));
        for (status, reason) in [
            (json!({"allowed": true, "denied": true, "reason": "webhook"}), "webhook"),
            (json!({"allowed": false, "evaluationError": "no such role"}), "no such role"),
            (json!({"allowed": false}), "no role grants it"),
        ] {
            assert_eq!(access(&status), Ok(Decision::Denied(reason.into())));
        }
        for status in [json!({}), json!({"allowed": "yes"}), json!(null), json!([])] {
            assert!(matches!(access(&status), Err(KubernetesError::Answer { .. })), "{status}");
        }
    }

    #[test]
    fn a_question_names_the_right_the_cluster_and_all_that_is_known_of_the_user() {
        let extra = BTreeMap::from([("scopes".to_owned(), vec!["all".to_owned()])]);
        let user = User { name: "ann".into(), uid: "7".into(), groups: vec!["devs".into()], extra };
        for (right, verb, subresource) in [
            (Right::Submit, "create", "tasks"),
            (Right::Read, "get", "tasks"),
            (Right::Vote, "create", "votes"),
            (Right::Message, "create", "messages"),
            (Right::Admin, "update", "admin"),
        ] {
            let question: Value = serde_json::from_str(&access_review(&user, right, "team", "fleet")).unwrap();
            let expected = json!({
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "LocalSubjectAccessReview",
                "metadata": {"namespace": "team"},
                "spec": {
                    "resourceAttributes": {
                        "namespace": "team", "verb": verb, "group": "robeing.io", "resource": "robeingclusters",
                        "subresource": subresource, "name": "fleet",
                    },
                    "user": "ann", "uid": "7", "groups": ["devs"], "extra": {"scopes": ["all"]},
                },
            });
            assert_eq!(question, expected);
        }
        let question: Value = serde_json::from_str(&token_review("a\"b")).unwrap();
        assert_eq!(question["spec"], json!({"token": "a\"b", "audiences": ["robeing"]}));
    }
}
