//! Tasks that are shell scripts: the executor of [`shell_executor`] records each execution in a file and then runs the
//! task's input. Gates let a test decide when a script continues.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use robeing_client::new_task_id;
use robeing_proto::v1::TaskSpec;
use serde_json::{Value, json};

/// Records the execution, and any overlap with an earlier attempt that still runs; then runs the input. `$1` is the
/// file. Each line is written with a single O_APPEND write, so lines of several processes do not mix.
const RUN: &str = r#"
[ "$ROBEING_ATTEMPT" = 1 ] || grep "^$ROBEING_TASK_ID " "$1" | while read -r task attempt group agent; do
    if kill -0 "-$group" 2>/dev/null; then echo "$task $attempt $ROBEING_ATTEMPT" >> "$1.overlaps"; fi
done
echo "$ROBEING_TASK_ID $ROBEING_ATTEMPT $$ $PPID" >> "$1"
eval "$(cat)"
"#;

/// Returns the command that runs a task and records its execution in this file.
pub fn script_runner(executions: &Path) -> [String; 5] {
    ["/bin/sh".into(), "-c".into(), RUN.into(), "sh".into(), executions.display().to_string()]
}

/// Returns the executor that records executions in this file.
pub fn shell_executor(executions: &Path) -> Value {
    json!({"command": {"argv": script_runner(executions)}})
}

/// Creates a task that runs a script.
pub fn task(script: &str) -> TaskSpec {
    TaskSpec { id: new_task_id(), kind: "shell".into(), input: script.to_owned().into(), ..TaskSpec::default() }
}

/// Returns a script that outputs its task id, its attempt and this text, as [`History`](crate::history::History)
/// expects.
pub fn answer(text: &str) -> String {
    format!("echo \"$ROBEING_TASK_ID $ROBEING_ATTEMPT {text}\"")
}

/// An execution that began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Execution {
    /// The task id.
    pub task: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// The process group of the command, which is the id of its first process.
    pub group: u32,
    /// The process id of the agent.
    pub agent: u32,
}

/// Returns the executions in this file, in the order in which they began.
pub fn executions(file: &Path) -> Vec<Execution> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let task = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        Some(Execution { task, attempt: number()?, group: number()?, agent: number()? })
    };
    // A line without a line break is still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| parse(line).unwrap_or_else(|| panic!("{line:?} is not an execution"))).collect()
}

/// Returns the executions that began while an earlier attempt of their task still ran, as lines of the task id, the
/// earlier and the later attempt.
pub fn overlaps(file: &Path) -> Vec<String> {
    let mut name = file.as_os_str().to_owned();
    name.push(".overlaps");
    fs::read_to_string(name).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A gate that scripts wait for. Dropping it opens it, so that no script waits forever.
#[derive(Debug)]
pub struct Gate {
    closed: PathBuf,
}

impl Gate {
    /// Creates a closed gate.
    ///
    /// # Panics
    /// If the directory can't be written to.
    pub fn closed(dir: &Path, name: &str) -> Self {
        let closed = dir.join(format!("gate-{name}"));
        File::create(&closed).expect("the test's directory can be written to");
        Self { closed }
    }

    /// Returns a script that waits until the gate is open.
    pub fn wait(&self) -> String {
        format!("while [ -e '{}' ]; do sleep 0.05; done", self.closed.display())
    }

    /// Opens the gate; all scripts continue.
    pub fn open(&self) {
        let _ = fs::remove_file(&self.closed);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}
