//! `robeing-agent health URL`: queries a process's probe, for a health check inside an image that has no shell. It
//! implements just enough HTTP/1.1 to GET a status over plain TCP.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use clap::{Arg, ArgMatches, Command};

/// The subcommand's name.
pub const SUBCOMMAND: &str = "health";

/// The default URL: where the image's own deployments serve their probes.
const DEFAULT_URL: &str = "http://127.0.0.1:9090/readyz";
/// How long the whole request may take.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// The maximum number of bytes read from an answer; its status comes first.
pub const MAX_ANSWER: usize = 4096;

/// Why a process does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The URL can't be queried.
    #[error("{0:?} can't be queried: give a URL such as {DEFAULT_URL}")]
    Url(String),
    /// The process did not answer.
    #[error("{url} does not answer: {error}")]
    Silent {
        /// The URL that was queried.
        url: String,
        /// The error from the operating system.
        error: io::Error,
    },
    /// The process did not answer with a success.
    #[error("{url} answered {answer:?}")]
    Unwell {
        /// The URL that was queried.
        url: String,
        /// The first line of its answer.
        answer: String,
    },
}

/// Returns the subcommand.
pub fn command() -> Command {
    Command::new(SUBCOMMAND)
        .about("Queries a process's probe: for a health check in an image that has no shell")
        .after_help("Exit codes: 0 healthy; 1 unhealthy, or no answer within 2 seconds; 2 wrong arguments.")
        .arg(Arg::new("url").value_name("URL").default_value(DEFAULT_URL).help("The probe to query, over http"))
}

/// Queries the URL in the subcommand's arguments.
///
/// # Errors
/// When the URL can't be queried, there is no answer in time, or the answer is not a success.
pub fn run(matches: &ArgMatches) -> Result<(), HealthError> {
    probe(matches.get_one::<String>("url").map_or(DEFAULT_URL, String::as_str))
}

fn probe(url: &str) -> Result<(), HealthError> {
    let (host, path) = parts(url).ok_or_else(|| HealthError::Url(url.to_owned()))?;
    let answer = ask(host, path).map_err(|error| HealthError::Silent { url: url.to_owned(), error })?;
    match is_success(&answer) {
        true => Ok(()),
        false => Err(HealthError::Unwell { url: url.to_owned(), answer: first_line(&answer) }),
    }
}

/// Splits a URL into `host:port` and path. Rejects characters that would end the request line early.
fn parts(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (name, port) = host.rsplit_once(':')?;
    let plain = !url.chars().any(|c| c.is_control() || c == ' ');
    (plain && !name.is_empty() && port.parse::<u16>().is_ok()).then_some((host, path))
}

fn ask(host: &str, path: &str) -> io::Result<Vec<u8>> {
    let until = Instant::now() + DEADLINE;
    // A timeout of zero would mean none.
    let left = || match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let address = host.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while answer.len() < MAX_ANSWER && !answer.contains(&b'\n') {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(answer)
}

/// Whether the answer begins like `HTTP/1.1 200 OK`, with any status from 200 to 299.
fn is_success(answer: &[u8]) -> bool {
    let line = first_line(answer);
    let mut words = line.split(' ');
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    is_http
        && words.next().and_then(|status| status.parse().ok()).is_some_and(|status: u16| (200..300).contains(&status))
}

fn first_line(answer: &[u8]) -> String {
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Answers one connection with these bytes, and closes it.
    fn server(answer: &'static [u8]) -> (String, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/readyz", listener.local_addr().expect("it is bound"));
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 512];
            let read = stream.read(&mut request).expect("a request");
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            // The client may have read enough and closed the connection.
            let _ = stream.write_all(answer);
        });
        (url, serving)
    }

    fn asked(answer: &'static [u8]) -> Result<(), HealthError> {
        let (url, serving) = server(answer);
        let result = probe(&url);
        serving.join().expect("it was asked as expected");
        result
    }

    #[test]
    fn only_a_success_is_well() {
        asked(b"HTTP/1.1 200 OK\r\n\r\nready\n").expect("it is well");
        asked(b"HTTP/1.0 299 x\r\n\r\n").expect("it is well");
        let answers: [&[u8]; 7] = [
            b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
            b"HTTP/1.1 300 Multiple Choices\r\n\r\n",
            b"HTTP/1.1 199 x\r\n\r\n",
            b"SSH-2.0-OpenSSH 200\r\n",
            b"HTTP/1.1\r\n",
            b"",
            &[b'x'; 2 * MAX_ANSWER],
        ];
        for answer in answers {
            let result = asked(answer);
            // A peer that closes with bytes unread resets the connection.
            assert!(matches!(result, Err(HealthError::Unwell { .. } | HealthError::Silent { .. })), "{result:?}");
        }
    }

    #[test]
    fn nobody_there_is_not_well() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/readyz", listener.local_addr().expect("it is bound"));
        drop(listener);
        assert!(matches!(probe(&url), Err(HealthError::Silent { .. })));
    }

    #[test]
    fn somebody_who_is_silent_is_not_well() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/readyz", listener.local_addr().expect("it is bound"));
        assert!(matches!(probe(&url), Err(HealthError::Silent { .. })));
    }

    #[test]
    fn what_is_no_url_of_a_probe_is_refused() {
        let urls = [
            "",
            "127.0.0.1:9090",
            "https://a:1/",
            "http://a/",
            "http://:1/",
            "http://a:70000/",
            "http://a:1/ HTTP\r\n",
        ];
        for url in urls {
            let result = probe(url);
            assert!(matches!(result, Err(HealthError::Url(_))), "{url:?}: {result:?}");
        }
        assert_eq!(parts("http://a:1"), Some(("a:1", "/")));
        assert_eq!(parts("http://[::1]:1/x/y?z"), Some(("[::1]:1", "/x/y?z")));
    }
}
