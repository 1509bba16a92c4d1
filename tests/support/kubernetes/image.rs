//! The images: Robeing's own under two tags, so that one can be rolled out after the other, and a userland without
//! anything of Robeing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use devkube::oci::Image;

use crate::program::program;

/// The environment variable with the path of the archive of Robeing's image, if it is not in the target directory.
pub const IMAGE_VARIABLE: &str = "ROBEING_IMAGE_ARCHIVE";
/// The image as `make image` names it.
pub const FIRST: &str = "robeing:0.1.0";
/// The same image with the tag of a later version.
pub const SECOND: &str = "robeing:0.1.1";
/// An image that does not exist.
pub const MISSING: &str = "robeing:0.1.x";
/// The image in which tasks run.
pub const USERLAND: &str = "userland:1";
/// The image with a worker process that attaches to an agent.
pub const WORKERLAND: &str = "workerland:1";
/// The program of that process.
pub const WORKER: &str = "robeing-test-worker";

const BLOCK: usize = 512;

/// Returns the archive that `make image` writes.
///
/// # Errors
/// If it does not exist.
pub fn archive() -> Result<PathBuf> {
    let program = env::current_exe().context("the path of this program is unknown")?;
    let beside = || program.ancestors().map(|folder| folder.join("image/robeing.tar")).find(|path| path.is_file());
    let found = env::var_os(IMAGE_VARIABLE).map(PathBuf::from).filter(|path| path.is_file()).or_else(beside);
    found.with_context(|| {
        format!(
            "Robeing's image was not found: build it with `make image`, which writes image/robeing.tar into cargo's \
             target directory, or set {IMAGE_VARIABLE} to its path"
        )
    })
}

/// Writes the archive of [`USERLAND`] into a folder.
///
/// # Errors
/// If there is no busybox, or the file can't be written.
pub fn write_userland(folder: &Path) -> Result<PathBuf> {
    let image = Image::userland(devkube::busybox()?).user("65532:65532");
    // The path that manifests expect.
    let userland = image.link("/usr/bin/env", "/bin/busybox").archive(USERLAND)?;
    let path = folder.join("userland.tar");
    fs::write(&path, userland).with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

/// Writes the archive of [`WORKERLAND`] into a folder: [`WORKER`] as cargo built it, with its shared libraries.
fn write_workerland(folder: &Path) -> Result<PathBuf> {
    let program = program(WORKER);
    let ldd = Command::new("ldd").arg(&program).output().context("can't run ldd, of Debian's libc-bin")?;
    ensure!(ldd.status.success(), "ldd {}: {}", program.display(), String::from_utf8_lossy(&ldd.stderr));
    let text = String::from_utf8_lossy(&ldd.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    let read = |path: &Path| fs::read(path).with_context(|| format!("can't read {}", path.display()));
    let mut image = Image::userland(devkube::busybox()?).user("65532:65532");
    image = image.file(&format!("/{WORKER}"), 0o755, read(&program)?);
    for library in libraries {
        image = image.file(library, 0o755, read(Path::new(library))?);
    }
    let path = folder.join("workerland.tar");
    fs::write(&path, image.archive(WORKERLAND)?).with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

/// Writes the archives of all images into a folder: [`FIRST`], [`SECOND`], [`USERLAND`], [`WORKERLAND`].
///
/// # Errors
/// If one of them can't be written.
pub(super) fn write_all(folder: &Path) -> Result<Vec<PathBuf>> {
    let first = archive()?;
    let mut bytes = fs::read(&first).with_context(|| format!("can't read {}", first.display()))?;
    let renamed = rename(&mut bytes, FIRST, SECOND);
    ensure!(renamed > 0, "{} contains no image {FIRST}: build it with `make image`", first.display());
    let second = folder.join("second.tar");
    fs::write(&second, bytes).with_context(|| format!("can't write {}", second.display()))?;
    Ok(vec![first, second, write_userland(folder)?, write_workerland(folder)?])
}

/// Renames an image, to a name of the same length, in the index files of an archive. Returns the number of replaced
/// names.
fn rename(archive: &mut [u8], from: &str, to: &str) -> usize {
    assert_eq!(from.len(), to.len(), "renaming must not change offsets");
    let (mut at, mut renamed) = (0, 0);
    while let Some(header) = archive.get(at..at + BLOCK) {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim_matches(['\0', ' ']).to_owned()
        };
        let (name, size) = (text(0..100), usize::from_str_radix(&text(124..136), 8).unwrap_or(0));
        let content = at + BLOCK..(at + BLOCK + size).min(archive.len());
        if ["index.json", "manifest.json"].contains(&name.as_str()) {
            renamed += replace(&mut archive[content.clone()], from.as_bytes(), to.as_bytes());
            // The tag also occurs without the name.
            replace(&mut archive[content], quoted_tag(from).as_bytes(), quoted_tag(to).as_bytes());
        }
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    renamed
}

fn quoted_tag(image: &str) -> String {
    format!("{:?}", image.rsplit(':').next().unwrap_or(image))
}

fn replace(content: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let places = content.windows(from.len()).enumerate().filter(|(_, window)| *window == from);
    let places: Vec<usize> = places.map(|(at, _)| at).collect();
    for at in &places {
        content[*at..at + to.len()].copy_from_slice(to);
    }
    places.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_an_image_changes() {
        let image = || Image::new().file("/robeing:0.1.0", 0o644, b"robeing:0.1.0".to_vec());
        let mut archive = image().archive(FIRST).unwrap();
        assert!(rename(&mut archive, FIRST, SECOND) > 0);
        assert_eq!(archive, image().archive(SECOND).unwrap());
        assert_eq!(rename(&mut archive, FIRST, SECOND), 0);
    }
}
