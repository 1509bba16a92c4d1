//! `devkube image`: writes an OCI archive with files of this machine.

use std::path::PathBuf;

use devkube::{Error, Result, busybox, oci::Image};

/// The files of the image, and how its container starts.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Image name that pods use, such as robeing:dev; may be repeated
    #[arg(long = "name", value_name = "NAME", required = true)]
    names: Vec<String>,
    /// A file, as SOURCE:PATH or SOURCE:PATH:MODE (octal, default 0644); may be repeated
    #[arg(long = "file", value_name = "SOURCE:PATH[:MODE]", value_parser = file)]
    files: Vec<File>,
    /// A symbolic link, as PATH:TARGET; may be repeated
    #[arg(long = "link", value_name = "PATH:TARGET", value_parser = pair)]
    links: Vec<(String, String)>,
    /// Add a small userland: this machine's static busybox, with a shell and the usual programs
    #[arg(long)]
    userland: bool,
    /// The entrypoint; repeat for each word
    #[arg(long = "entrypoint", value_name = "WORD")]
    entrypoint: Vec<String>,
    /// The default arguments, if a pod sets none; repeat for each word
    #[arg(long = "cmd", value_name = "WORD", allow_hyphen_values = true)]
    command: Vec<String>,
    /// An environment variable, as NAME=VALUE; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    /// The user, numeric: UID or UID:GID
    #[arg(long)]
    user: Option<String>,
    /// The working directory
    #[arg(long)]
    workdir: Option<String>,
    /// The archive to write
    #[arg(short, long)]
    output: PathBuf,
}

#[derive(Clone)]
struct File {
    source: PathBuf,
    path: String,
    mode: u32,
}

/// Writes the archive.
pub(crate) fn write(arguments: &Arguments) -> Result<()> {
    let mut image = if arguments.userland { Image::userland(busybox()?) } else { Image::new() };
    for file in &arguments.files {
        let read = |source| Error::File { action: "read", path: file.source.clone(), source };
        image = image.file(&file.path, file.mode, std::fs::read(&file.source).map_err(read)?);
    }
    for (path, target) in &arguments.links {
        image = image.link(path, target);
    }
    for (name, value) in &arguments.environment {
        image = image.environment(name, value);
    }
    if let Some(user) = &arguments.user {
        image = image.user(user);
    }
    if let Some(folder) = &arguments.workdir {
        image = image.working_directory(folder);
    }
    image = image.entrypoint(arguments.entrypoint.iter().cloned()).command(arguments.command.iter().cloned());
    let written = |source| Error::File { action: "written", path: arguments.output.clone(), source };
    std::fs::write(&arguments.output, image.archive_of(&arguments.names)?).map_err(written)
}

fn file(text: &str) -> Result<File, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, path, mode) = match parts[..] {
        [source, path] => (source, path, "644"),
        [source, path, mode] => (source, path, mode),
        _ => return Err("write SOURCE:PATH or SOURCE:PATH:MODE".into()),
    };
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = mode.ok_or("the mode is an octal number up to 7777, such as 0755")?;
    Ok(File { source: source.into(), path: path.into(), mode })
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (path, target) = text.split_once(':').ok_or("write PATH:TARGET")?;
    Ok((path.into(), target.into()))
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_given_with_or_without_a_mode() {
        let given = file("a/b:/c:0755").unwrap();
        assert_eq!((given.source, &given.path[..], given.mode), (PathBuf::from("a/b"), "/c", 0o755));
        assert_eq!(file("a:/c").unwrap().mode, 0o644);
        for wrong in ["a", "a:/b:8", "a:/b:17777", "a:/b:0644:x"] {
            assert!(file(wrong).is_err(), "{wrong}");
        }
    }
}
