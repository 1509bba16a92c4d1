//! The directory of a coordinator.

use super::Parts;
use crate::{
    api::directory::DirectoryService,
    directory::{Directory, keeper::DirectoryKeeper},
    identity::security::Security,
    lifetime::Leaving,
};

impl Parts {
    /// Starts what keeps the directory up to date, and returns the service.
    pub(super) fn start_directory(&self, security: Option<&Security>) -> DirectoryService {
        let Self { members, state, observer, policies, lifetime, .. } = self.clone();
        let (directory, realm) = (Directory::default(), security.map(|security| security.realm.clone()));
        let keeper = DirectoryKeeper { state, observer: observer.clone(), directory: directory.clone(), realm };
        lifetime.spawn(keeper.run());
        DirectoryService {
            directory,
            observer,
            policies: policies.book().clone(),
            state: self.state.clone(),
            leaving: Leaving::new(&lifetime, members),
        }
    }
}
