//! Manifests that are refused as a whole and not for one value: misspelled fields, other kinds, garbage, alias bombs,
//! and texts beyond a limit.

use robeing_crds::{ManifestError, find_cluster, limits, parse_manifest, parse_manifests};

use crate::refusal::{assert_refused, manifest, named, only_problem, pool};

#[test]
fn misspelt_fields() {
    assert_refused(&[
        (
            manifest("{coordinator: {}}"),
            "spec.coordinator",
            "There is no field \"coordinator\" here; did you mean coordinators?",
        ),
        (pool("replica: 3"), "spec.pools[0].replica", "There is no field \"replica\" here; did you mean replicas?"),
        (
            pool("container: {imgae: x}"),
            "spec.pools[0].container.imgae",
            "There is no field \"imgae\" here; did you mean image?",
        ),
        (pool("container: {name: x}"), "spec.pools[0].container.name", "There is no field \"name\" here; remove it."),
        (
            manifest("{recovery: {timeout: 2s}}"),
            "spec.recovery.timeout",
            "There is no field \"timeout\" here; remove it. The fields here are healthCheckInterval, heartbeatInterval, \
             maxAttempts, sessionTimeout.",
        ),
        (named("{name: c, lables: {}}"), "metadata.lables", "There is no field \"lables\" here; did you mean labels?"),
    ]);
}

#[test]
fn something_else_than_a_cluster() {
    let kind = |api_version: &str, kind: &str| format!("apiVersion: {api_version}\nkind: {kind}\nspec: {{odd: 1}}\n");
    assert_refused(&[
        (
            kind("robeing.io/v1", "RobeingCluster"),
            "apiVersion",
            "apiVersion must be robeing.io/v1alpha1, but is \"robeing.io/v1\".",
        ),
        (kind("robeing.io/v1alpha1", "Robeing"), "kind", "kind must be RobeingCluster, but is \"Robeing\"."),
        ("kind: RobeingCluster\n".into(), "", "apiVersion is missing; write apiVersion: robeing.io/v1alpha1."),
        (
            "- a\n- b\n".into(),
            "",
            "A manifest must be a map that starts with apiVersion: robeing.io/v1alpha1 and kind: RobeingCluster.",
        ),
        (
            "just text".into(),
            "",
            "A manifest must be a map that starts with apiVersion: robeing.io/v1alpha1 and kind: RobeingCluster.",
        ),
        (
            "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: c}\n".into(),
            "",
            "The field spec is missing; add it.",
        ),
    ]);
}

#[test]
fn a_list_without_items() {
    let list = |items: &str| format!("apiVersion: v1\nkind: List\n{items}");
    let none =
        "This List has no items, so there is no RobeingCluster; write the RobeingCluster under items, or by itself.";
    let no_list = "The items of a List must be a list; begin each with '-'.";
    assert_refused(&[
        (list(""), "", none),
        (list("items:\n"), "items", none),
        (list("items: {a: 1}\n"), "items", no_list),
        (list("items: text\n"), "items", no_list),
    ]);
    let cluster = format!("{}---\n{}", list("items: []\n"), manifest("{}"));
    let found = find_cluster(&cluster).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.cluster.metadata.name.as_deref(), Some("c"));
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_text() {
    let text = "\
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata:
  name: Fleet
spec:
  coordinators:
    replicas: 4
  pools:
  - name: data
    role: Specialist
    executor: {}
  - name: data
    slots: many
    executer:
      echo: {}
  recovery:
    heartbeatInterval: 5s
";
    insta::assert_snapshot!(parse_manifest(text).expect_err("many problems").to_string());
}

#[test]
fn problems_say_which_document_they_are_in() {
    let text = format!("{}---\n{}", manifest("{}"), manifest("{coordinators: {replicas: 2}}"));
    let error = parse_manifests(&text).expect_err("the second is wrong");
    assert!(
        error.to_string().contains("\n  - document 2, spec.coordinators.replicas (line 9, column 23): The number of"),
        "{error}"
    );
}

#[test]
fn as_many_problems_as_the_limit_are_reported() {
    let fields = |count: usize| (0..count).map(|i| format!("unknown{i}: 1")).collect::<Vec<_>>().join(", ");
    for (found, reported) in
        [(limits::MAX_PROBLEMS - 1, limits::MAX_PROBLEMS - 1), (limits::MAX_PROBLEMS + 9, limits::MAX_PROBLEMS)]
    {
        let error = parse_manifest(&manifest(&format!("{{{}}}", fields(found)))).expect_err("unknown fields");
        assert_eq!(error.problems().len(), reported);
    }
    let error = parse_manifest(&manifest(&format!("{{{}}}", fields(500)))).expect_err("unknown fields");
    assert!(error.to_string().starts_with("The manifest has 50 problems or more:"), "{error}");
}

#[test]
fn text_that_holds_no_manifest() {
    for text in ["", "\n\n", "# a comment\n", "---\n", "--- \n---\n", "null\n", "~"] {
        assert_eq!(parse_manifest(text), Err(ManifestError::Empty), "{text:?}");
    }
    assert_eq!(ManifestError::Empty.to_string(), "The manifest is empty; it must hold a RobeingCluster.");
}

#[test]
fn text_that_is_no_yaml() {
    for text in [
        "apiVersion: [",
        "a: b: c",
        "{",
        "\t- x",
        "a: 1\na: 2\n",
        "\"",
        "&a *a",
        "*nowhere",
        "!!binary 5",
        "a: .nan",
        "a: .inf",
        "\u{0}\u{1}\u{2}",
        "%YAML 9.9\n---\n",
        "? [a]\n: b\n",
        "? {a: b}\n: c\n",
    ] {
        match parse_manifest(text) {
            Err(ManifestError::Syntax { .. } | ManifestError::Invalid { .. }) => {}
            other => panic!("{text:?}: {other:?}"),
        }
    }
    let error = parse_manifest("kind: RobeingCluster\nspec: [\n").expect_err("a list without end");
    assert!(error.to_string().starts_with("The manifest cannot be read as YAML (line "), "{error}");
}

#[test]
fn text_that_is_no_yaml_is_explained() {
    let nested = "[".repeat(limits::MAX_MANIFEST_DEPTH + 1);
    for (text, sentence) in [
        ("kind: a\nkind: b\n".to_owned(), "(line 2, column 1): The field \"kind\" is set twice here; keep one."),
        ("image: {{ .Values.image }}\n".to_owned(), "A field's name must be plain text"),
        (format!("{nested}{}", "]".repeat(nested.len())), "nested more than 48 deep; is it the right file?"),
        (
            vec!["a: 1\n"; limits::MAX_MANIFEST_DOCUMENTS + 1].join("---\n"),
            "There are more than 64 documents; split the file.",
        ),
        ("a: 'b\n".to_owned(), "The parser says: "),
    ] {
        let error = parse_manifests(&text).expect_err(&text).to_string();
        assert!(error.starts_with("The manifest cannot be read as YAML (line "), "{error}");
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn garbage_of_every_sort_is_refused_without_a_panic() {
    // A small generator with a fixed seed, so that the garbage is the same every time.
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let whole = manifest(
        "{coordinators: {replicas: 3}, pools: [{name: p, slots: 2, executor: {echo: {}}}], recovery: {sessionTimeout: 2s}}",
    );
    let alphabet: Vec<char> = "{}[]:,-#&*!|>'\"%@` \n\tab10.~é\u{0}".chars().collect();
    for _ in 0..300 {
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..=next() % 4 {
            let at = next() as usize % text.len();
            text[at] = alphabet[next() as usize % alphabet.len()];
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = parse_manifests(&text) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn wrong_types_everywhere_are_problems_and_no_panics() {
    let whole = manifest("{}").replace("{name: c}", "NAME").replace("spec: {}", "spec: SPEC");
    for value in ["1", "text", "[]", "[1]", "{}", "true", "-1.5", "99999999999999999999999999", "[[[]]]", "{a: {b: c}}"]
    {
        for spec in [
            value.to_owned(),
            format!("{{coordinators: {value}}}"),
            format!("{{pools: {value}}}"),
            format!("{{pools: [{value}]}}"),
            format!("{{pools: [{{name: {value}, role: {value}, specializations: {value}, executor: {value}}}]}}"),
            format!(
                "{{recovery: {{heartbeatInterval: {value}, maxAttempts: {value}}}, consensus: {{threshold: {value}}}}}"
            ),
            format!("{{suspend: {value}, image: {value}, scheduling: {value}}}"),
        ] {
            for name in ["{name: c}", value, &format!("{{name: {value}}}")] {
                let text = whole.replace("NAME", name).replace("SPEC", &spec);
                if let Err(error) = parse_manifest(&text) {
                    assert!(!error.to_string().contains("cannot be checked"), "{text}\n{error}");
                    assert!(!error.to_string().contains("cannot be read"), "{text}\n{error}");
                }
            }
        }
    }
}

#[test]
fn nesting_up_to_the_limit_is_read() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let (_, message) = only_problem(&nested(limits::MAX_MANIFEST_DEPTH));
    assert!(message.starts_with("A manifest must be a map"), "{message}");
    for depth in [limits::MAX_MANIFEST_DEPTH + 1, 10_000] {
        let error = parse_manifest(&nested(depth)).expect_err("too deep");
        assert!(matches!(error, ManifestError::Syntax { .. }), "{error}");
    }
}

#[test]
fn documents_up_to_the_limit_are_read() {
    let text = |count: usize| (0..count).map(|_| manifest("{}")).collect::<Vec<_>>().join("---\n");
    assert_eq!(parse_manifests(&text(limits::MAX_MANIFEST_DOCUMENTS)).expect("as many as allowed").len(), 64);
    let error = parse_manifests(&text(limits::MAX_MANIFEST_DOCUMENTS + 1)).expect_err("one too many");
    assert!(matches!(error, ManifestError::Syntax { .. }), "{error}");
}

#[test]
fn aliases_are_read_but_bombs_are_not() {
    let text = "\
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: c}
spec:
  pools:
  - {name: a, executor: &same {echo: {}}}
  - {name: b, executor: *same}
";
    parse_manifest(text).unwrap_or_else(|error| panic!("{error}"));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let error = parse_manifest(&bomb).expect_err("a billion values");
    assert!(
        error.to_string().ends_with("The aliases stand for more than 10000 values; write them out instead."),
        "{error}"
    );
}
