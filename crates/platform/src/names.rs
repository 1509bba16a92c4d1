//! Host name resolution on its own threads.
//!
//! The system's resolver blocks its thread for many seconds when no name server answers, even when no caller is waiting
//! for the result any more. Tokio runs it on the same threads as file operations: retries to reach one host by name
//! could then keep all of these threads waiting for a name server, and no write of the log would finish.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Maximum number of concurrent look-ups, over all names.
pub const MAX_LOOKUPS: usize = 32;
/// Maximum number of concurrent look-ups of one name.
pub const MAX_LOOKUPS_OF_A_NAME: usize = 3;
/// Time after which another look-up of the same name is started although the last one is still running: a name server
/// that did not answer that one may be answering again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Stack size of a look-up thread, in bytes.
const STACK: usize = 256 * 1024;

/// The result of a look-up. An error is kept as its kind and text, because several callers may receive it.
type Answer = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// One look-up in progress.
struct Flight {
    began: Instant,
    number: u64,
    answer: watch::Receiver<Option<Answer>>,
}

#[derive(Default)]
struct Flights {
    /// Look-ups in progress by `host:port`, oldest first.
    by_name: HashMap<String, Vec<Flight>>,
    count: usize,
    next: u64,
}

/// Resolves names. Clones share the look-ups in progress.
#[derive(Clone)]
pub(crate) struct Names {
    lookup: Arc<Lookup>,
    flights: Arc<Mutex<Flights>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(|name| Ok(name.to_socket_addrs()?.collect()))
    }
}

impl Names {
    fn new(lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { lookup: Arc::new(lookup), flights: Arc::default() }
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves `host:port` to its current addresses. Callers that ask for a name that is already being looked up share
    /// the result. Has no timeout of its own. Cancellation-safe.
    ///
    /// # Errors
    /// The system's error; `WouldBlock` if too many look-ups are still running.
    pub(crate) async fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let mut answer = self.ask(name)?;
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer {
            Ok(Some(Ok(addresses))) => Ok(addresses),
            Ok(Some(Err((kind, words)))) => Err(io::Error::new(kind, words)),
            Ok(None) | Err(_) => Err(io::Error::other(format!("the look-up of {name} ended without an answer"))),
        }
    }

    fn ask(&self, name: &str) -> io::Result<watch::Receiver<Option<Answer>>> {
        let mut flights = self.flights();
        let of_name = flights.by_name.get(name).map_or(&[][..], Vec::as_slice);
        if let Some(newest) = of_name.last()
            && (of_name.len() >= MAX_LOOKUPS_OF_A_NAME || newest.began.elapsed() < AGAIN_AFTER)
        {
            return Ok(newest.answer.clone());
        }
        if flights.count >= MAX_LOOKUPS {
            let words = format!("{MAX_LOOKUPS} look-ups of names are still running; is the name server up?");
            return Err(io::Error::new(io::ErrorKind::WouldBlock, words));
        }
        let (tell, answer) = watch::channel(None);
        let number = flights.next;
        let (names, asked) = (self.clone(), name.to_owned());
        thread::Builder::new().name("robeing-names".into()).stack_size(STACK).spawn(move || {
            let answer = (names.lookup)(&asked).map_err(|error| (error.kind(), error.to_string()));
            names.landed(&asked, number);
            tell.send_replace(Some(answer));
        })?;
        flights.next += 1;
        flights.count += 1;
        let flight = Flight { began: Instant::now(), number, answer: answer.clone() };
        flights.by_name.entry(name.to_owned()).or_default().push(flight);
        Ok(answer)
    }

    fn landed(&self, name: &str, number: u64) {
        let mut flights = self.flights();
        flights.count -= 1;
        if let Some(of_name) = flights.by_name.get_mut(name) {
            of_name.retain(|flight| flight.number != number);
            if of_name.is_empty() {
                flights.by_name.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Condvar,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::timeout;

    use super::*;

    const A_MOMENT: Duration = Duration::from_millis(20);

    /// A name server that answers nothing until it is allowed to.
    #[derive(Default)]
    struct Deaf {
        asked: AtomicUsize,
        answers: Mutex<bool>,
        changed: Condvar,
    }

    impl Deaf {
        fn names(self: &Arc<Self>) -> Names {
            let deaf = Arc::clone(self);
            Names::new(move |_| {
                deaf.asked.fetch_add(1, Ordering::SeqCst);
                let answers = deaf.answers.lock().unwrap();
                drop(deaf.changed.wait_while(answers, |answers| !*answers).unwrap());
                Ok(vec!["192.0.2.1:1".parse().unwrap()])
            })
        }

        fn answer(&self) {
            *self.answers.lock().unwrap() = true;
            self.changed.notify_all();
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    impl Drop for Answering<'_> {
        fn drop(&mut self) {
            self.0.answer();
        }
    }

    /// Releases the threads of a test, however it ends.
    struct Answering<'a>(&'a Arc<Deaf>);

    #[test]
    fn a_name_server_that_does_not_answer_holds_up_no_file() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
        let deaf = Arc::<Deaf>::default();
        let _ends = Answering(&deaf);
        runtime.block_on(async {
            let names = deaf.names();
            for n in 0..100 {
                let given_up = timeout(Duration::from_millis(1), names.resolve(&format!("host-{}:1", n % 5))).await;
                assert!(given_up.is_err(), "nobody answers");
            }
            let file = tokio::task::spawn_blocking(|| "written");
            assert_eq!(
                timeout(Duration::from_secs(60), file).await.expect("there is a thread for it").unwrap(),
                "written"
            );
        });
        assert_eq!(deaf.asked(), 5);
    }

    #[tokio::test]
    async fn all_who_ask_for_a_name_at_once_have_the_answer_of_one_look_up() {
        let deaf = Arc::<Deaf>::default();
        let _ends = Answering(&deaf);
        let names = deaf.names();
        let all: Vec<_> = (0..100)
            .map(|_| {
                tokio::spawn({
                    let names = names.clone();
                    async move { names.resolve("host:1").await }
                })
            })
            .collect();
        while deaf.asked() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        deaf.answer();
        for one in all {
            assert_eq!(one.await.unwrap().unwrap(), ["192.0.2.1:1".parse().unwrap()]);
        }
        assert_eq!(deaf.asked(), 1);
        // The next call starts a new look-up.
        names.resolve("host:1").await.unwrap();
        assert_eq!(deaf.asked(), 2);
    }

    #[tokio::test]
    async fn look_ups_that_come_to_no_end_are_bounded_and_an_address_needs_none() {
        let deaf = Arc::<Deaf>::default();
        let _ends = Answering(&deaf);
        let names = deaf.names();
        for n in 0..MAX_LOOKUPS {
            assert!(timeout(A_MOMENT, names.resolve(&format!("host-{n}:1"))).await.is_err());
        }
        let refused = names.resolve("one-more:1").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(refused.to_string().contains("is the name server up?"), "{refused}");
        assert_eq!(names.resolve("192.0.2.7:80").await.unwrap(), ["192.0.2.7:80".parse().unwrap()]);
        deaf.answer();
        let later = async { while names.resolve("one-more:1").await.is_err() {} };
        timeout(Duration::from_secs(60), later).await.expect("there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_anew_after_a_while_though_the_first_look_up_goes_on() {
        let deaf = Arc::<Deaf>::default();
        let _ends = Answering(&deaf);
        let names = deaf.names();
        for _ in 0..2 * MAX_LOOKUPS_OF_A_NAME {
            assert!(timeout(AGAIN_AFTER, names.resolve("host:1")).await.is_err());
        }
        assert_eq!(names.flights().count, MAX_LOOKUPS_OF_A_NAME);
    }

    #[tokio::test]
    async fn what_the_system_says_is_told() {
        let names = Names::new(|_| Err(io::Error::new(io::ErrorKind::NotFound, "no such host")));
        let error = names.resolve("host:1").await.unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (io::ErrorKind::NotFound, "no such host"));
    }
}
