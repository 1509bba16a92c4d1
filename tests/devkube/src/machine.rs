//! A machine of the cluster: kernel namespaces that look like a computer. Its network namespace persists; the other
//! ones (processes and mounts) live as long as its first process, and end with everything in them when that is killed,
//! as in a power failure. In the machine, `/run` is a tmpfs, and `/var/lib` and `/var/log` are the machine's own disk.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::{
    command::{eventually, program, run, tail},
    error::{Error, Result},
    network::namespace_path,
    plan::Place,
    record::{Process, Run, Running, create_folder},
    tools::Tools,
};

/// Folders of the host that a machine replaces with its own.
pub(crate) const HIDDEN: [&str; 3] = ["/run", "/var/lib", "/var/log"];
/// The deadline for the kernel to start or end a machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// The bytes of a log that an error includes.
const LOG_KEPT: usize = 2_000;
/// The maximum length of a program name in `/proc/PID/comm`, bytes.
const NAME_KEPT: usize = 15;

/// The script that mounts the machine's folders in its mount namespace; `$0` is its disk.
const MOUNT: &str = r#"mount -t tmpfs -o mode=755 devkube /run
mkdir -p /run/lock
mount --bind "$0/lib" /var/lib
mount --bind "$0/log" /var/log"#;

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    place: Place,
    run: Run,
    running: Running,
}

/// A program that runs on a machine. It keeps running when this is dropped, until the machine ends.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    held: Held,
    log: PathBuf,
}

/// How the process of a service is tracked.
#[derive(Debug)]
enum Held {
    /// Started by this process.
    Started(Child),
    /// Found already running.
    Found(Process),
}

impl Machine {
    /// Powers a machine on. Its network namespace must exist.
    pub(crate) async fn start(place: &Place, folder: &Run, tools: &Tools) -> Result<Self> {
        let disk = folder.disk(&place.name);
        create_folder(&disk.join("lib/devkube"))?;
        create_folder(&disk.join("log"))?;
        let mut command = Command::new("setsid");
        command.arg("nsenter").arg(format!("--net={}", namespace_path(&place.namespace).display()));
        command.args(["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["--propagation", "private"]).arg(tools.program("pause"));
        let child = spawn(command, &folder.log(&place.name))?;
        let holder = identify(&child).ok_or_else(|| ended(&place.name, &folder.log(&place.name)))?;
        // The holder has its child process once the namespaces exist.
        let inside = eventually(&format!("the start of machine {}", place.name), DEADLINE, async || {
            holder
                .child()
                .filter(|pid| is_first(*pid))
                .and_then(Process::of)
                .ok_or_else(|| String::from("it has no process yet"))
        })
        .await;
        let inside = match inside {
            Ok(inside) => inside,
            Err(error) => {
                holder.kill();
                return Err(error);
            }
        };
        let running = Running { holder, inside };
        folder.machine_runs(&place.name, &running)?;
        let machine = Self { place: place.clone(), run: folder.clone(), running };
        let mut mounting = machine.enter("sh");
        mounting.kill_on_drop(true).args(["-ec", MOUNT]).arg(&disk);
        run(mounting, None, DEADLINE).await?;
        Ok(machine)
    }

    /// Returns a machine that is on, whichever process powered it on.
    pub(crate) fn find(place: &Place, folder: &Run) -> Result<Self> {
        let running = folder.machine(&place.name).ok().filter(|running| running.holder.is_alive());
        let running = running.ok_or_else(|| Error::Off(place.name.clone()))?;
        Ok(Self { place: place.clone(), run: folder.clone(), running })
    }

    /// Powers the machine off abruptly: all its processes are gone when this returns.
    pub(crate) async fn stop(self) -> Result<()> {
        let waiting = self.waiting();
        self.running.holder.kill();
        let inside = self.running.inside;
        eventually(&format!("the end of machine {}", self.place.name), DEADLINE, async || {
            waiting.iter().for_each(|process| process.resume());
            let gone = !self.running.holder.is_alive() && !inside.is_alive();
            if gone { Ok(()) } else { Err(String::from("its first process is still there")) }
        })
        .await?;
        self.run.machine_ended(&self.place.name)
    }

    /// Returns a command that runs on the machine.
    pub(crate) fn enter(&self, name: impl AsRef<Path>) -> Command {
        let mut command = program("nsenter");
        command.kill_on_drop(false).arg(format!("--target={}", self.running.inside.pid));
        command.args(["--pid", "--mount", "--net", "--"]).arg(name.as_ref());
        command
    }

    /// Returns the path on the host of a file that the machine sees at `inside`.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.running.inside.pid))
    }

    /// Starts a long-running program, unless it is already running.
    pub(crate) async fn serve(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Service> {
        let running = self.running_program(name);
        if running.is_none() {
            // A killed program keeps its files and ports until the last of its threads is gone.
            eventually(&format!("the end of the previous {name}"), DEADLINE, async || match self.is_ending(name) {
                true => Err(String::from("some of its threads are still there")),
                false => Ok(()),
            })
            .await?;
        }
        let name = format!("{}/{name}", self.place.name);
        let log = self.run.log(&name.replace('/', "-"));
        if let Some(process) = running {
            return Ok(Service { held: Held::Found(process), name, log });
        }
        let inner = self.enter(program);
        // Its own session, so that Ctrl-C at the terminal reaches only the caller.
        let mut command = Command::new("setsid");
        command.arg(inner.as_std().get_program()).args(inner.as_std().get_args()).args(arguments);
        Ok(Service { held: Held::Started(spawn(command, &log)?), name, log })
    }

    /// Resumes processes that a signal stopped.
    pub(crate) fn wake(&self) {
        self.processes().into_iter().chain(self.waiting()).for_each(Process::resume);
    }

    /// Returns the parents of this machine's processes: for each program, an `nsenter` waits. It stops itself when its
    /// program is stopped, and a stopped `nsenter` does not reap its program.
    fn waiting(&self) -> Vec<Process> {
        self.processes().into_iter().filter_map(Process::parent).collect()
    }

    /// Returns the process of a program on this machine, if it is running.
    fn running_program(&self, name: &str) -> Option<Process> {
        self.processes().into_iter().find(|process| is_named(process.pid, name))
    }

    /// Returns whether an ended program still has threads. Its main thread does not count, because it has ended.
    fn is_ending(&self, name: &str) -> bool {
        let Some(own) = namespace(Path::new(&format!("/proc/{}", self.running.inside.pid))) else { return false };
        let threads = |pid: i32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let is_here = |pid: i32| threads(pid).any(|thread| namespace(&thread.path()).as_ref() == Some(&own));
        pids().any(|pid| is_named(pid, name) && is_here(pid))
    }

    /// Returns this machine's processes, without those in containers, which have their own namespaces.
    fn processes(&self) -> Vec<Process> {
        let of = |pid: i32| namespace(Path::new(&format!("/proc/{pid}")));
        let Some(own) = of(self.running.inside.pid) else { return Vec::new() };
        pids().filter(|pid| of(*pid).as_ref() == Some(&own)).filter_map(Process::of).collect()
    }
}

/// Returns the ids of all processes that the host sees.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns the PID namespace of a process or a thread, given its folder in `/proc`; `None` once it has ended.
fn namespace(folder: &Path) -> Option<PathBuf> {
    fs::read_link(folder.join("ns/pid")).ok()
}

fn is_named(pid: i32, name: &str) -> bool {
    let kept = name.get(..NAME_KEPT).unwrap_or(name);
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == kept)
}

impl Service {
    /// Fails if the program has exited.
    pub(crate) fn check(&mut self) -> Result<()> {
        let runs = match &mut self.held {
            Held::Started(child) => matches!(child.try_wait(), Ok(None)),
            Held::Found(process) => process.is_alive(),
        };
        if runs { Ok(()) } else { Err(ended(&self.name, &self.log)) }
    }
}

/// Checks a condition until it holds, like [`eventually`]; fails as soon as one of these services has exited.
///
/// # Errors
/// [`Error::ServiceEnded`], or the same as for [`eventually`].
pub(crate) async fn eventually_served<T, F>(
    services: &mut [Service],
    what: &str,
    deadline: Duration,
    mut look: F,
) -> Result<T>
where
    F: AsyncFnMut() -> Result<T, String>,
{
    eventually(what, deadline, async || match services.iter_mut().find_map(|service| service.check().err()) {
        Some(ended) => Ok(Err(ended)),
        None => look().await.map(Ok),
    })
    .await
    .flatten()
}

fn ended(service: &str, log: &Path) -> Error {
    let text = std::fs::read(log).unwrap_or_default();
    Error::ServiceEnded { service: service.into(), log: log.into(), tail: tail(&text, LOG_KEPT) }
}

fn identify(child: &Child) -> Option<Process> {
    Process::of(i32::try_from(child.id()?).ok()?)
}

/// Returns whether a process is the first of its PID namespace, and has already executed its program.
fn is_first(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    status.starts_with("Name:\tpause\n") && ids.split_whitespace().next_back() == Some("1")
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let file = |source| Error::File { action: "written", path: log.into(), source };
    if let Some(folder) = log.parent() {
        create_folder(folder)?;
    }
    let out = File::options().create(true).append(true).open(log).map_err(file)?;
    command.stdin(Stdio::null()).stdout(out.try_clone().map_err(file)?).stderr(out);
    command.current_dir("/");
    command.spawn().map_err(|source| Error::Start { command: crate::command::shown(command.as_std()), source })
}
