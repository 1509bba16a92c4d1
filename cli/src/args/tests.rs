//! Parsing of command lines, and the help texts.

use std::{ffi::OsString, path::Path};

use super::*;
use crate::exit::Exit;

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = std::iter::once("robeing").chain(line.split(' ')).map(OsString::from).collect();
    parse(&words)
}

/// Returns the help of a command, as a user gets it.
fn help_of(path: &[&str]) -> String {
    let mut command = grammar("robeing").term_width(100);
    command.build();
    for name in path {
        command = command.find_subcommand(name).unwrap_or_else(|| panic!("there is no {name}")).clone();
    }
    command.term_width(100).render_long_help().to_string()
}

#[test]
fn the_grammar_is_sound() {
    grammar("robeing").debug_assert();
}

/// The commands whose help is looked at.
const COMMANDS: &[&str] = &[
    "dev",
    "submit",
    "tasks",
    "task",
    "cancel",
    "dead",
    "dead list",
    "dead retry",
    "dead drop",
    "logs",
    "agents",
    "status",
    "send",
    "ask",
    "broadcast",
    "message",
    "inbox",
    "vote",
    "vote open",
    "vote cast",
    "vote show",
    "vote list",
    "vote verify",
    "team",
    "team form",
    "team show",
    "team list",
    "team disband",
    "schedule",
    "schedule list",
    "schedule show",
    "schedule set",
    "schedule remove",
    "schedule run",
    "schedule suspend",
    "schedule resume",
    "resources",
    "resources list",
    "resources request",
    "resources show",
    "resources renew",
    "resources release",
    "resources queues",
    "queues",
    "queues list",
    "queues set",
    "queues remove",
    "pbft",
    "pbft form",
    "pbft status",
    "pbft epoch",
    "pbft propose",
    "pbft log",
    "pbft verify",
    "quarantine",
    "remove",
    "release",
    "token",
    "token create",
    "client",
    "client create",
    "audit",
    "crd",
    "completions",
];

#[test]
fn the_help_texts() {
    let mut text = help_of(&[]);
    for command in COMMANDS {
        let path: Vec<&str> = command.split(' ').collect();
        text.push_str(&format!("\n==== {command}\n{}", help_of(&path)));
    }
    insta::assert_snapshot!(text);
}

/// Returns the words of a line as a shell makes them of it, up to a comment or another command.
fn shell_words(line: &str) -> Vec<OsString> {
    let ends = [" #", " && ", " | "];
    let command = ends.into_iter().fold(line, |line, end| line.split(end).next().unwrap_or_default());
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in command.trim_end_matches(" &").chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from).collect()
}

#[test]
fn every_command_in_the_documentation_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md"), root.join("examples/review/README.md")];
    let docs = std::fs::read_dir(root.join("docs")).expect("there is a docs folder");
    pages.extend(docs.map(|page| page.expect("the folder can be listed").path()));
    let mut shown = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("the page can be read");
        for line in text.lines().filter(|line| line.starts_with("robeing ")) {
            let words = shell_words(line);
            if let Err(error) = parse(&words) {
                panic!("{}: {words:?} is refused: {error}", page.display());
            }
            shown += 1;
        }
    }
    assert!(shown > 80, "{shown}");
}

#[test]
fn the_name_is_the_one_it_is_called_by() {
    for (program, name) in [
        ("robeing", "robeing"),
        ("/usr/bin/robeing", "robeing"),
        ("kubectl-robeing", "kubectl robeing"),
        ("/home/ada/.krew/bin/kubectl-robeing", "kubectl robeing"),
    ] {
        assert_eq!(called_as(program), name, "{program}");
    }
    let line = ["/bin/kubectl-robeing", "tasks", "--help"].map(OsString::from);
    let help = parse(&line).expect_err("help was asked for").to_string();
    assert!(help.contains("Usage: kubectl robeing tasks"), "{help}");
}

#[test]
fn endpoints_are_repeated_or_separated_by_commas() {
    let cli = parsed("status --endpoint a:1,b:2 --endpoint c:3 -o yaml").expect("it is right");
    assert_eq!(cli.connection.endpoint, ["a:1", "b:2", "c:3"]);
    let Command::Status(args) = cli.command else { panic!("{cli:?} is not status") };
    assert_eq!(args.output.output, Format::Yaml);
}

#[test]
fn the_fleet_may_be_named_before_the_command_too() {
    let cli = parsed("--endpoint a:1 tasks").expect("it is right");
    assert_eq!(cli.connection.endpoint, ["a:1"]);
    let cli = parsed("--fleet f tasks").expect("it is right");
    assert_eq!(cli.connection.fleet.as_deref(), Some("f"));
}

#[test]
fn a_fleet_has_one_name() {
    let words = ["robeing", "--endpoint", "a:1", "status", "--fleet", "f"].map(OsString::from);
    let said = parse(&words).expect_err("two fleets are named").to_string();
    assert!(said.contains("'--endpoint' cannot be used with '--fleet': they name different fleets"), "{said}");
}

fn target(program: &str, line: &str) -> Target {
    let words: Vec<OsString> = std::iter::once(program).chain(line.split(' ')).map(OsString::from).collect();
    parse(&words).unwrap_or_else(|error| panic!("{line}: {error}")).connection.target()
}

#[test]
fn a_cluster_is_on_kubernetes() {
    let named = Location { cluster: Some("c".into()), ..Default::default() };
    assert_eq!(target("robeing", "--cluster c tasks"), Target::Kubernetes(named.clone()));
    assert_eq!(
        target("robeing", "status -n ns --cluster c --context x --kubeconfig f"),
        Target::Kubernetes(Location {
            namespace: Some("ns".into()),
            context: Some("x".into()),
            kubeconfig: Some("f".into()),
            ..named.clone()
        })
    );
    assert_eq!(
        target("robeing", "status --cluster c --service-account a"),
        Target::Kubernetes(Location { service_account: Some("a".into()), ..named })
    );
    assert_eq!(
        target("robeing", "status --namespace ns"),
        Target::Kubernetes(Location { namespace: Some("ns".into()), ..Default::default() })
    );
}

#[test]
fn kubectls_plugin_means_kubernetes_unless_it_is_told_otherwise() {
    for (line, plugin, robeing) in [
        ("status", Target::Kubernetes(Location::default()), Target::Unsaid),
        ("status --fleet f", Target::Dev("f".into()), Target::Dev("f".into())),
        ("status --endpoint a:1", Target::Endpoints(vec!["a:1".into()]), Target::Endpoints(vec!["a:1".into()])),
    ] {
        assert_eq!(target("/bin/kubectl-robeing", line), plugin, "{line}");
        assert_eq!(target("robeing", line), robeing, "{line}");
    }
}

#[test]
fn an_endpoint_of_the_environment_gives_way_to_a_flag() {
    // Simulates ROBEING_ENDPOINT, which a test can't set only for itself.
    let mut connection = parsed("status --cluster c").expect("it is right").connection;
    connection.endpoint = vec!["a:1".into()];
    assert!(matches!(connection.target(), Target::Kubernetes(_)));
    connection.cluster = None;
    assert_eq!(connection.target(), Target::Endpoints(vec!["a:1".into()]));
    connection.is_plugin = true;
    assert_eq!(connection.target(), Target::Endpoints(vec!["a:1".into()]));
}

#[test]
fn a_name_has_the_length_that_kubernetes_allows() {
    assert!(parsed(&format!("status -n {}", "a".repeat(MAX_OBJECT_NAME))).is_ok());
    let error =
        parsed(&format!("status -n {}", "a".repeat(MAX_OBJECT_NAME + 1))).expect_err("it is too long").to_string();
    assert!(error.contains("at most 253"), "{error}");
}

#[test]
fn submissions_are_read() {
    let line = "submit --kind k --inputs in.jsonl --priority 10 --deadline 1m --retries 0 --role guardian --wait --wait-timeout 5s";
    let Command::Submit(args) = parsed(line).expect("it is right").command else { panic!("not submit") };
    assert_eq!((args.priority, args.retries, args.role), (Some(10), Some(0), Some(AgentRole::Guardian)));
    assert_eq!((args.deadline, args.wait_timeout), (Some(Duration::from_secs(60)), Some(Duration::from_secs(5))));
}

#[test]
fn a_message_is_for_one_agent_and_a_broadcast_for_several() {
    for to in ["data-0", "agent:everyone", "role:worker", "pool:data", "skill:ocr"] {
        let line = format!("send {to} hi");
        let Command::Send(args) = parsed(&line).expect("it is right").command else { panic!("{to}") };
        assert_eq!(args.to, to);
    }
    for to in ["everyone", "role:worker", "pool:data", "skill:ocr", "team:x"] {
        let line = format!("broadcast hi --to {to}");
        let Command::Broadcast(args) = parsed(&line).expect("it is right").command else { panic!("{to}") };
        assert_eq!(args.to, to);
    }
    let Command::Ask(args) = parsed("ask data-0 hi -o json").expect("it is right").command else { panic!("not ask") };
    assert_eq!(args.output.output, Format::Json);
}

#[test]
fn a_reason_and_a_clients_name_have_the_longest_length_that_is_kept() {
    let bar = |length: usize| parsed(&format!("quarantine data-0 --reason {}", "x".repeat(length)));
    let Command::Quarantine(args) = bar(MAX_REASON_BYTES).expect("it is right").command else { panic!("another") };
    assert_eq!((args.agent.as_str(), args.reason.len()), ("data-0", MAX_REASON_BYTES));
    let error = bar(MAX_REASON_BYTES + 1).expect_err("it is too long").to_string();
    assert!(error.contains("at most 256 bytes, and this one has 257"), "{error}");
    let client = |length: usize| parsed(&format!("client create --out d {}", "x".repeat(length)));
    assert!(client(MAX_CLIENT_NAME).is_ok());
    let error = client(MAX_CLIENT_NAME + 1).expect_err("it is too long").to_string();
    assert!(error.contains("at most 200 characters"), "{error}");
}

#[test]
fn tokens_and_certificates_are_for_an_hour_unless_it_is_said() {
    let Command::Token(TokenCommand::Create(args)) = parsed("token create --role Guardian").expect("right").command
    else {
        panic!("another");
    };
    assert_eq!((args.role, args.valid_for), (Some(AgentRole::Guardian), Duration::from_secs(3_600)));
    let Command::Client(ClientCommand::Create(args)) =
        parsed("client create ada --out d --valid-for 30days").expect("right").command
    else {
        panic!("another");
    };
    assert_eq!((args.name.as_str(), args.valid_for), ("ada", Duration::from_secs(30 * 24 * 3_600)));
}

#[test]
fn members_and_options_of_a_ballot_are_repeated() {
    let line = "vote open why --to a=2,role:worker --to client:ada=3 --option x --option y,z";
    let Command::Vote(VoteCommand::Open(args)) = parsed(line).expect("it is right").command else { panic!("another") };
    let members: Vec<(&str, u32)> = args.to.iter().map(|to| (to.address.as_str(), to.weight)).collect();
    assert_eq!(members, [("a", 2), ("role:worker", 1), ("client:ada", 3)]);
    assert_eq!(args.options, ["x", "y,z"]);
    assert_eq!((args.threshold.as_deref(), args.deadline, args.wait), (None, None, false), "the fleet's");
    let line = "vote cast 7 approve --option x";
    let Command::Vote(VoteCommand::Cast(args)) = parsed(line).expect("it is right").command else { panic!("another") };
    assert_eq!((args.vote, args.option.as_deref(), &*args.reason), (VoteWord::Approve, Some("x"), ""));
    let line = "vote verify b.json --trust t.crt";
    let cli = parsed(line).expect("it is right");
    assert_eq!(cli.connection.credentials.trust.as_deref(), Some(Path::new("t.crt")));
}

/// Checks that each line is refused, with a text that contains the reason.
fn are_refused(lines: &[(&str, &str)]) {
    for (line, reason) in lines {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{line}");
        assert!(error.to_string().contains(reason), "{line}: {error}");
    }
}

#[test]
fn wrong_lines_about_teams_and_resources_are_refused_with_a_reason() {
    are_refused(&[
        ("team", "Usage: robeing team"),
        ("team form --purpose p", "--size <N>"),
        ("team form --purpose p --size 65", "invalid value"),
        ("team form --purpose p --size 2 --need ocr", "write skill=NAME"),
        ("submit --kind k --team-term 1", "--team <UUID>"),
        ("resources", "Usage: robeing resources"),
        ("resources list --all", "--allocations"),
        ("resources request --cpu two", "must be processors"),
        ("resources request --memory 4GB", "must be an amount"),
        ("resources request --parts 33", "invalid value"),
        ("resources renew 7", "--token <N>"),
        ("resources release", "<ALLOCATION>"),
        ("resources queues a=0", "from 1 to 1000"),
        ("resources queues", "NAME[=WEIGHT]"),
        ("resources queues a --none", "cannot be used with"),
    ]);
    parsed("resources queues --none").expect("all are to be removed");
}

#[test]
fn wrong_lines_about_queues_are_refused_with_a_reason() {
    are_refused(&[
        ("queues", "Usage: robeing queues"),
        ("queues set", "<NAME>"),
        ("queues set a --weight 0", "invalid value"),
        ("queues set a --weight 1001", "invalid value"),
        ("queues set a --aging sometimes", "or never"),
        ("queues set a --max-unfinished 0", "invalid value"),
        ("queues set a --limit 5", "must be concurrency=N"),
        ("queues remove", "<NAME>"),
    ]);
    let line = "queues set a b --weight 3 --limit concurrency=5 --limit *:rate=1/1s";
    let Command::Queues(QueuesCommand::Set(args)) = parsed(line).expect("it is right").command else {
        panic!("another")
    };
    assert_eq!((args.names.len(), args.weight, args.limits.len()), (2, 3, 2));
    assert_eq!(args.aging, Aging::Every(Duration::from_secs(600)));
}

#[test]
fn wrong_lines_about_schedules_are_refused_with_a_reason() {
    are_refused(&[
        ("schedule", "Usage: robeing schedule"),
        ("schedule set nightly --cron @daily", "--kind <KIND>"),
        ("schedule set nightly --kind k", "--cron <EXPRESSION>"),
        ("schedule set nightly --cron @daily --kind k --missed most", "invalid value"),
        ("schedule set nightly --cron @daily --kind k --concurrency never", "invalid value"),
        ("schedule set nightly --cron @daily --kind k --missed-limit 101", "invalid value"),
        ("schedule set nightly --cron @daily --kind k --start-within soon", "invalid value"),
        ("schedule set nightly --cron @daily --kind k --slots 0", "invalid value"),
        ("schedule set nightly --cron @daily --kind k --jitter 101", "invalid value"),
        ("schedule set nightly --cron @daily --kind k --not-before 2030-01-31T08:00:00Z", "unexpected argument"),
        ("schedule show", "<NAME>"),
        ("schedule run", "<NAME>"),
    ]);
    let line = "schedule set nightly --cron @daily --kind k --missed all --missed-limit 100 --concurrency forbid";
    let Command::Schedule(ScheduleCommand::Set(args)) = parsed(line).expect("it is right").command else {
        panic!("another")
    };
    assert_eq!((args.name.as_str(), args.cron.as_str(), args.time_zone.as_deref()), ("nightly", "@daily", None));
    assert_eq!((args.missed, args.missed_limit), (MissedWord::All, Some(100)));
    assert_eq!((args.concurrency, args.suspended), (ConcurrencyWord::Forbid, false));
}

#[test]
fn wrong_lines_about_groups_are_refused_with_a_reason() {
    are_refused(&[
        ("pbft", "Usage: robeing pbft"),
        ("pbft form council", "--members <NAMES>"),
        ("pbft form council --members a,b,c,d --team t", "cannot be used with"),
        ("pbft epoch", "<GROUP>"),
        ("pbft epoch council --deadline soon", "invalid value"),
        ("pbft propose council", "<TEXT>"),
        ("pbft propose council text --file f", "cannot be used with"),
        ("pbft log council --from 0", "invalid value"),
        ("pbft verify", "<FILE>"),
    ]);
    let Command::Pbft(PbftCommand::Form(args)) = parsed("pbft form g --members a,b,c,d").expect("it is right").command
    else {
        panic!("another")
    };
    assert_eq!((&*args.name, args.members.len(), args.file), ("g", 4, None));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn wrong_lines_are_refused_with_a_reason() {
    are_refused(&[
        ("submit", "--kind <KIND>"),
        ("submit --kind k --input a --inputs b", "cannot be used with"),
        ("submit --kind k --inputs b --key c", "cannot be used with"),
        ("submit --kind k --retries 1 --max-attempts 2", "cannot be used with"),
        ("submit --kind k --retries 4294967295", "invalid value"),
        ("submit --kind k --max-attempts 0", "invalid value"),
        ("submit --kind k --priority 0", "invalid value"),
        ("submit --kind k --priority 11", "invalid value"),
        ("submit --kind k --deadline soon", "invalid value"),
        ("submit --kind k --wait-timeout 1s", "--wait"),
        ("submit --kind k --verify-compare near", "--verify <AGREE/AGENTS>"),
        ("submit --kind k --verify 2/3 --verify-compare near --verify-json /n", "cannot be used with"),
        ("submit --kind k --delay 1s --not-before 2030-01-31T08:00:00Z", "cannot be used with"),
        ("submit --kind k --not-before tomorrow", "write a time with its zone"),
        ("submit --kind k --jitter 101", "invalid value"),
        ("submit --kind k --non-retryable exot", "is no kind of failure"),
        ("dead", "Usage: robeing dead"),
        ("dead retry", "<IDS>"),
        ("dead retry 7 --all", "cannot be used with"),
        ("dead drop 7 --kind k", "--all"),
        ("task", "<ID>"),
        ("task x --why --watch", "cannot be used with"),
        ("cancel", "<IDS>"),
        ("dev", "--filename <MANIFEST>"),
        ("dev -f m --port 0", "invalid value"),
        ("dev -f m --port 65536", "invalid value"),
        ("tasks --state done", "invalid value"),
        ("quarantine", "<AGENT>"),
        ("quarantine data-0", "--reason <TEXT>"),
        ("remove data-0 --reason=", "a reason must not be empty"),
        ("release", "<AGENT>"),
        ("token", "Usage: robeing token"),
        ("token create --role coordinator", "invalid value"),
        ("token create --valid-for soon", "invalid value"),
        ("client create ada", "--out <DIR>"),
        ("client create --out d", "<NAME>"),
        ("client create ../ada --out d", "does not begin with '.'"),
        ("client create a/b --out d", "consists of letters, digits"),
        ("client create trust --out d", "this name is taken"),
        ("audit --after x", "invalid value"),
        ("vote", "Usage: robeing vote"),
        ("vote open why", "--to <ADDRESS[=WEIGHT]>"),
        ("vote open why --to a=0", "from 1 to 1000"),
        ("vote open why --to a --group council", "cannot be used with"),
        ("vote open why --group council --mode best", "invalid value"),
        ("vote open why --to a --deadline soon", "invalid value"),
        ("vote cast 7 perhaps", "invalid value"),
        ("vote show", "<BALLOT>"),
        ("vote list --limit 0", "invalid value"),
        ("vote verify", "<FILE>"),
        ("send everyone hi", "it stands for all agents: use `robeing broadcast`"),
        ("ask team:x hi", "it stands for several agents: use `robeing broadcast --to team:x`"),
        ("broadcast hi --to data-0", "it stands for one agent: use `robeing send data-0`"),
        ("broadcast hi --to agent:data-0", "it stands for one agent: use `robeing send agent:data-0`"),
        ("nonsense", "unrecognized subcommand"),
        ("status --cluster c --endpoint a:1", "cannot be used with"),
        ("--fleet f status -n ns", "'--fleet' cannot be used with '--namespace'"),
        ("status --kubeconfig f --endpoint a:1", "'--endpoint' cannot be used with '--kubeconfig'"),
        ("--fleet f status --service-account a", "'--fleet' cannot be used with '--service-account'"),
        ("status --service-account a/b", "invalid value"),
        ("status --cluster a/b", "invalid value"),
        ("status --namespace A", "invalid value"),
        ("status --namespace -a", "unexpected argument"),
    ]);
}
