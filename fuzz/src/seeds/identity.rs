//! Certificates, requests for them, and proofs.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use robeing_identity::{Authority, JoinClaims, LEAF_LIFETIME, PeerRole, PrivateKey, SigningRequest, certificate_pem};
use robeing_proto::internal::v1::{EnrolRequest, enrol_request::Proof};

use super::Seed;
use crate::targets::identity::{CLUSTER, ISSUER, NOW, join_key, join_secret, jwks, realm, signed};

/// Lines with the header and the claims of a token of the service account `default/s`.
fn token_parts(pod: &str) -> (String, String) {
    let now = NOW / 1_000;
    let claims = format!(
        r#"{{"iss":"{ISSUER}","sub":"system:serviceaccount:default:s","aud":["robeing"],"jti":"id","iat":{now},"nbf":{now},"exp":{},"kubernetes.io":{{"namespace":"default","serviceaccount":{{"name":"s","uid":"1"}}{pod}}}}}"#,
        now + 3_600
    );
    (r#"{"alg":"ES256","kid":"one"}"#.to_owned(), claims)
}

fn token() -> String {
    let (header, claims) = token_parts(r#","pod":{"name":"w-0","uid":"2"}"#);
    signed(header.as_bytes(), claims.as_bytes())
}

fn join_token() -> JoinClaims {
    let claims = JoinClaims::new(CLUSTER, PeerRole::Worker, "data", Some("w-0"), NOW + 3_600_000);
    claims.expect("it is made")
}

fn tokens() -> Vec<Seed> {
    let parts = |(header, claims): (String, String)| format!("{header}\n{claims}");
    let (header, claims) = token_parts("");
    let seed = |name: &str, input: String| Seed::new("service_account_token", name, input);
    let join = |name: &str, input: String| Seed::new("join_token", name, input);
    let claimed = join_token();
    let json = |claims: &JoinClaims| {
        format!(
            r#"{{"id":"{}","cluster":"{}","role":"{}","pool":"{}","expires":{}}}"#,
            claims.id, claims.cluster, claims.role, claims.pool, claims.expires
        )
    };
    vec![
        seed("parts", parts(token_parts(r#","pod":{"name":"w-0","uid":"2"}"#))),
        seed("parts-no-pod", parts((header.clone(), claims.clone()))),
        seed("parts-rs256", parts((r#"{"alg":"RS256","kid":"two"}"#.into(), claims.clone()))),
        seed("parts-none", parts((r#"{"alg":"none","crit":["x"]}"#.into(), claims.clone()))),
        seed(
            "parts-fraction",
            parts((
                header,
                claims.replace("\"jti\":\"id\"", "\"jti\":\"\"").replace("\"nbf\":1800000000", "\"nbf\":1.8e9"),
            )),
        ),
        seed("signed", token()),
        seed("key-set", jwks()),
        join("signed", join_key().sign(&claimed)),
        join("claims", json(&claimed)),
        join("claims-expired", json(&JoinClaims { expires: NOW, ..claimed.clone() })),
        join("claims-other", json(&JoinClaims { cluster: "other".into(), ..claimed })),
        join("secret", join_secret().to_text()),
    ]
}

fn enrolments(request: &[u8]) -> Vec<Seed> {
    let enrol = |name: &str, role: i32, proof: Option<Proof>| {
        let (cluster_id, pool) = (CLUSTER.to_owned(), "data".to_owned());
        let request = EnrolRequest {
            cluster_id,
            name: "w-0".into(),
            role,
            pool,
            signing_request: request.to_vec().into(),
            proof,
        };
        Seed::new("enrolment", name, request.encode_to_vec())
    };
    let secret = join_secret().bytes().to_vec();
    let worker = robeing_proto::v1::Role::Worker.into();
    vec![
        enrol("join-token", worker, Some(Proof::JoinToken(join_key().sign(&join_token())))),
        enrol("join-secret", worker, Some(Proof::JoinSecret(secret.clone().into()))),
        enrol("service-account", worker, Some(Proof::ServiceAccountToken(token()))),
        enrol("no-proof", worker, None),
        enrol("other-role", robeing_proto::v1::Role::Guardian.into(), Some(Proof::JoinSecret(secret.into()))),
        enrol("unknown-role", 99, None),
    ]
}

pub(super) fn seeds() -> Vec<Seed> {
    let authority = Authority::create(&realm(), NOW).expect("it is made");
    let key = PrivateKey::generate().expect("it is made");
    let request = key.request().expect("it is made");
    let signing = SigningRequest::from_der(&request).expect("it was made");
    let id = realm().member(PeerRole::Worker, "w-0").expect("a name");
    let issued = authority.issue(&signing, &id, &["localhost".to_owned()], NOW, LEAF_LIFETIME).expect("it is issued");
    let mut wrong = request.clone();
    *wrong.last_mut().expect("it has a signature") ^= 1;
    let mut seeds = tokens();
    seeds.extend(enrolments(&request));
    let certificate = |name: &str, bytes: &[u8]| Seed::new("certificate", name, bytes);
    seeds.extend([
        certificate("member", &issued.certificate),
        certificate("authority", authority.certificate()),
        certificate("member-pem", certificate_pem(&issued.certificate).as_bytes()),
        certificate(
            "bundle-pem",
            [authority.certificate_pem(), &certificate_pem(&issued.certificate)].concat().as_bytes(),
        ),
        certificate("authority-and-key-pem", [authority.certificate_pem(), authority.key_pem()].concat().as_bytes()),
        certificate("key-pem", key.to_pem().as_bytes()),
        Seed::new("signing_request", "valid", request),
        Seed::new("signing_request", "wrong-signature", wrong),
        Seed::new("spiffe_id", "worker", id.to_string()),
        Seed::new("spiffe_id", "client", "spiffe://a.b/ns/n_s/cluster/C-1/client/Ann.B"),
        Seed::new("spiffe_id", "dots", "spiffe://a/ns/../cluster/./worker/.."),
        Seed::new("spiffe_id", "escaped", "spiffe://a:80/ns/b/cluster/c/worker/%2e"),
    ]);
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"id":"x"}"#);
    seeds.push(Seed::new("join_token", "unsigned", format!("robeing-join-1.{unsigned}.AAAA")));
    seeds
}
