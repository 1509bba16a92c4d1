//! The object store for large inputs and outputs.

use super::*;

const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: large, namespace: b, uid: c}
spec:
  storage:
    url: s3://objects/fleet
    env:
    - {name: AWS_REGION, value: 'eu-$(NAME)'}
    - {name: AWS_SECRET_ACCESS_KEY, secretKeyRef: {name: bucket, key: secret}}
  pools:
  - name: in
    executor: {command: {argv: [cat]}}
    template:
      env:
      - {name: ROBEING_OBJECT_STORE, value: 's3://mine'}
      - {name: ROBEING_STORE_AWS_SECRET_ACCESS_KEY, value: mine}
  - name: beside
    slots: 2
    executor: {worker: {}}
    container: {image: 'example/image:1'}
";

#[test]
fn agents_alone_get_the_object_store_and_its_credentials_by_reference() {
    let objects = objects(&fleet(&cluster(MANIFEST)));
    for pool in ["large-in", "large-beside"] {
        let template = template(object(&objects, "Deployment", pool));
        let [agent] = &template["spec"]["containers"].as_array().expect("a list")[..] else { panic!("{template}") };
        let env = agent["env"].as_array().expect("a list");
        let variable = |name: &str| {
            let found: Vec<&Value> = env.iter().filter(|variable| variable["name"] == name).collect();
            let [variable] = found[..] else { panic!("{pool}: {name}: {found:?}") };
            variable.clone()
        };
        assert_eq!(variable("ROBEING_OBJECT_STORE")["value"], "s3://objects/fleet", "{pool}");
        assert_eq!(variable("ROBEING_STORE_AWS_REGION")["value"], "eu-$$(NAME)", "{pool}: nothing is expanded");
        let secret = variable("ROBEING_STORE_AWS_SECRET_ACCESS_KEY");
        let from = serde_json::json!({"secretKeyRef": {"name": "bucket", "key": "secret"}});
        assert_eq!((&secret["valueFrom"], &secret["value"]), (&from, &Value::Null), "{pool}");
        let others = template["spec"]["initContainers"].to_string();
        assert!(!others.contains("ROBEING_STORE_"), "{pool}: {others}");
        if pool == "large-beside" {
            assert_eq!(agent["resources"]["limits"]["memory"], "520Mi", "there is room for what is fetched and stored");
        }
    }
    let coordinators = objects.iter().filter(|desired| desired.kind.kind == "StatefulSet").map(template);
    let coordinators: Vec<String> = coordinators.map(|template| template.to_string()).collect();
    assert_eq!(coordinators.len(), 1);
    assert!(!coordinators[0].contains("ROBEING_STORE_"), "{coordinators:?}");
}
