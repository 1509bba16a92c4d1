//! Small text files that this coordinator reads and writes as a whole.

use std::{io, path::Path, sync::Arc};

use robeing_platform::{AtomicFile, Disk, WatchedFile};

/// Reads a file of at most `most` bytes; `None` if there is none.
///
/// # Errors
/// The disk's error; `FileTooLarge` if the file is larger, `InvalidData` if it is not text.
pub async fn read(disk: &Arc<dyn Disk>, dir: &Path, name: &str, most: usize) -> io::Result<Option<String>> {
    let mut file = WatchedFile::new(Arc::clone(disk), dir.join(name), most as u64);
    let content = match file.read_if_changed().await {
        // The first time, the content is always there.
        Ok(content) => content.unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is not text"));
    String::from_utf8(content.to_vec()).map(Some).map_err(not_text)
}

/// Writes a file, in place of an earlier one of this name. Only its owner can read it.
///
/// # Errors
/// The disk's error.
pub async fn write(disk: &Arc<dyn Disk>, dir: &Path, name: &str, content: String) -> io::Result<()> {
    let mut file = AtomicFile::open(Arc::clone(disk), &dir.join(name)).await?;
    file.replace(content.into()).await
}
