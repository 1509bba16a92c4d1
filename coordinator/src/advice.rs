//! What to do about a data directory that can't be used: said once, since an older copy is worse than none.
//!
//! A coordinator's directory is its memory of the votes it gave and of the entries it acknowledged. One from an earlier time
//! has forgotten the later ones: the coordinator may vote twice in one term, so that two leaders are elected, and what a
//! majority had with its help is held by fewer. Nothing on the disk tells such a copy from the newest state.

/// What to do about a file that is damaged or missing.
pub const RESTORE_OR_REJOIN: &str = "Put back the very file as it was when this coordinator last ran, if it can be had (moved, say, or on a disk \
     that fails). Never put back a backup or an older copy of it or of the directory: it has forgotten votes and entries that were \
     acknowledged, so this coordinator could vote twice in one term, and what was accepted would be lost. Otherwise, while a \
     majority of the other coordinators is up, remove its whole data directory to let it join again as a new member";

/// The same where nothing can be put back.
pub const REJOIN: &str = "While a majority of the other coordinators is up, remove its whole data directory to let it join again as a \
     new member; an older copy of the directory is no substitute, since it has forgotten votes and entries that were acknowledged";
