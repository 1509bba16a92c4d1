//! The object store of a fleet: each violation of a rule is refused with its message, at the right field.

use robeing_crds::parse_manifest;

use crate::refusal::{assert_refused, manifest};

#[test]
fn rules_about_the_object_store() {
    let storage = |fields: &str| manifest(&format!("{{storage: {{{fields}}}}}"));
    let variable = |fields: &str| storage(&format!("url: 's3://b', env: [{{{fields}}}]"));
    for url in ["s3://b", "s3://b/", "gs://my-bucket.example_1/fleets/One", "s3://b/a/b_c/"] {
        parse_manifest(&storage(&format!("url: '{url}'"))).unwrap_or_else(|error| panic!("{url}: {error}"));
    }
    let region = variable("name: AWS_REGION, value: eu-central-1");
    let secret = variable("name: AWS_SECRET_ACCESS_KEY, secretKeyRef: {name: s, key: k}");
    for right in [region, secret] {
        parse_manifest(&right).unwrap_or_else(|error| panic!("{right}: {error}"));
    }
    let form = "The URL must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, where a prefix has letters, digits, '-', '.', '_' \
                and '/', and no '/' follows another.";
    for url in
        ["file:///objects", "s3://", "s3://key:secret@b", "s3://b:80/x", "s3://b//x", "s3://b/x?y", "s3://B", "b/x"]
    {
        assert_refused(&[(storage(&format!("url: '{url}'")), "spec.storage.url", form)]);
    }
    let one = "A setting of the object store must set exactly one of value and secretKeyRef.";
    let name = "The name of a setting of the object store must begin with AWS_ or GOOGLE_ and be upper-case letters, digits \
                and '_', such as AWS_REGION.";
    assert_refused(&[
        (variable("name: AWS_REGION"), "spec.storage.env[0]", one),
        (variable("name: AWS_REGION, value: a, secretKeyRef: {name: s, key: k}"), "spec.storage.env[0]", one),
        (variable("name: LD_PRELOAD, value: a"), "spec.storage.env[0].name", name),
        (variable("name: aws_region, value: a"), "spec.storage.env[0].name", name),
        (
            variable("name: AWS_REGION, value: \"a\\nb\""),
            "spec.storage.env[0].value",
            "The value of a setting must be one line of text, without control characters.",
        ),
    ]);
    let secret = "This credential must come from a Secret, since everyone who may read the cluster would see it; set secretKeyRef.";
    for name in ["AWS_SECRET_ACCESS_KEY", "AWS_SSE_CUSTOMER_KEY_BASE64", "GOOGLE_SERVICE_ACCOUNT_KEY"] {
        let told = variable(&format!("name: {name}, value: s3cret"));
        assert_refused(&[(told, "spec.storage.env[0].value", secret)]);
    }
}
