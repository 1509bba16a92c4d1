//! When nodes pull an image. The policy is always set: if no one sets it, the API server defaults it from the image's
//! tag when the object is created, and it does not change with the tag.

use crate::controller::validate::ValidatedCluster;

/// Returns the pull policy of the Robeing image.
pub(super) fn of_fleet(fleet: &ValidatedCluster) -> String {
    fleet.image_pull_policy.map_or_else(|| default_policy(&fleet.image), |policy| policy.as_str()).to_owned()
}

/// Returns Kubernetes' default policy for an image: `Always` if its tag may refer to another image tomorrow.
pub(super) fn default_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_kubernetes_would_make_of_the_tag() {
        for image in ["robeing", "robeing:latest", "host:5000/robeing", "host:5000/a/robeing:latest"] {
            assert_eq!(default_policy(image), "Always", "{image}");
        }
        let digest = "robeing@sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
        for image in ["robeing:0.1.0", "host:5000/robeing:1", digest, "robeing:latest@sha256:0"] {
            assert_eq!(default_policy(image), "IfNotPresent", "{image}");
        }
    }
}
