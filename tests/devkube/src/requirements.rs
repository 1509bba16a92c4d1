//! The programs that this machine must have for a cluster. Checks which ones are missing, without running any.

use std::path::Path;

use crate::{
    command::which,
    error::{Error, Missing, Result, Source},
};

/// Programs for every machine of a cluster.
const MACHINE: &[Missing] = &[
    Missing { program: "ip", source: Source::Debian("iproute2") },
    Missing { program: "sysctl", source: Source::Debian("procps") },
    Missing { program: "nsenter", source: Source::Debian("util-linux") },
    Missing { program: "unshare", source: Source::Debian("util-linux") },
    Missing { program: "setsid", source: Source::Debian("util-linux") },
    Missing { program: "mount", source: Source::Debian("mount") },
];

/// Additional programs for nodes.
const NODE: &[Missing] = &[
    Missing { program: "containerd", source: Source::Debian("containerd") },
    Missing { program: "ctr", source: Source::Debian("containerd") },
    Missing { program: "containerd-shim-runc-v2", source: Source::Debian("containerd") },
    Missing { program: "runc", source: Source::Debian("runc") },
    Missing { program: "iptables", source: Source::Debian("iptables") },
    Missing { program: "conntrack", source: Source::Debian("conntrack") },
];

/// Programs that build the cluster's programs.
const BUILD: &[Missing] = &[
    Missing { program: "go", source: Source::Other("1.26 or later, from https://go.dev/dl") },
    Missing { program: "setpriv", source: Source::Debian("util-linux") },
    Missing { program: "cc", source: Source::Debian("gcc libc6-dev") },
];

/// Debian's folder for the CNI plugins.
pub(crate) const CNI: &str = "/usr/lib/cni";
/// Path of the statically linked busybox.
pub const BUSYBOX: &str = "/bin/busybox";

/// Checks that a cluster can run on this machine: one with nodes, or only a control plane.
///
/// # Errors
/// [`Error::NotRoot`], or [`Error::Missing`] with all missing programs.
pub(crate) fn check_run(nodes: bool) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let mut missing = lacking(MACHINE, |program| which(program).is_some());
    if !nodes {
        return none(missing);
    }
    missing.extend(lacking(NODE, |program| which(program).is_some()));
    if !Path::new(CNI).join("bridge").exists() {
        missing.push(Missing { program: "the CNI plugins", source: Source::Debian("containernetworking-plugins") });
    }
    none(missing)
}

/// Checks that the cluster's programs can be built on this machine.
///
/// # Errors
/// [`Error::Missing`] with all missing programs.
pub(crate) fn check_build() -> Result<()> {
    none(lacking(BUILD, |program| which(program).is_some()))
}

/// Returns this machine's static busybox, for images with a userland.
///
/// # Errors
/// [`Error::Missing`] if it can't be read.
pub fn busybox() -> Result<Vec<u8>> {
    let missing = || Error::Missing(vec![Missing { program: "busybox", source: Source::Debian("busybox-static") }]);
    std::fs::read(BUSYBOX).map_err(|_| missing())
}

fn lacking(wanted: &[Missing], present: impl Fn(&str) -> bool) -> Vec<Missing> {
    wanted.iter().filter(|wanted| !present(wanted.program)).copied().collect()
}

fn none(missing: Vec<Missing>) -> Result<()> {
    if missing.is_empty() { Ok(()) } else { Err(Error::Missing(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_up_installs_all_that_is_looked_for() {
        let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../setup")).unwrap();
        for Missing { program, source } in [MACHINE, NODE, BUILD].concat() {
            if let Source::Debian(packages) = source {
                let package = packages.split(' ').next().unwrap();
                assert!(script.contains(&format!("need {program} {package}\n")), "tests/setup needs no {program}");
            }
        }
    }

    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let missing = lacking(NODE, |program| program != "runc" && program != "iptables");
        let error = none(missing).unwrap_err().to_string();
        assert!(error.contains("lacks runc, iptables") && error.contains("apt-get install runc iptables"), "{error}");
    }
}
