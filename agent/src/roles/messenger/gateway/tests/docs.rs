//! The commands of the documentation, sent as curl would send them.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::{client::send, stub::Plain};

/// Splits a command into words, as a shell does.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    words
}

/// Returns the request of a curl command. Of its options, those of TLS are left out.
fn request(command: &str) -> Request<Full<Bytes>> {
    let words = words(&command.replace("$GATEWAY", "").replace("$TOKEN", "a.b.c"));
    let mut words = words.into_iter().skip(1);
    let (mut request, mut body, mut path) = (Request::builder().header("host", "gateway"), None, String::new());
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("an option has a value");
        match &*word {
            "--cacert" => drop(value()),
            "-H" => {
                let header = value();
                let (name, value) = header.split_once(": ").expect("a header");
                request = request.header(name, value);
            }
            "-d" => body = Some(value()),
            _ => path = word,
        }
    }
    let method = if body.is_some() { "POST" } else { "GET" };
    request.method(method).uri(path).body(Full::from(body.unwrap_or_default())).expect("a request")
}

#[tokio::test]
async fn the_commands_of_the_documentation_work() {
    let path = format!("{}/../docs/gateway.md", env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(path).expect("the page");
    let fleet = Plain::start().await;
    let commands: Vec<&str> = docs.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        let answer = send(fleet.gateway.local_addr(), request(command)).await;
        assert!(answer.status.is_success(), "{command}: {answer:?}");
    }
    assert_eq!(fleet.coordinator.stub.messages()[0].to, "pool:data");
}
