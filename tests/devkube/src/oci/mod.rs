//! Builds OCI image archives of one layer from files, without Docker. Pure: the same input gives the same bytes.

mod tar;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// The programs that [`Image::userland`] provides as links to busybox.
const APPLETS: &[&str] = &[
    "[",
    "awk",
    "base64",
    "basename",
    "cat",
    "chmod",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hostname",
    "httpd",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mktemp",
    "mv",
    "nc",
    "nslookup",
    "od",
    "ping",
    "printf",
    "ps",
    "pwd",
    "rm",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "uname",
    "uniq",
    "vi",
    "wc",
    "wget",
    "whoami",
    "xargs",
];

/// An image: its files, and how its container starts.
#[derive(Clone, Debug, Default)]
pub struct Image {
    entries: Vec<(String, Entry)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: Option<String>,
    folder: Option<String>,
}

#[derive(Clone, Debug)]
enum Entry {
    File { mode: u32, contents: Vec<u8> },
    Link { target: String },
    Folder { mode: u32 },
}

impl Image {
    /// Creates an empty image, without files and without an entrypoint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an image with a small userland: busybox (the bytes of a static build), links to it for the usual
    /// programs, and `/tmp`.
    pub fn userland(busybox: Vec<u8>) -> Self {
        let mut image = Self::new()
            .folder("/tmp", 0o1777)
            .file("/bin/busybox", 0o755, busybox)
            .file("/etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65532:65532:nobody:/:/bin/sh\n".to_vec())
            .file("/etc/group", 0o644, b"root:x:0:\nnobody:x:65532:\n".to_vec())
            .environment("PATH", "/bin");
        for applet in APPLETS {
            image = image.link(&format!("/bin/{applet}"), "busybox");
        }
        image
    }

    /// Adds a file; `mode` is its permission bits. A later entry with the same path replaces an earlier one.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, contents: impl Into<Vec<u8>>) -> Self {
        self.entry(path, Entry::File { mode, contents: contents.into() })
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, Entry::Link { target: target.into() })
    }

    /// Adds a folder. The parent folders of an entry are created implicitly.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, Entry::Folder { mode })
    }

    fn entry(mut self, path: &str, entry: Entry) -> Self {
        let path = path.trim_matches('/').to_owned();
        self.entries.retain(|(known, _)| *known != path);
        self.entries.push((path, entry));
        self
    }

    /// Sets the entrypoint: the program and its leading arguments.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the default arguments, which a pod's `args` replace.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Sets the user: a numeric `uid` or `uid:gid`, so that the kubelet can verify `runAsNonRoot`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn working_directory(mut self, folder: &str) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Returns the archive, for containerd (`ctr images import`), kind (`kind load image-archive`), podman or skopeo.
    /// Pods refer to the image as `name`, such as `robeing:dev`.
    ///
    /// # Errors
    /// [`Error::Image`] if a path is empty, has an empty, `.` or `..` part, or is too long for the tar format.
    pub fn archive(&self, name: &str) -> Result<Vec<u8>> {
        self.archive_of(&[name])
    }

    /// Returns the archive of an image with several names.
    ///
    /// # Errors
    /// The same as for [`Image::archive`].
    pub fn archive_of(&self, names: &[impl AsRef<str>]) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let config = self.config(&digest(&layer));
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", &config),
            "layers": [blob("application/vnd.oci.image.layer.v1.tar", &layer)],
        }));
        let listed = names.iter().map(|name| {
            let name = full_name(name.as_ref());
            let mut listed = blob("application/vnd.oci.image.manifest.v1+json", &manifest);
            listed["platform"] = json!({"os": "linux", "architecture": architecture()});
            listed["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
            });
            listed
        });
        let index = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": listed.collect::<Vec<_>>(),
        }));
        let mut archive = tar::Writer::new();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.file("index.json", 0o644, &index)?;
        for contents in [&manifest, &config, &layer] {
            archive.file(&format!("blobs/sha256/{}", hex(contents)), 0o644, contents)?;
        }
        Ok(archive.end())
    }

    fn config(&self, layer: &str) -> Vec<u8> {
        let mut run = json!({"Entrypoint": self.entrypoint, "Cmd": self.command, "Env": self.environment});
        if let Some(user) = &self.user {
            run["User"] = json!(user);
        }
        if let Some(folder) = &self.folder {
            run["WorkingDir"] = json!(folder);
        }
        to_bytes(&json!({
            "os": "linux",
            "architecture": architecture(),
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        }))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut writer = tar::Writer::new();
        for (path, entry) in entries {
            check(path)?;
            for (end, _) in path.match_indices('/') {
                let above = &path[..end];
                if !self.entries.iter().any(|(known, _)| known == above) {
                    writer.folder(above, 0o755)?;
                }
            }
            match entry {
                Entry::File { mode, contents } => writer.file(path, *mode, contents)?,
                Entry::Link { target } => writer.link(path, target)?,
                Entry::Folder { mode } => writer.folder(path, *mode)?,
            }
        }
        Ok(writer.end())
    }
}

/// Returns the full name of an image, by which nodes look it up: with a registry and a tag.
pub fn full_name(name: &str) -> String {
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (first, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let tag = if rest.contains([':', '@']) { "" } else { ":latest" };
    format!("{registry}/{rest}{tag}")
}

fn check(path: &str) -> Result<()> {
    let problem = if path.is_empty() {
        "it is the root itself"
    } else if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        "each part of the path must be a name"
    } else {
        return Ok(());
    };
    Err(Error::Image { path: path.into(), problem })
}

fn blob(media_type: &str, contents: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(contents), "size": contents.len()})
}

fn digest(contents: &[u8]) -> String {
    format!("sha256:{}", hex(contents))
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(crate) fn hex(contents: &[u8]) -> String {
    Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_bytes(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Returns this machine's architecture, as OCI and Go name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn image() -> Image {
        Image::new()
            .file("/opt/tool/run", 0o755, b"#!/bin/sh\n".to_vec())
            .folder("/tmp", 0o1777)
            .link("/run-link", "opt/tool/run")
            .entrypoint(["/opt/tool/run"])
            .environment("A", "b c")
            .user("65532")
    }

    #[test]
    fn names_are_completed_as_nodes_look_them_up() {
        assert_eq!(full_name("robeing:dev"), "docker.io/library/robeing:dev");
        assert_eq!(full_name("robeing"), "docker.io/library/robeing:latest");
        assert_eq!(full_name("team/robeing"), "docker.io/team/robeing:latest");
        assert_eq!(full_name("localhost/pause:1"), "localhost/pause:1");
        assert_eq!(full_name("ghcr.io/team/robeing:1"), "ghcr.io/team/robeing:1");
        assert_eq!(full_name("host:5000/robeing"), "host:5000/robeing:latest");
    }

    #[test]
    fn the_same_image_is_the_same_bytes_in_whatever_order_it_was_filled() {
        let other = Image::new()
            .link("/run-link", "opt/tool/run")
            .folder("/tmp", 0o1777)
            .file("/opt/tool/run", 0o755, b"#!/bin/sh\n".to_vec())
            .entrypoint(["/opt/tool/run"])
            .environment("A", "b c")
            .user("65532");
        assert_eq!(image().archive("a:1").unwrap(), other.archive("a:1").unwrap());
        assert_ne!(image().archive("a:1").unwrap(), image().user("1").archive("a:1").unwrap());
    }

    /// Cross-check: the tar program can unpack the archive, and every blob's content matches its digest.
    #[test]
    fn tar_unpacks_the_archive_and_its_layer() {
        let folder = tempfile::tempdir().unwrap();
        let unpack = |bytes: &[u8], name: &str| {
            let (file, to) = (folder.path().join(format!("{name}.tar")), folder.path().join(name));
            std::fs::write(&file, bytes).unwrap();
            std::fs::create_dir(&to).unwrap();
            let status = Command::new("tar").arg("-xpf").arg(&file).arg("-C").arg(&to).status().unwrap();
            assert!(status.success(), "tar refused {name}");
            to
        };
        let archive = unpack(&image().archive("a:1").unwrap(), "archive");
        let read = |path: std::path::PathBuf| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let blob_of = |value: &serde_json::Value| {
            let digest = value["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
            let path = archive.join("blobs/sha256").join(&digest);
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(hex(&bytes), digest);
            assert_eq!(value["size"], bytes.len());
            path
        };
        let index = read(archive.join("index.json"));
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/library/a:1");
        let manifest = read(blob_of(&index["manifests"][0]));
        let config = read(blob_of(&manifest["config"]));
        assert_eq!(config["config"]["User"], "65532");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let root = unpack(&std::fs::read(blob_of(&manifest["layers"][0])).unwrap(), "root");
        assert_eq!(std::fs::read(root.join("run-link")).unwrap(), b"#!/bin/sh\n");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(root.join("opt/tool/run").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(root.join("tmp").metadata().unwrap().permissions().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn paths_that_climb_are_refused() {
        for path in ["/", "", "/a/../b", "/a//b", "./a"] {
            let error = Image::new().file(path, 0o644, b"".to_vec()).archive("a").unwrap_err();
            assert!(matches!(error, Error::Image { .. }), "{path:?}: {error}");
        }
    }

    #[test]
    fn a_userland_has_a_shell() {
        let archive = Image::userland(b"static".to_vec()).archive("tools:dev").unwrap();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("bin/sh\0") && text.contains("bin/sha256sum\0"));
    }
}
