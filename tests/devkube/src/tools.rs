//! The programs of a cluster: built once from the Go modules that are pinned in this crate's folder, and kept in a
//! folder that is named after a hash of the pins. No prebuilt binaries are downloaded.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    command::{program, program_with_children, run, run_with_children},
    error::{Error, Result},
    oci::{Image, architecture, hex},
    record::{create_folder, read, rename, write},
    requirements,
};

/// A cold build of everything took 12 minutes on 2 cores; a busy machine may take several times that.
const BUILD_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// Environment variable for the folder in which the programs are kept.
pub const CACHE_VARIABLE: &str = "DEVKUBE_CACHE";

/// The image of the container that holds a pod's namespaces open.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pause:devkube";
/// The image of the cluster's DNS server.
pub(crate) const DNS_IMAGE: &str = "localhost/coredns:devkube";

const PAUSE: &str = include_str!("pause.c");

/// A Go module that pins the versions of some programs.
struct Module {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// Go package and file name of each program.
    programs: &'static [(&'static str, &'static str)],
    linker: &'static str,
}

macro_rules! files {
    ($module:literal: $($file:literal),+) => {
        &[$(($file, include_str!(concat!("../go/", $module, "/", $file)))),+]
    };
}

const MODULES: &[Module] = &[
    Module {
        name: "etcd",
        files: files!("etcd": "go.mod", "go.sum", "tools.go"),
        programs: &[("go.etcd.io/etcd/server/v3", "etcd")],
        linker: "-s -w",
    },
    Module {
        name: "kubernetes",
        files: files!("kubernetes": "go.mod", "go.sum", "tools.go"),
        programs: &[
            ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
            ("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
            ("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
            ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
            ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
            ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
        ],
        linker: "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 \
                 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34",
    },
    Module {
        name: "coredns",
        files: files!("coredns": "go.mod", "go.sum", "main.go"),
        programs: &[(".", "coredns")],
        linker: "-s -w",
    },
    Module {
        name: "helm",
        files: files!("helm": "go.mod", "go.sum", "tools.go"),
        programs: &[("helm.sh/helm/v3/cmd/helm", "helm")],
        linker: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0",
    },
];

/// The programs to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All programs of a cluster.
    Cluster,
    /// `kubectl` and `helm`, for an existing cluster.
    Clients,
}

/// A folder that contains the built programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Builds the programs that are missing; if another process is building them, waits for it. Calls `progress` with a
    /// description of each step.
    ///
    /// # Errors
    /// If Go, `setpriv` or a C compiler is missing, or a build fails.
    pub async fn ensure(wanted: Wanted, progress: &dyn Fn(&str)) -> Result<Self> {
        let tools = Self { folder: cache()?.join(key()) };
        if tools.lacks(wanted) {
            create_folder(&tools.folder)?;
            progress(&format!("programs are missing in {}", tools.folder.display()));
            let _lock = lock(tools.folder.with_extension("lock")).await?;
            tools.build(wanted, progress).await?;
        }
        Ok(tools)
    }

    /// Uses the programs in an existing folder.
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The whole folder, with `bin` and `images`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the programs, for `PATH`.
    pub fn path(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The archives of the images that are imported on every node.
    pub(crate) fn images(&self) -> [PathBuf; 2] {
        [self.image("pause"), self.image("coredns")]
    }

    fn image(&self, name: &str) -> PathBuf {
        self.folder.join("images").join(format!("{name}.tar"))
    }

    fn lacks(&self, wanted: Wanted) -> bool {
        let images = wanted == Wanted::Cluster && self.images().iter().any(|image| !image.exists());
        images || MODULES.iter().any(|module| !self.missing(module, wanted).is_empty())
    }

    fn missing(&self, module: &'static Module, wanted: Wanted) -> Vec<&'static (&'static str, &'static str)> {
        let missing = module.programs.iter().filter(|(_, name)| !self.program(name).exists());
        missing.filter(|(_, name)| wanted == Wanted::Cluster || matches!(*name, "kubectl" | "helm")).collect()
    }

    async fn build(&self, wanted: Wanted, progress: &dyn Fn(&str)) -> Result<()> {
        requirements::check_build()?;
        create_folder(&self.path())?;
        for module in MODULES {
            let missing = self.missing(module, wanted);
            if !missing.is_empty() {
                let names: Vec<_> = missing.iter().map(|(_, name)| *name).collect();
                progress(&format!("building {} (minutes when nothing is cached)", names.join(", ")));
                self.build_module(module, &missing).await?;
            }
        }
        if wanted == Wanted::Cluster {
            self.build_images(progress).await?;
        }
        Ok(())
    }

    /// Builds in a separate folder and renames, so that every program in place is complete. One `go build` for all
    /// missing programs of a module, because they share most packages.
    async fn build_module(&self, module: &Module, missing: &[&(&str, &str)]) -> Result<()> {
        let source = self.folder.join("source").join(module.name);
        for (name, contents) in module.files {
            write(&source.join(name), contents)?;
        }
        let aside = self.folder.join("aside");
        create_folder(&aside)?;
        // For one program the file name can be chosen; several are written to a folder, named after their packages.
        let output = if let [(_, name)] = missing { aside.join(name) } else { aside.join(".") };
        let mut command = program_with_children("nice");
        command.args(["-n", "10", "go", "build", "-trimpath", "-mod=readonly", "-ldflags", module.linker, "-o"]);
        command.arg(output).args(missing.iter().map(|(package, _)| package));
        command.current_dir(&source).env("CGO_ENABLED", "0").env_remove("GOFLAGS");
        run_with_children(command, BUILD_DEADLINE).await?;
        for (_, name) in missing {
            rename(&aside.join(name), &self.program(name))?;
        }
        Ok(())
    }

    async fn build_images(&self, progress: &dyn Fn(&str)) -> Result<()> {
        progress("making the images of pause and CoreDNS");
        let (source, pause) = (self.folder.join("source/pause.c"), self.folder.join("aside/pause"));
        write(&source, PAUSE)?;
        create_folder(&self.folder.join("aside"))?;
        let mut command = program("cc");
        command.args(["-static", "-Os", "-s", "-o"]).arg(&pause).arg(&source);
        run(command, None, BUILD_DEADLINE).await?;
        rename(&pause, &self.program("pause"))?;
        let pause = read(&self.program("pause"))?;
        let pause = Image::new().file("/pause", 0o755, pause).entrypoint(["/pause"]).user("65535:65535");
        self.store_image("pause", &pause.archive(PAUSE_IMAGE)?)?;
        let coredns = read(&self.program("coredns"))?;
        let coredns = Image::new().file("/coredns", 0o755, coredns).entrypoint(["/coredns"]).user("65532:65532");
        self.store_image("coredns", &coredns.archive(DNS_IMAGE)?)
    }

    fn store_image(&self, name: &str, archive: &[u8]) -> Result<()> {
        let aside = self.folder.join("aside").join(name).with_extension("tar");
        write(&aside, archive)?;
        create_folder(&self.folder.join("images"))?;
        rename(&aside, &self.image(name))
    }
}

/// Returns the folder that contains the programs of all versions.
fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set(CACHE_VARIABLE)
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("robeing-devkube")))
        .or_else(|| Some(set("HOME")?.join(".cache/robeing-devkube")))
        .unwrap_or_else(|| std::env::temp_dir().join("robeing-devkube"));
    std::path::absolute(&folder).map_err(|source| Error::File { action: "found", path: folder, source })
}

/// Returns a hash of the pinned versions and of how they are built.
fn key() -> String {
    let mut pins = String::from(architecture());
    for module in MODULES {
        pins.extend([module.name, module.linker]);
        module.programs.iter().for_each(|(package, name)| pins.extend([*package, *name]));
        module.files.iter().for_each(|(name, contents)| pins.extend([*name, *contents]));
    }
    pins.push_str(PAUSE);
    hex(pins.as_bytes())[..16].to_owned()
}

/// Waits until no other process is building. The lock is released when the file is closed, so also when this process
/// ends.
async fn lock(path: PathBuf) -> Result<File> {
    let file = move || -> std::io::Result<File> {
        let file = File::options().create(true).append(true).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    let locked = tokio::task::spawn_blocking(file).await.map_err(std::io::Error::other).flatten();
    locked.map_err(|source| Error::File { action: "locked", path: PathBuf::from("the cache"), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_pins_what_it_builds() {
        for module in MODULES {
            let text = |name: &str| module.files.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
            let (pins, sums) = (text("go.mod").unwrap(), text("go.sum").unwrap());
            assert!(!pins.contains("latest") && !sums.is_empty());
            for (package, _) in module.programs.iter().filter(|(package, _)| *package != ".") {
                let tools = text("tools.go").unwrap();
                assert!(tools.contains(&format!("{package}\"")), "{package} is not in {}/tools.go", module.name);
            }
        }
    }

    #[test]
    fn the_version_that_programs_report_is_the_pinned_one() {
        let pinned = |module: &Module, required: &str| {
            let line =
                module.files[0].1.lines().find(|line| line.starts_with(&format!("require {required} "))).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        let kubernetes = MODULES.iter().find(|module| module.name == "kubernetes").unwrap();
        let version = pinned(kubernetes, "k8s.io/kubernetes");
        assert!(kubernetes.linker.contains(&format!("gitVersion={version} ")));
        let helm = MODULES.iter().find(|module| module.name == "helm").unwrap();
        assert!(helm.linker.ends_with(&pinned(helm, "helm.sh/helm/v3")));
    }

    #[tokio::test]
    async fn a_lock_is_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(path.clone()).await.unwrap();
        assert!(File::open(&path).unwrap().try_lock().is_err());
        drop(held);
        lock(path).await.unwrap();
    }
}
