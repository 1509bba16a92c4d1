//! Advice for error messages about an unusable data directory. Restoring an older copy is worse than having none.
//!
//! A coordinator's directory records the votes it granted and the entries it acknowledged. An older copy lacks the
//! later ones: the coordinator could vote twice in one term, so that two leaders are elected, and entries that were
//! committed with its help would be on fewer than a majority. Nothing on the disk distinguishes such a copy from the
//! newest state.

/// What to do about a file that is damaged or missing.
pub const RESTORE_OR_REJOIN: &str = "Restore this file exactly as it was when this coordinator last ran, if it still \
     exists (it was moved, for example, or is on a failing disk). Never put back a backup or an older copy of the file \
     or the directory: it lacks votes and entries that were acknowledged, so this coordinator could vote twice in one \
     term, and accepted work would be lost. Otherwise, while a majority of the other coordinators is up, remove its \
     whole data directory to let it join again as a new member";

/// What to do when there is no file to restore.
pub const REJOIN: &str = "While a majority of the other coordinators is up, remove its whole data directory to let it \
     join again as a new member; an older copy of the directory is no substitute, because it lacks votes and entries \
     that were acknowledged";
