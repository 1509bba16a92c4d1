//! Rights in the fleet's namespace: those of the coordinators, which ask the API server what people may do, and those
//! of the two accounts with whose tokens people use and administer the fleet. No pod runs as one of these two; anyone
//! who may create tokens of one has its rights.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use robeing_crds::GROUP;

use super::{Desired, Error, access, desired, metadata};
use crate::{
    controller::validate::{self, ValidatedCluster},
    names,
};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
const AUTHORIZATION_GROUP: &str = "authorization.k8s.io";

/// The rights of people who use a fleet: subresources of the cluster, and the verbs on them.
const USE: [(&[&str], &[&str]); 2] = [
    (&["robeingclusters/tasks"], &["get", "create"]),
    (&["robeingclusters/messages", "robeingclusters/votes"], &["create"]),
];
/// The right that people who administer a fleet have besides.
const ADMINISTER: (&[&str], &[&str]) = (&["robeingclusters/admin"], &["update"]);

/// Returns the coordinators' right to ask the API server what people may do in the fleet's namespace.
pub(super) fn of_coordinators(fleet: &ValidatedCluster) -> Result<[Desired; 2], Error> {
    let rule = rule(AUTHORIZATION_GROUP, (&["localsubjectaccessreviews"], &["create"]));
    granted(fleet, &names::coordinators(&fleet.name), validate::coordinators_account(fleet), vec![rule])
}

/// Returns the accounts for people, each with its rights.
pub(super) fn of_people(fleet: &ValidatedCluster) -> Result<Vec<Desired>, Error> {
    let (user, administrator) = (names::user(&fleet.name), names::administrator(&fleet.name));
    let mut objects = Vec::new();
    for (name, rights) in [(user, USE.to_vec()), (administrator, [&USE[..], &[ADMINISTER]].concat())] {
        let rules = rights.into_iter().map(|right| PolicyRule {
            // The coordinators ask about one cluster, by its name.
            resource_names: Some(vec![fleet.name.clone()]),
            ..rule(GROUP, right)
        });
        objects.push(desired(&access::account(fleet, name.clone()))?);
        objects.extend(granted(fleet, &name, name.clone(), rules.collect())?);
    }
    Ok(objects)
}

fn rule(group: &str, (resources, verbs): (&[&str], &[&str])) -> PolicyRule {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(texts(&[group])),
        resources: Some(texts(resources)),
        verbs: texts(verbs),
        ..PolicyRule::default()
    }
}

/// Returns a Role with these rules, and a RoleBinding of the same name that gives it to an account.
fn granted(
    fleet: &ValidatedCluster,
    name: &str,
    account: String,
    rules: Vec<PolicyRule>,
) -> Result<[Desired; 2], Error> {
    let role = Role { metadata: metadata(fleet, name.to_owned()), rules: Some(rules) };
    let binding = RoleBinding {
        metadata: metadata(fleet, name.to_owned()),
        role_ref: RoleRef { api_group: RBAC_GROUP.into(), kind: "Role".into(), name: name.to_owned() },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account,
            namespace: Some(fleet.namespace.clone()),
            api_group: None,
        }]),
    };
    Ok([desired(&role)?, desired(&binding)?])
}
