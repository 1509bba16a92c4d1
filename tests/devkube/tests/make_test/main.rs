//! Tests what `make test` does besides testing: it sets the machine up (`tests/setup`), continues after failures and
//! reports them (`tests/run`), and ends all processes that it started (`tests/contained`). The scripts run with stubs
//! instead of the machine's programs, in their own folder: nothing is installed or built.

mod contained;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// Programs of the real machine that every fake one has.
const UTILITIES: [&str; 20] = [
    "awk", "bash", "cat", "chmod", "cut", "date", "dirname", "env", "grep", "mkdir", "mktemp", "printf", "rm", "sed",
    "sh", "sleep", "sort", "tee", "true", "xargs",
];
/// Additional stubs of a machine with Rust and Go.
const RUST: &[(&str, &str)] =
    &[("id", "echo 0"), ("uname", "echo x86_64"), ("cargo", "exit 0"), ("rustc", "echo /nowhere"), ("go", GO)];
const GO: &str = r#"case $2 in GOVERSION) echo go1.26.1 ;; GOTOOLCHAIN) echo local ;; esac"#;
/// A stub of `apt-get` that adds stubs of the programs in the requested packages, to the folders that Debian uses.
const APT_GET: &str = r#"
    echo "apt-get $*" >> "$SETUP_ROOT/calls"
    stand_in() { for file in "$@"; do
        mkdir -p "${file%/*}"; printf '#!/bin/sh\n[ "$1" != -print-file-name=libc.a ] || echo "$SETUP_ROOT/libc.a"\n' > "$file"
        chmod 755 "$file"
    done; }
    bin=$SETUP_ROOT/usr/bin
    for package in "$@"; do case $package in
        gcc) stand_in "$bin/cc" ;;
        libc6-dev) stand_in "$SETUP_ROOT/libc.a" ;;
        containerd) stand_in "$bin/containerd" "$bin/ctr" "$bin/containerd-shim-runc-v2" ;;
        containernetworking-plugins) stand_in "$SETUP_ROOT/usr/lib/cni/bridge" ;;
        iproute2) stand_in "$bin/ip" ;;
        procps) stand_in "$bin/sysctl" ;;
        util-linux) stand_in "$bin/nsenter" "$bin/unshare" "$bin/setsid" "$bin/setpriv" ;;
        busybox-static) stand_in "$SETUP_ROOT/bin/busybox" ;;
        runc|iptables) stand_in "$SETUP_ROOT/usr/sbin/$package"; stand_in "$bin/$package" ;;
        conntrack|make|mount|prometheus) stand_in "$bin/$package" ;;
        musl-tools) stand_in "$bin/musl-gcc" ;;
    esac; done"#;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// A fake machine: a folder of stubs.
struct Machine {
    root: TempDir,
}

impl Machine {
    /// Returns a machine with only Rust, Go and `apt-get`.
    fn fresh() -> Self {
        let machine = Self { root: tempfile::tempdir().expect("a temporary folder") };
        for name in UTILITIES {
            let found =
                ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name)).into_iter().find(|it| it.exists());
            let found = found.unwrap_or_else(|| panic!("this machine has no {name}"));
            fs::create_dir_all(machine.bin()).expect("a folder");
            symlink(found, machine.bin().join(name)).expect("a link");
        }
        RUST.iter().for_each(|(name, does)| machine.add(name, does));
        machine.add("apt-get", APT_GET);
        machine
    }

    fn bin(&self) -> PathBuf {
        self.root.path().join("usr/bin")
    }

    /// Adds a stub, or replaces it.
    fn add(&self, name: &str, does: &str) {
        let path = self.bin().join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/bash\n{does}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program that can be run");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.bin().join(name)).expect("it is there");
    }

    /// Returns the calls that the stubs have recorded, and clears the record.
    fn calls(&self) -> Vec<String> {
        let file = self.root.path().join("calls");
        let calls = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        calls.lines().map(String::from).collect()
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/bash");
        command.arg(script(name)).args(arguments).env_clear();
        command.env("PATH", self.bin()).env("SETUP_ROOT", self.root.path()).env("HOME", self.root.path());
        command
    }

    /// Runs one of the scripts; returns whether it succeeded, and its stdout and stderr.
    fn run(&self, mut command: Command) -> (bool, String) {
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("bash can be started");
        (status.success(), [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
    }

    fn set_up(&self, parts: &[&str]) -> (bool, String) {
        self.run(self.command("setup", parts))
    }
}

#[test]
fn all_that_is_missing_is_installed_at_once_and_then_nothing() {
    let machine = Machine::fresh();
    let (succeeded, said) = machine.set_up(&["build", "kube"]);
    assert!(succeeded, "{said}");
    assert!(said.contains("this machine lacks cc libc.a make containerd"), "{said}");
    // This Go downloads the toolchain that it needs.
    machine.add("go", &GO.replace("1.26.1", "1.24.5").replace("local", "auto"));
    let calls = machine.calls();
    let [update, install] = &calls[..] else { panic!("{calls:?}") };
    assert!(update.ends_with(" update"), "{update}");
    let packages = "gcc libc6-dev make containerd runc containernetworking-plugins iptables conntrack iproute2 procps \
                    util-linux mount busybox-static prometheus";
    assert!(install.ends_with(&format!("install -y --no-install-recommends {packages}")), "{install}");
    assert_eq!(machine.set_up(&["build", "kube"]), (true, String::new()), "all is there");
    assert_eq!(machine.calls(), Vec::<String>::new(), "nothing is asked for that is there");
}

#[test]
fn only_what_is_asked_for_is_installed() {
    let machine = Machine::fresh();
    let (succeeded, said) = machine.set_up(&["build"]);
    assert!(succeeded, "{said}");
    assert!(machine.calls()[1].ends_with(" gcc libc6-dev make"), "Kubernetes is left out");
    let (succeeded, said) = machine.set_up(&["kubernetes"]);
    assert!(!succeeded && said.contains("unknown part kubernetes; known: build kube lint image"), "{said}");
}

#[test]
fn who_is_not_root_asks_sudo_for_it() {
    let machine = Machine::fresh();
    machine.add("id", "echo 1000");
    machine.add("sudo", r#"echo "sudo $*" >> "$SETUP_ROOT/calls"; exec "$@""#);
    let (succeeded, said) = machine.set_up(&["build", "kube"]);
    assert!(succeeded, "{said}");
    let sudo: Vec<_> = machine.calls().into_iter().filter(|call| call.starts_with("sudo")).collect();
    assert!(sudo[0] == "sudo true" && sudo[1].ends_with(" update") && sudo[2].contains(" install -y "), "{sudo:?}");
    // Programs in /usr/sbin are found, although Debian does not put it in the PATH of other users.
    machine.remove("runc");
    machine.remove("iptables");
    assert_eq!(machine.set_up(&["build", "kube"]), (true, String::new()));
    assert_eq!(machine.calls(), ["sudo true"], "the tests themselves need root");
    assert_eq!(machine.set_up(&["build"]), (true, String::new()));
    assert_eq!(machine.calls(), Vec::<String>::new(), "without Kubernetes nothing needs root");
}

#[test]
fn what_can_not_be_set_up_is_told_in_a_sentence() {
    let check = |change: &dyn Fn(&Machine), parts: &[&str], sentence: &str| {
        let machine = Machine::fresh();
        let for_kubernetes = parts.contains(&"kube");
        if for_kubernetes {
            // Everything else is installed.
            machine.set_up(&["build"]);
        }
        change(&machine);
        let (succeeded, said) = machine.set_up(parts);
        assert!(!succeeded && said.contains(sentence), "expected {sentence:?} in {said}");
        assert_eq!(said.contains("make test KUBE=no"), for_kubernetes, "the way without, where it helps: {said}");
    };
    let no_root = |machine: &Machine| machine.add("id", "echo 1000");
    check(&no_root, &["build"], "apt-get install gcc libc6-dev make needs root: run this as root, or install sudo");
    check(&no_root, &["build", "kube"], "needs root: run this as root, or install sudo");
    let all_but_root = |machine: &Machine| {
        machine.set_up(&["kube"]);
        no_root(machine);
    };
    check(&all_but_root, &["build", "kube"], "a throwaway Kubernetes needs root: run this as root, or install sudo");
    let refused = |machine: &Machine| {
        no_root(machine);
        machine.add("sudo", "exit 1");
    };
    check(&refused, &["build", "kube"], "needs root, but sudo failed");
    let no_network = |machine: &Machine| machine.add("apt-get", "echo could not resolve; exit 100");
    check(&no_network, &["build", "kube"], "apt-get could not install containerd runc");
    let nothing_in_it = |machine: &Machine| machine.add("apt-get", "exit 0");
    check(&nothing_in_it, &["build"], "but cc libc.a make is still missing");
    check(&|machine| machine.remove("apt-get"), &["build"], "install manually what Debian has in gcc libc6-dev make");
    check(&|machine| machine.remove("cargo"), &["build"], "Rust is missing: install it from https://rustup.rs");
    let go = "built with Go 1.26 or later, from https://go.dev/dl; found";
    check(&|machine| machine.remove("go"), &["build", "kube"], &format!("{go} none"));
    let old = |machine: &Machine| machine.add("go", &GO.replace("1.26.1", "1.24rc2"));
    check(&old, &["build", "kube"], &format!("{go} go1.24rc2"));
    check(&|machine| machine.remove("rustc"), &["image"], "rustup, which would add it");
}

/// A stub of `cargo` with test programs, of which `local` and `operator` (which needs Kubernetes) fail, `simulation` is
/// killed by a signal, and `crowd` does not end in time.
const CARGO: &str = r#"
    [ "$1" != -vV ] || { echo 'host: riscv-linux'; exit; }
    echo "cargo $*" >> "$SETUP_ROOT/calls"
    [ "$1" != nextest ] || exit 1
    [ "$1" != metadata ] || for test in local cluster kubernetes operator simulation crowd; do
        run=true; [ $test != kubernetes ] || run=false
        printf '{"kind":["test"],"crate_types":["bin"],"name":"%s","doc":false,"doctest":false,"test":%s},' $test $run
    done
    failed=0
    case $* in *' -- firewall::') echo 'test result: ok. 1 passed; 0 failed'; exit 0 ;; esac
    if [ "$1" = test ]; then for argument in "$@"; do case $argument in
        local) printf '     Running local/main.rs (target/debug/deps/local-1)\ntest one ... FAILED\ntest two ... FAILED\n'
            printf 'failures:\n\n---- one stdout ----\n    not a name\n\nfailures:\n    one\n    two\n\n'
            echo 'test result: FAILED. 0 passed; 2 failed'; failed=101 ;;
        simulation) printf '     Running tests/simulation.rs (target/debug/deps/simulation-1)\nerror: test failed\n'
            printf "\nCaused by:\n  process didn't exit successfully: \`target/simulation-1 --x\` (signal: 6, SIGABRT)\n"
            failed=101 ;;
        crowd) printf '     Running tests/crowd.rs (target/debug/deps/crowd-1)\ntest quick ... ok\n'
            for test in slow stuck; do echo "test $test has been running for over 60 seconds"; done
            printf 'test slow ... ok\nerror: test failed\n\nCaused by:\n'
            echo "  process didn't exit successfully: \`timeout 25m target/crowd-1 --x\` (exit status: 124)"
            failed=101 ;;
        operator) printf '     Running operator/main.rs (target/debug/deps/operator-1)\nfailures:\n    three\n'
            echo 'test result: FAILED. 0 passed; 1 failed'; failed=101 ;;
        --doc) printf '   Doc-tests devkube\ntest result: ok. 1 passed; 0 failed\n' ;;
    esac; done; fi
    exit $failed"#;

impl Machine {
    /// Returns a machine on which `make test` has tests to run.
    fn with_tests() -> Self {
        let machine = Self::fresh();
        machine.set_up(&["build", "kube"]);
        machine.add("cargo", CARGO);
        machine.devkube("exit 0");
        machine.calls();
        machine
    }

    /// Adds a stub of `devkube`, which builds the throwaway Kubernetes.
    fn devkube(&self, does: &str) {
        let folder = self.root.path().join("target/debug");
        fs::create_dir_all(&folder).expect("a folder");
        self.add("devkube", &format!("echo \"devkube $*\" >> \"$SETUP_ROOT/calls\"\n{does}"));
        fs::rename(self.bin().join("devkube"), folder.join("devkube")).expect("a program in its place");
    }

    fn tests(&self, kube: Option<&str>) -> (bool, String) {
        let mut command = self.command("run", &[]);
        command.env("CARGO_TARGET_DIR", self.root.path().join("target")).envs(kube.map(|kube| ("KUBE", kube)));
        self.run(command)
    }

    /// Returns what the recorded calls of `cargo test` start test programs with, and their other arguments.
    fn test_runs(&self) -> Vec<(String, String)> {
        let before = "cargo test --workspace --no-fail-fast --config target.riscv-linux.runner=[";
        let split = |call: String| {
            let (starter, arguments) = call.strip_prefix(before)?.split_once("] ")?;
            Some((starter.to_owned(), arguments.to_owned()))
        };
        self.calls().into_iter().filter_map(split).collect()
    }
}

const FAILURES: &str = "\n  tests/crowd.rs did not end within 25 minutes\n  tests/crowd.rs: stuck did not end\n  \
                        local/main.rs: one\n  local/main.rs: two\n  \
                        tests/simulation.rs ended without a result (signal: 6, SIGABRT)\n";
/// The arguments of `cargo test` after those of every run.
const RUNS: [&str; 4] = [
    "--lib --bins --test crowd --test local --test simulation -- --skip firewall::",
    "--test cluster --test operator",
    "--test local -- firewall::",
    "--doc",
];
/// What test programs are started with.
const LIMIT: &str = "'timeout', '--foreground', '--kill-after=10', '25m'";

/// Returns the runs with these arguments, each with the time limit and without root.
fn limited<const N: usize>(runs: [&str; N]) -> [(String, String); N] {
    runs.map(|arguments| (LIMIT.to_owned(), arguments.to_owned()))
}

#[test]
fn the_tests_run_to_the_last_and_a_summary_says_what_failed() {
    let machine = Machine::with_tests();
    let (succeeded, said) = machine.tests(None);
    assert!(!succeeded);
    assert!(said.ends_with(&format!("\n=== summary\nFAILED:{FAILURES}  operator/main.rs: three\n")), "{said}");
    assert_eq!(machine.test_runs(), limited(RUNS));
    machine.add("cargo", &CARGO.replace("failed=101", "failed=0").replace("FAILED", "ok"));
    let (succeeded, said) = machine.tests(Some("yes"));
    assert!(succeeded && said.ends_with("all tests passed\n"), "{said}");
}

#[test]
fn kube_no_leaves_out_what_needs_kubernetes_and_says_so() {
    let machine = Machine::with_tests();
    machine.devkube("echo it must not be built; exit 1");
    machine.remove("containerd");
    machine.remove("go");
    let (succeeded, said) = machine.tests(Some("no"));
    let left_out = "NOT RUN: cluster operator local::firewall: they need root and Kubernetes, and KUBE=no is set";
    assert!(!succeeded && said.ends_with(&format!("\n=== summary\n{left_out}\nFAILED:{FAILURES}")), "{said}");
    assert_eq!(machine.test_runs(), limited([RUNS[0], RUNS[3]]));
    let (succeeded, said) = machine.tests(Some("perhaps"));
    assert!(!succeeded && said.contains("KUBE must be yes or no, not perhaps"), "{said}");
}

#[test]
fn a_kubernetes_that_can_not_be_built_stops_no_other_test() {
    let machine = Machine::with_tests();
    machine.devkube("echo no module; exit 1");
    let (succeeded, said) = machine.tests(None);
    assert!(!succeeded);
    assert!(
        said.contains("NOT RUN: cluster operator local::firewall: the throwaway Kubernetes could not be built"),
        "{said}"
    );
    assert_eq!(machine.test_runs(), limited([RUNS[0], RUNS[3]]));
}

#[test]
fn who_is_not_root_runs_the_tests_on_kubernetes_by_sudo() {
    let machine = Machine::with_tests();
    machine.add("id", "echo 1000");
    machine.add("sudo", "exec \"$@\"");
    machine.tests(None);
    let runs = machine.test_runs();
    assert_eq!(runs.iter().map(|(_, arguments)| arguments.as_str()).collect::<Vec<_>>(), RUNS);
    for (run, (starter, _)) in runs.iter().enumerate() {
        let is_by_sudo = starter.starts_with("'sudo', '-E', 'env', 'PATH=") && starter.ends_with(&format!(", {LIMIT}"));
        let is_as_user = starter == LIMIT;
        assert!(if run == 1 || run == 2 { is_by_sudo } else { is_as_user }, "run {run}: {starter}");
    }
}

/// The test programs whose source shows that they need root, Kubernetes, helm or Prometheus are the ones that `KUBE=no`
/// leaves out.
#[test]
fn what_needs_kubernetes_is_known_to_the_test_command() {
    let marks = [
        "Cluster::up(",
        "Cluster::for_tests",
        "Stage::up",
        "Deployed::start",
        "\"unshare\"",
        "const HELM",
        "const PROMETHEUS",
    ];
    let manifest = fs::read_to_string(script("Cargo.toml")).expect("the manifest");
    let programs: Vec<_> = manifest.split("[[test]]").skip(1).collect();
    let apart: BTreeSet<_> = programs
        .iter()
        .filter(|test| test.contains("test = false"))
        .filter_map(|test| test.split('"').nth(1))
        .collect();
    let mut found = BTreeSet::new();
    for program in programs.iter().filter_map(|test| test.split('"').nth(1)).filter(|name| !apart.contains(name)) {
        for module in modules_with(&marks, &script(program)) {
            found.insert(if program == "local" { format!("local::{module}") } else { program.to_owned() });
        }
    }
    found.extend(modules_with(&marks, &script("devkube/tests")));
    // This file contains the marks only as strings.
    found.remove("make_test");
    let run = fs::read_to_string(script("run")).expect("the script");
    let list = |name: &str| {
        let opening = format!("{name}=(");
        let found = run.lines().find_map(|line| line.strip_prefix(&opening)?.strip_suffix(')'));
        found.unwrap_or_else(|| panic!("tests/run has no list {name}")).split(' ').map(String::from).collect::<Vec<_>>()
    };
    let modules = list("root_modules").into_iter().map(|name| format!("local::{name}"));
    let known: BTreeSet<_> = list("kube_tests").into_iter().chain(modules).collect();
    assert_eq!(found, known, "tests/run has the lists kube_tests and root_modules");
}

/// Returns the top-level modules of a folder that contain one of the marks, directly or in a submodule.
fn modules_with(marks: &[&str], folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).expect("a folder of tests").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path).is_ok_and(|text| marks.iter().any(|mark| text.contains(mark))) {
                let module = path.strip_prefix(folder).expect("it is below").iter().next().expect("a name");
                found.insert(Path::new(module).with_extension("").display().to_string());
            }
        }
    }
    found
}
