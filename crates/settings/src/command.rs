//! The command line of a process, made from the definitions.

use clap::{Arg, ArgAction, Command, builder::ValueParser};

use super::{
    definition::For,
    settings::{DATA, SETTINGS},
};

/// The flag without a value, which no environment name stands for.
pub(super) const EXIT_WITH_PARENT: &str = "exit-with-parent";

const AFTER_HELP: &str = "\
Durations are written like 500ms, 2s or 1m30s. What is in parentheses is the default.

OTEL_EXPORTER_OTLP_ENDPOINT turns tracing to an OpenTelemetry collector on (gRPC).

SIGTERM or Ctrl-C: a coordinator that leads hands over, an agent finishes or hands back its tasks. A second one ends it
at once.

Exit codes: 0 ended as asked; 1 could not start or go on, or left tasks behind unacknowledged; 2 wrong settings;
130 or 143 ended at once by a second signal.";

/// The command line of a process, without subcommands.
pub fn command() -> Command {
    let mut command = Command::new("robeing-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One process of a Robeing fleet: a coordinator, or an agent that runs tasks")
        .after_help(AFTER_HELP)
        .max_term_width(120)
        .arg(Arg::new(EXIT_WITH_PARENT).long(EXIT_WITH_PARENT).action(ArgAction::SetTrue).help(
            "End when the process that started it is gone, or closes its standard input; to be started from a \
                     thread that stays, since the end of that thread counts, too",
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
            .value_parser(if *setting == DATA { ValueParser::os_string() } else { ValueParser::string() })
            .help_heading(heading)
            .help(format!("{}{default} [env: {}]", setting.help, setting.env.join(", ")));
        command = command.arg(arg);
    }
    command
}
