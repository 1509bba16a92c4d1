//! The generated definition is up to date and meets the API server's requirements.

use std::{collections::BTreeSet, fs, path::Path};

use kube::core::cel::{compile_schema, estimate_rule_cost};
use robeing_crds::{API_VERSION, GROUP, KIND, RobeingCluster, VERSION, crd, crd_yaml, reference};
use robeing_settings::AgentRole;
use serde_json::Value;

fn schema() -> Value {
    let schema = crd().spec.versions.remove(0).schema.and_then(|schema| schema.open_api_v3_schema);
    serde_json::to_value(schema.expect("the definition has a schema")).expect("a schema has a JSON form")
}

/// Calls `visit` with the path of every schema in `schema`, including `schema` itself.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{path}.{name}"), visit);
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            walk(&schema[keyword], &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn the_files_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, text) in [("robeingclusters.yaml", crd_yaml()), ("../docs/reference.md", reference())] {
        let found = fs::read_to_string(folder.join(file)).unwrap_or_default();
        assert!(found == text, "{file} is stale; run `make crds` and commit it");
    }
}

#[test]
fn the_description_of_roles_says_what_each_is_for() {
    let schema = schema();
    let description =
        &schema["properties"]["spec"]["properties"]["pools"]["items"]["properties"]["role"]["description"];
    let description = description.as_str().expect("a description");
    for role in AgentRole::ALL {
        let traits = role.traits();
        let [duties, skills] = [traits.responsibilities, traits.capabilities].map(|words| words.join(", "));
        let sentence = format!("{role:?}: {duties}; {skills}; priority {}.", traits.priority);
        assert!(description.contains(&sentence), "{sentence}");
    }
}

#[test]
fn the_reference_has_every_field_and_every_refusal_of_ours() {
    let (schema, text) = (schema(), reference());
    let plain = text.replace("\\|", "|");
    walk(&schema, "", &mut |path, inner| {
        let name = path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
        if inner["description"].is_string() && !name.is_empty() {
            assert!(text.contains(&format!("`{name}`")) || text.contains(&format!(".{name}")), "{path} is missing");
        }
        // The name belongs to the resource as a whole; its rules are listed at the beginning of the page.
        if path.starts_with(".metadata") {
            return;
        }
        for rule in inner["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(plain.contains(message), "{path}: {message:?} is missing");
        }
    });
}

#[test]
fn the_file_reads_back_as_the_definition() {
    let read: Value = serde_yaml::from_str(&crd_yaml()).expect("the file is YAML");
    let made = serde_json::to_value(crd()).expect("a definition has a JSON form");
    // Compare through the Kubernetes type, because YAML does not distinguish 7.0 from 7.
    let read: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition =
        serde_json::from_value(read).expect("the file is a definition");
    assert_eq!(serde_json::to_value(read).expect("JSON"), made);
}

#[test]
fn names_and_columns_are_what_kubectl_shows() {
    let spec = crd().spec;
    assert_eq!((spec.group.as_str(), spec.scope.as_str()), ("robeing.io", "Namespaced"));
    assert_eq!(spec.names.plural, "robeingclusters");
    assert_eq!(spec.names.short_names, Some(vec!["rbc".to_owned()]));
    let version = &spec.versions[0];
    assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()), "status is a subresource");
    let columns: Vec<String> =
        version.additional_printer_columns.iter().flatten().map(|column| column.name.to_uppercase()).collect();
    assert_eq!(columns, ["PHASE", "LEADER", "COORDINATORS", "AGENTS", "RUNNING", "QUEUED", "AGE"]);
    assert_eq!(API_VERSION, format!("{GROUP}/{VERSION}"));
    assert_eq!(<RobeingCluster as kube::Resource>::kind(&()), KIND);
    assert_eq!(<RobeingCluster as kube::Resource>::api_version(&()), API_VERSION);
}

#[test]
fn every_field_of_ours_is_explained() {
    let mut silent = Vec::new();
    walk(&schema(), "", &mut |path, schema| {
        let embedded = [
            "resources.",
            "container.",
            "template.",
            "imagePullSecrets",
            "conditions[]",
            "[][]",
            ".metadata",
            ".apiVersion",
            ".kind",
        ];
        let list_item = path.ends_with("[]");
        if !path.is_empty()
            && !list_item
            && !embedded.iter().any(|part| path.contains(part))
            && schema["description"].is_null()
        {
            silent.push(path.to_owned());
        }
    });
    assert!(silent.is_empty(), "`kubectl explain` would say nothing about {silent:?}");
}

#[test]
fn the_reader_of_manifests_knows_every_keyword() {
    let known: BTreeSet<&str> = [
        "type",
        "title",
        "format",
        "description",
        "default",
        "enum",
        "required",
        "properties",
        "additionalProperties",
        "items",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "x-kubernetes-validations",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
    ]
    .into();
    walk(&schema(), "", &mut |path, schema| {
        for keyword in schema.as_object().expect("a schema is an object").keys() {
            assert!(known.contains(keyword.as_str()), "{path} uses {keyword}, which parse_manifest does not check");
        }
    });
}

#[test]
fn rules_are_within_the_cost_that_the_api_server_allows() {
    let mut rules = 0;
    walk(&schema(), "", &mut |path, schema| {
        let compiled = compile_schema(schema);
        assert!(!compiled.has_errors(), "{path}: {:?}", compiled.compilation_errors());
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            let warnings = estimate_rule_cost(rule["rule"].as_str().expect("a rule"), &compiled);
            assert!(warnings.is_empty(), "{path}: {warnings:?}");
            let sentence =
                rule["message"].as_str().or(rule["messageExpression"].as_str()).expect("a rule has a sentence");
            assert!(sentence.trim_end_matches('\'').ends_with('.'), "{path}: {sentence:?} is no sentence");
        }
    });
    assert!(rules > 15, "the rules are in the schema, but only {rules} were found");
}

#[test]
fn a_client_side_apply_fits_in_its_annotation() {
    let largest = 262_144;
    let size = serde_json::to_vec(&crd()).expect("a definition has a JSON form").len();
    assert!(size < largest / 2, "the definition has {size} bytes as JSON; kubectl apply can keep {largest}");
}
