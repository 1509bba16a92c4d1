//! A simulated process: the shipped code on its own runtime, whose clock the simulation drives. A paused process is not
//! run at all, as after SIGSTOP: no task is polled and no timer fires. When it resumes, its monotonic clock has
//! advanced by the whole pause, and everything that is due happens at once.

use std::{pin::Pin, time::Duration};

use robeing_platform::{Random, simulated::SeededRandom};
use tokio::{
    runtime::{Builder, RngSeed, Runtime, UnhandledPanic},
    task::{JoinHandle, LocalSet},
};

/// The program of a process, from its start to its end.
pub type Program = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()>>>>;

struct Running {
    runtime: Runtime,
    tasks: LocalSet,
    main: JoinHandle<()>,
}

/// A process.
pub struct Process {
    program: Program,
    random: SeededRandom,
    running: Option<Running>,
    /// The simulated time since which it is paused.
    paused: Option<Duration>,
}

impl Process {
    /// Creates a process that does not run yet.
    pub fn new(seed: u64, program: Program) -> Self {
        Self { program, random: SeededRandom::new(seed), running: None, paused: None }
    }

    /// Returns whether it runs, or is paused.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Starts it, after killing it if it runs.
    pub fn start(&mut self) {
        self.kill();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .unhandled_panic(UnhandledPanic::ShutdownRuntime)
            .rng_seed(RngSeed::from_bytes(&self.random.next_u64().to_le_bytes()))
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let mut tasks = LocalSet::new();
        tasks.unhandled_panic(UnhandledPanic::ShutdownRuntime);
        // Timers fire only at whole milliseconds.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        let main = {
            let _guard = runtime.enter();
            tasks.spawn_local((self.program)())
        };
        self.running = Some(Running { runtime, tasks, main });
    }

    /// Ends it at once, as by SIGKILL.
    pub fn kill(&mut self) {
        self.paused = None;
        if let Some(Running { runtime, tasks, main }) = self.running.take() {
            drop(main);
            drop(runtime);
            drop(tasks);
        }
    }

    /// Suspends it until [`Process::go_on`].
    pub fn pause(&mut self, now: Duration) {
        if self.running.is_some() {
            self.paused.get_or_insert(now);
        }
    }

    /// Resumes it after a pause.
    pub fn go_on(&mut self, now: Duration) {
        if let (Some(since), Some(running)) = (self.paused.take(), &self.running) {
            let pause = now.saturating_sub(since);
            running.runtime.block_on(running.tasks.run_until(async { tokio::time::advance(pause).await }));
        }
    }

    /// Runs it for this time, unless it is paused. It ends when its program does.
    pub fn tick(&mut self, time: Duration) {
        if self.paused.is_some() {
            return;
        }
        if let Some(running) = &self.running {
            running.runtime.block_on(running.tasks.run_until(async { tokio::time::sleep(time).await }));
            if running.main.is_finished() {
                self.kill();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::time::Instant;

    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// Returns a process that records, every 10 ms, how much time has passed since its start.
    fn ticking() -> (Process, Rc<RefCell<Vec<u128>>>) {
        let notes: Rc<RefCell<Vec<u128>>> = Rc::default();
        let noted = Rc::clone(&notes);
        let program: Program = Box::new(move || {
            let noted = Rc::clone(&noted);
            Box::pin(async move {
                let started = Instant::now();
                loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    noted.borrow_mut().push(started.elapsed().as_millis());
                }
            })
        });
        let mut process = Process::new(1, program);
        process.start();
        (process, notes)
    }

    #[test]
    fn a_paused_process_does_nothing_and_its_clock_goes_on() {
        let (mut process, notes) = ticking();
        (0..25).for_each(|_| process.tick(TICK));
        assert_eq!(*notes.borrow(), [10, 20]);
        process.pause(Duration::from_millis(25));
        (0..1_000).for_each(|_| process.tick(TICK));
        assert_eq!(*notes.borrow(), [10, 20]);
        process.go_on(Duration::from_millis(1_025));
        (0..10).for_each(|_| process.tick(TICK));
        let woken = notes.borrow()[2];
        assert!((1_025..=1_027).contains(&woken), "it woke after {woken} ms");
    }

    #[test]
    fn a_killed_process_starts_anew() {
        let (mut process, notes) = ticking();
        (0..15).for_each(|_| process.tick(TICK));
        process.kill();
        assert!(!process.is_running());
        process.start();
        (0..15).for_each(|_| process.tick(TICK));
        assert_eq!(*notes.borrow(), [10, 10]);
    }
}
