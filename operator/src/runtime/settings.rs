//! The operator's settings: command-line flags, each of which can also be set in the environment.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;

use crate::{
    controller::validate::OperatorContext,
    runtime::lease::{Timings, WrongTimings},
};

const AFTER_HELP: &str = "\
Durations are written like 500ms, 2s or 1m30s. RUST_LOG sets the log level.

The API server and the credentials come from the pod's service account, or from KUBECONFIG.

On SIGTERM or Ctrl-C the operator finishes the reconciliations in progress, then releases the lease.

Exit codes: 0 stopped by signal; 1 could not start; 2 invalid settings; 3 lost the lease, another replica takes over.";

/// Maximum length of a namespace's name.
const MAX_NAMESPACE: usize = 63;

/// Reconciles RobeingClusters into running fleets.
#[derive(Parser, Clone, Debug, PartialEq, Eq)]
#[command(name = "robeing-operator", version, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Settings {
    /// Comma-separated namespaces whose RobeingClusters are reconciled; all namespaces if not set. If set, the operator
    /// needs no rights beyond these namespaces and its own.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACE,...", value_parser = namespace)]
    pub watch_namespaces: Vec<String>,

    /// The image of fleets whose spec names none. Such a fleet keeps the image that it was created with.
    #[arg(long, env = "ROBEING_IMAGE", default_value = "", hide_default_value = true, value_name = "IMAGE")]
    pub image: String,

    /// The operator's own namespace, which contains its lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NAMESPACE", value_parser = namespace)]
    pub namespace: String,

    /// The name of this replica, unique among the replicas.
    #[arg(long, env = "POD_NAME", default_value = "", hide_default_value = true, value_name = "NAME")]
    pub identity: String,

    /// The address on which to serve /healthz, /readyz and /metrics over HTTP.
    #[arg(long, env = "METRICS_LISTEN", default_value = "0.0.0.0:8080", value_name = "HOST:PORT")]
    pub listen: SocketAddr,

    /// The name of the lease that the replicas share.
    #[arg(long, env = "LEASE_NAME", default_value = "robeing-operator", value_name = "NAME")]
    pub lease_name: String,

    /// How long the lease is valid without a renewal, in whole seconds.
    #[arg(long, env = "LEASE_DURATION", default_value = "15s", value_name = "DURATION", value_parser = duration)]
    pub lease_duration: Duration,

    /// How long the active replica may go without a renewal before it exits.
    #[arg(long, env = "LEASE_RENEW_DEADLINE", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub lease_renew_deadline: Duration,

    /// How often the lease is renewed, or checked by the other replicas.
    #[arg(long, env = "LEASE_RETRY_PERIOD", default_value = "2s", value_name = "DURATION", value_parser = duration)]
    pub lease_retry_period: Duration,

    /// Minimum time between two updates about a fleet from its coordinators, and how often coordinators that can't send
    /// updates are polled. The operator calls the coordinators directly, not through the API server.
    #[arg(long, env = "POLL_INTERVAL", default_value = "3s", value_name = "DURATION", value_parser = duration)]
    pub poll_interval: Duration,

    /// How many RobeingClusters are reconciled at once, in each watched namespace.
    #[arg(long, env = "CONCURRENCY", default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,

    /// How long two certificate authorities of a fleet are trusted during a rotation before the new one certifies, and
    /// how long after. If it is shorter than a certificate is valid (1h), members may refuse each other meanwhile.
    #[arg(long, env = "AUTHORITY_OVERLAP", default_value = "2h", value_name = "DURATION", value_parser = duration)]
    pub authority_overlap: Duration,

    /// The log format: text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "json", value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be greater than zero".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let name = text.trim();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=MAX_NAMESPACE).contains(&name.len()) && name.chars().all(allowed) {
        Ok(name.to_owned())
    } else {
        Err(format!("not a valid namespace name: must be 1 to {MAX_NAMESPACE} lower-case letters, digits and '-'"))
    }
}

impl Settings {
    /// Returns the lease's timings, or an error if they could allow two holders at once.
    pub fn timings(&self) -> Result<Timings, WrongTimings> {
        Timings::new(self.lease_duration, self.lease_renew_deadline, self.lease_retry_period)
    }

    /// Returns the settings of the operator that the built objects depend on.
    pub fn operator_context(&self) -> OperatorContext {
        OperatorContext { default_image: self.image.clone(), operator_namespace: self.namespace.clone() }
    }

    /// Returns the scopes to watch: each namespace once, or `None` for all namespaces.
    pub fn scopes(&self) -> Vec<Option<String>> {
        let mut names = self.watch_namespaces.clone();
        names.sort();
        names.dedup();
        if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, String> {
        let args = std::iter::once(&"robeing-operator").chain(args);
        Settings::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_help_lists_every_setting() {
        insta::assert_snapshot!(Settings::command().term_width(120).render_long_help());
    }

    #[test]
    fn namespaces_are_watched_one_by_one_and_each_once() {
        let settings = settings(&["--watch-namespaces", "b,a,b"]).expect("good settings");
        assert_eq!(settings.scopes(), [Some("a".into()), Some("b".into())]);
        let all = Settings { watch_namespaces: vec![], ..settings };
        assert_eq!(all.scopes(), [None]);
    }

    #[test]
    fn a_lease_that_could_have_two_holders_is_refused() {
        let timings = |duration: &str, deadline: &str, retry: &str| {
            let args =
                ["--lease-duration", duration, "--lease-renew-deadline", deadline, "--lease-retry-period", retry];
            settings(&args).expect("durations").timings()
        };
        assert!(timings("15s", "10s", "2s").is_ok());
        assert!(timings("3s", "2s", "1s").is_ok());
        for (duration, deadline, retry) in [("10s", "10s", "2s"), ("15s", "10s", "6s"), ("1500ms", "1s", "100ms")] {
            let error = timings(duration, deadline, retry).expect_err("must be refused");
            assert!(error.to_string().contains("the deadline shorter than it"), "{error}");
        }
    }

    #[test]
    fn what_is_no_namespace_or_duration_is_refused() {
        assert!(settings(&["--watch-namespaces", "A"]).is_err());
        assert!(settings(&["--poll-interval", "0s"]).is_err());
        assert!(settings(&["--concurrency", "0"]).is_err());
    }
}
