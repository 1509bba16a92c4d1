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

/// The deadline of one call. It is longer than the timeouts that calls are given as arguments, so that those expire
/// first.
pub const CALL_DEADLINE: Duration = Duration::from_secs(300);

/// Runs `kubectl` and `helm` with a kubeconfig.
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

    /// Runs `kubectl` and returns its stdout.
    ///
    /// # Errors
    /// If it fails (the error contains its stderr), or takes longer than [`CALL_DEADLINE`].
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.call("kubectl", arguments, None).await
    }

    /// Runs `kubectl` with `input` on its stdin, such as a manifest for `apply -f -`, and returns its stdout.
    ///
    /// # Errors
    /// The same as for [`Clients::kubectl`].
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.call("kubectl", arguments, Some(input.as_bytes())).await
    }

    /// Runs `helm` and returns its stdout.
    ///
    /// # Errors
    /// The same as for [`Clients::kubectl`].
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.call("helm", arguments, None).await
    }

    async fn call(&self, name: &str, arguments: &[&str], input: Option<&[u8]>) -> Result<String> {
        let mut command = program(self.tools.program(name));
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        run(command, input, CALL_DEADLINE).await
    }
}
