//! `kubectl` and `helm` for one cluster, each with a deadline.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    command::{program, run},
    error::Result,
    tools::Tools,
};

/// How long one call may take; longer than the waits that such calls are given, so that those speak first.
pub const CALL_DEADLINE: Duration = Duration::from_secs(300);

/// Runs the two programs with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Clients {
    kubeconfig: PathBuf,
    tools: Tools,
}

impl Clients {
    pub(crate) fn new(kubeconfig: PathBuf, tools: Tools) -> Self {
        Self { kubeconfig, tools }
    }

    /// The kubeconfig in use.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder of `kubectl` and `helm`, for `PATH`.
    pub fn path(&self) -> PathBuf {
        self.tools.path()
    }

    /// Runs `kubectl` and gives its stdout.
    ///
    /// # Errors
    /// When it fails, with its stderr, or takes longer than [`CALL_DEADLINE`].
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.call("kubectl", arguments, None).await
    }

    /// Runs `kubectl` with something on its stdin, such as a manifest for `apply -f -`.
    ///
    /// # Errors
    /// As [`Clients::kubectl`].
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.call("kubectl", arguments, Some(input.as_bytes())).await
    }

    /// Runs `helm` and gives its stdout.
    ///
    /// # Errors
    /// As [`Clients::kubectl`].
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.call("helm", arguments, None).await
    }

    async fn call(&self, name: &str, arguments: &[&str], input: Option<&[u8]>) -> Result<String> {
        let mut command = program(self.tools.program(name));
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        run(command, input, CALL_DEADLINE).await
    }
}
