//! The image, as the Dockerfile and `make image` define it.

use std::{path::Path, process::Command};

use super::{compose, mounts, read, root, services};

/// Returns the value of the line in the Dockerfile's last stage that begins with this instruction.
fn instruction(word: &str) -> String {
    let dockerfile = read("Dockerfile");
    let last_stage = dockerfile.rsplit("\nFROM ").next().expect("there is a stage").to_owned();
    let found = last_stage.lines().find_map(|line| line.strip_prefix(&format!("{word} ")).map(str::to_owned));
    found.unwrap_or_else(|| panic!("the Dockerfile's last stage has no {word}"))
}

/// Returns the commands that `make image` would run.
fn make_image() -> String {
    let make = Command::new("make").args(["--dry-run", "image"]).current_dir(root()).env_remove("MAKEFLAGS").output();
    let output = make.expect("make is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn after<'a>(text: &'a str, flag: &str) -> Vec<&'a str> {
    text.split(&format!("{flag} ")).skip(1).filter_map(|rest| rest.split_whitespace().next()).collect()
}

#[test]
fn the_dockerfile_and_make_image_make_the_same_image() {
    let (dockerfile, make) = (read("Dockerfile"), make_image());
    assert!(!dockerfile.contains("# syntax"), "BuildKit would fetch a frontend from a registry");
    let programs = ["robeing-operator", "robeing-agent", "robeing"];
    let in_docker = dockerfile.split("mkdir -p /image").nth(1).expect("programs are copied to /image");
    for (what, built) in [("the Dockerfile", &dockerfile), ("make image", &make)] {
        assert_eq!(
            after(built, "--bin").into_iter().filter(|bin| *bin != "devkube").collect::<Vec<_>>(),
            programs,
            "{what}"
        );
        assert_eq!(after(built, "--profile"), ["image"], "{what}");
        assert!(built.contains("-unknown-linux-musl"), "{what} links statically");
    }
    for program in programs {
        assert!(in_docker.contains(&format!("target/$target/image/{program}\"")), "the Dockerfile copies {program}");
        assert!(make.contains(&format!("/image/{program}:/{program}:0755")), "make image copies {program}");
    }
    assert_eq!(instruction("USER"), after(&make, "--user")[0]);
    assert_eq!(instruction("USER"), "65532:65532");
    assert_eq!(instruction("ENTRYPOINT"), format!("[\"{}\"]", after(&make, "--entrypoint")[0]));
    assert!(dockerfile.contains("\nFROM scratch\n"), "the image contains nothing else");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(instruction("ARG"), format!("VERSION={version}"));
    let names = ["robeing:latest", "robeing:coordinator", "robeing:worker"];
    assert_eq!(after(&make, "--name")[0], format!("robeing:{version}"));
    assert_eq!(after(&make, "--name")[1..], names, "the names in the classic manifests");
}

#[test]
fn docker_is_sent_the_whole_workspace_and_nothing_else() {
    let ignored = read(".dockerignore");
    let lines: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "*", "everything is excluded except what is named");
    let sent: Vec<&str> = lines[1..].iter().filter_map(|line| line.strip_prefix('!')).collect();
    // Folders in those that are sent.
    let left_out: Vec<&str> = lines[1..].iter().copied().filter(|line| !line.starts_with('!')).collect();
    for needed in ["Cargo.toml", "Cargo.lock", ".cargo"] {
        assert!(sent.contains(&needed), "{needed}");
    }
    let manifest = read("Cargo.toml");
    let members =
        manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("there are members");
    for member in members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()) {
        let top = member.split('/').next().expect("a path");
        let is_left_out = left_out.iter().any(|folder| Path::new(member).starts_with(folder));
        assert!(sent.contains(&top) && !is_left_out, "{member} is part of the workspace but not sent");
    }
    for forbidden in [".git", "target", "."] {
        assert!(!sent.contains(&forbidden), "{forbidden}");
    }
}

/// A new volume gets the owner of the directory at its place in the image; without one, it is root's.
#[test]
fn the_image_has_a_directory_of_its_user_for_every_volume() {
    let dockerfile = read("Dockerfile");
    let copied: Vec<&str> = dockerfile.lines().filter(|line| line.starts_with("COPY ")).collect();
    let flag = format!(" --chown={} ", instruction("USER"));
    let compose = compose();
    let all: Vec<String> = services(&compose).values().flat_map(mounts).map(|mount| mount.path).collect();
    assert!(!all.is_empty(), "the coordinator keeps its data on a volume");
    for path in all {
        let end = format!(" {path}/");
        assert!(
            copied.iter().any(|line| line.contains(&flag) && line.ends_with(&end)),
            "the image has no directory {path} of its user"
        );
    }
}
