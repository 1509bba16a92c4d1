//! The command line of a process, generated from the setting definitions.

use clap::{Arg, ArgAction, Command, builder::ValueParser};

use super::{definition::For, settings::SETTINGS};

/// The only flag without a value; it has no environment variable.
pub(super) const EXIT_WITH_PARENT: &str = "exit-with-parent";

const AFTER_HELP: &str = "\
Durations are written like 500ms, 2s or 1m30s. The default is in parentheses.

OTEL_EXPORTER_OTLP_ENDPOINT enables tracing to an OpenTelemetry collector (gRPC).

On SIGTERM or Ctrl-C, the leader hands over leadership, and an agent finishes or hands back its tasks. A second signal
ends the process at once.

Exit codes: 0 stopped as requested; 1 could not start or continue, or left tasks behind unacknowledged; 2 invalid
settings; 130 or 143 ended at once by a second signal.";

/// Returns the command line of a process, without subcommands.
pub fn command() -> Command {
    let mut command = Command::new("robeing-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One process of a Robeing fleet: a coordinator, or an agent that runs tasks")
        .after_help(AFTER_HELP)
        .max_term_width(120)
        .arg(Arg::new(EXIT_WITH_PARENT).long(EXIT_WITH_PARENT).action(ArgAction::SetTrue).help(
            "Exit when the parent process exits or closes this process's standard input; start it from a \
                     long-lived thread, because the end of that thread counts, too",
        ));
    for defined in SETTINGS {
        let setting = defined.setting();
        let heading = match setting.of {
            For::Both => "Settings",
            For::Coordinators => "Settings of coordinators",
            For::Agents => "Settings of agents",
        };
        let default = defined.shown_default().map(|shown| format!(" ({shown})")).unwrap_or_default();
        let arg = Arg::new(setting.flag)
            .long(setting.flag)
            .value_name(setting.value)
            .allow_hyphen_values(true)
            .value_parser(if setting.is_path { ValueParser::os_string() } else { ValueParser::string() })
            .help_heading(heading)
            .help(format!("{}{default} [env: {}]", setting.help, setting.env.join(", ")));
        command = command.arg(arg);
    }
    command
}
