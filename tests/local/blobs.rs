//! Inputs and outputs that are too large for the log, in the object store of `robeing dev`. All processes are real.

use std::fs;

use robeing_tests::{
    terminal::Terminal,
    wait::{check, eventually},
};

const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: large}
spec:
  coordinators: {replicas: 1}
  pools:
  - {name: copy, replicas: 1, executor: {command: {argv: [/bin/cat]}}}
";

/// Submits a task, once the fleet has agreed on a version with references, and returns its id when it has succeeded.
async fn done(terminal: &Terminal, line: &[&str]) -> String {
    let line = [&["submit", "--kind", "copy"][..], line].concat();
    let id = eventually("the task is accepted", async || {
        let ended = terminal.run(&line).await;
        check(ended.code == Some(0), ended.stdout.trim().to_owned(), ended)
    })
    .await;
    terminal.run(&["task", &id, "--watch"]).await.success();
    id
}

#[tokio::test]
async fn a_large_input_and_its_output_go_through_the_object_store_and_are_passed_on() {
    let terminal = Terminal::default();
    terminal.write("manifest.yaml", MANIFEST);
    // 5 MiB.
    terminal.write("large", &"0123456789abcde\n".repeat(5 << 16));
    terminal.write("small", "first\n");
    let dev = terminal.dev(&["-f", "manifest.yaml", "--data", "data"]);
    dev.line_with(&["ready"]).await;

    let id = done(&terminal, &["--input", "large"]).await;
    terminal.shell(&format!("robeing task {id} --result > copy && cmp large copy")).await.success();
    let task = terminal.run(&["task", &id, "-o", "json"]).await.json();
    assert_eq!(task["inputRef"], task["outputRef"], "an object is called by what is in it: {task}");
    assert!(task["outputRef"].to_string().contains("5242880"), "{task}");
    let objects = || fs::read_dir(terminal.dir().join("data/objects/sha256")).expect("it is there").count();
    assert_eq!(objects(), 1, "the same content is stored once");

    let both = done(&terminal, &["--input", "small", "--depends-on", &id, "--results-as-input"]).await;
    terminal.shell(&format!("robeing task {both} --result > both && cat small large | cmp - both")).await.success();
    assert_eq!(objects(), 2);

    let written = "robeing submit --kind copy --input large --wait > waited && cmp large waited";
    terminal.shell(written).await.success();

    // Two parts, whose results together are too large for the log.
    terminal.write("lines", &format!("\"{0}\"\n\"{0}\"\n", "x".repeat(700_000)));
    let joined = "robeing submit --kind copy --inputs lines --split --join reduce --results-as-input --wait > joined";
    terminal.shell(joined).await.success();
    assert_eq!(fs::metadata(terminal.dir().join("joined")).expect("it is written").len(), 1_400_000);
}
