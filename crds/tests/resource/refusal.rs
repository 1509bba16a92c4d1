//! Builds manifests with one problem, and checks how they are refused.

use robeing_crds::parse_manifest;

/// A manifest whose spec is the given flow mapping, for a cluster named `c`.
pub fn manifest(spec: &str) -> String {
    format!("apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {{name: c}}\nspec: {spec}\n")
}

/// A manifest with one pool of the given fields besides its name and executor.
pub fn pool(fields: &str) -> String {
    manifest(&format!("{{pools: [{{name: p, executor: {{echo: {{}}}}, {fields}}}]}}"))
}

/// A manifest with the given metadata and one pool named `p`.
pub fn named(metadata: &str) -> String {
    manifest("{pools: [{name: p, executor: {echo: {}}}]}").replace("{name: c}", metadata)
}

/// Returns the only problem of a manifest.
pub fn only_problem(text: &str) -> (String, String) {
    let error = parse_manifest(text).expect_err(text);
    match error.problems() {
        [problem] => {
            assert!(problem.place.is_some(), "a place is known: {error}");
            (problem.path.clone(), problem.message.clone())
        }
        _ => panic!("one problem was expected in\n{text}\nbut: {error}"),
    }
}

pub fn assert_refused(cases: &[(String, &str, &str)]) {
    for (text, path, sentence) in cases {
        let (found_path, message) = only_problem(text);
        assert_eq!((found_path.as_str(), message.as_str()), (*path, *sentence), "{text}");
    }
}
