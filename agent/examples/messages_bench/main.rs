//! Measures acknowledged messages of 1 KiB from one agent to another: by the messengers of two agents, with a journal
//! on disk and without, beside a raw gRPC stream and request-reply of a NATS server, all with mutual TLS on loopback.
//!
//! The raw stream (`raw`) does what whoever sends messages over a stream of their own has to do at least: tasks share the
//! stream, each message has an id and a payload of its own, the receiver acknowledges each id, and each task waits for the
//! acknowledgement of its own message, which is found by its id among those that wait. It checks nothing, limits nothing,
//! and sends nothing again. `raw-loop` is the same stream without tasks that wait: one task writes and reads it, and knows
//! by the index in the acknowledgement what to send next. Nothing that others call can be as fast; it shows what TLS and
//! gRPC alone take.
//!
//! The receivers are in a process of their own. Both processes have a runtime of one worker and the allocator of an
//! agent. The ways are measured in turn, several rounds in one run; the medians of the rounds are reported, and the
//! medians of the ratios within the rounds.
//!
//! ```text
//! cargo run --release -p robeing-agent --example messages_bench -- --nats-server PATH
//! ```

mod fleet;
mod load;
mod nats;
mod raw;
mod receive;
mod report;

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use mimalloc::MiMalloc;
use robeing_agent::messaging::{Address, Messenger, Outgoing};
use tokio_util::sync::CancellationToken;

use self::{
    fleet::{Member, SENDER, entry},
    load::{Load, Sample, cpu_of, payload},
    nats::{Nats, NatsServer},
    raw::{RawStream, SharedStream},
    report::report,
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// An error of any kind, which ends the program.
pub type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// Numbers of messages in flight, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 64, 1_024])]
    in_flight: Vec<usize>,
    /// Rounds for each number in flight
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Milliseconds for which each way is measured in a round, after a tenth of that as warm-up
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    millis: u64,
    /// A directory on the disk of the journal; everything created in it is removed
    #[arg(long, value_name = "DIR", default_value = "target")]
    data: PathBuf,
    /// The nats-server program; without it NATS is left out
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Measure these ways alone: durable, memory, raw, raw-loop, nats
    #[arg(long, value_name = "WAY", value_delimiter = ',')]
    only: Vec<String>,
    /// The folder of the sender, which makes this process the receiver
    #[arg(long, hide = true)]
    receive: Option<PathBuf>,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        match args.receive.clone() {
            Some(folder) => runtime.spawn(receive::run(folder)).await?,
            None => runtime.spawn(measure(args)).await?,
        }
    })
}

/// The process of the receivers, which ends with its standard input.
struct Receivers {
    child: Child,
    _stdin: Option<ChildStdin>,
    /// Addresses, in the order in which [`receive::run`] prints them.
    addresses: Vec<String>,
}

impl Receivers {
    fn start(folder: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(env::current_exe()?);
        let mut child = command.arg("--receive").arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no output of the receivers")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let addresses: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if addresses.len() != 3 {
            return Err("the receivers did not start".into());
        }
        Ok(Self { _stdin: child.stdin.take(), child, addresses })
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self._stdin = None;
        let _ = self.child.wait();
    }
}

async fn measure(args: Args) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.data)?;
    let folder = tempfile::tempdir_in(&args.data)?;
    fleet::create(folder.path())?;
    let server = args.nats_server.as_deref().map(|program| NatsServer::start(program, folder.path())).transpose()?;
    let receivers = Receivers::start(folder.path())?;
    let member = Member::read(folder.path(), SENDER)?;
    let known = [(fleet::DURABLE, &receivers.addresses[0]), (fleet::MEMORY, &receivers.addresses[1])];
    let entries = known.into_iter().map(|(name, address)| entry(name, address)).chain([entry(SENDER, "127.0.0.1:1")]);
    let stop = CancellationToken::new();
    let messenger = member.messenger(entries, None, stop.clone()).await?;
    let raw = &receivers.addresses[2];
    let shared = Arc::new(SharedStream::new(RawStream::connect(&member.transport, raw).await?));
    let mut loads = vec![
        messages("durable", &messenger, fleet::DURABLE),
        messages("memory", &messenger, fleet::MEMORY),
        Load::calls("raw", move || {
            let shared = Arc::clone(&shared);
            async move { shared.send().await }
        }),
        Load::Loop(Box::new(RawStream::connect(&member.transport, raw).await?)),
    ];
    if server.is_some() {
        let nats = Arc::new(Nats::connect(folder.path(), SENDER).await?);
        loads.push(Load::calls("nats", move || {
            let nats = Arc::clone(&nats);
            async move { nats.request(payload()).await }
        }));
    }
    loads.retain(|load| args.only.is_empty() || args.only.iter().any(|only| only == load.name()));
    let others: Vec<u32> = [receivers.child.id()].into_iter().chain(server.as_ref().map(NatsServer::id)).collect();
    let time = Duration::from_millis(args.millis);
    for in_flight in &args.in_flight {
        let mut rounds: Vec<Vec<Sample>> = Vec::new();
        for _ in 0..args.rounds {
            let mut round = Vec::new();
            for load in &mut loads {
                load.run(*in_flight, time / 10).await?;
                let before = cpu_of(&others);
                let mut sample = load.run(*in_flight, time).await?;
                sample.cpu = cpu_of(&others) - before;
                round.push(sample);
            }
            rounds.push(round);
        }
        report(*in_flight, &rounds);
    }
    stop.cancel();
    messenger.stopped().await;
    Ok(())
}

/// Returns the way of messages to an agent.
fn messages(name: &'static str, messenger: &Messenger, to: &str) -> Load {
    let (messenger, to): (_, Arc<str>) = (messenger.clone(), to.into());
    Load::calls(name, move || send(messenger.clone(), Arc::clone(&to)))
}

/// Sends one message to an agent, and waits until it is accepted.
async fn send(messenger: Messenger, to: Arc<str>) -> Result<(), Failure> {
    let outcome = messenger.send(Outgoing::new(Address::Agent(to), "bench", payload())).await;
    if outcome.is_accepted() { Ok(()) } else { Err(outcome.to_string().into()) }
}
