//! The example in `examples/review`, with `robeing dev`: documents are reviewed, an agent dies, another one lies, and a
//! person approves the release.

use robeing_tests::{
    documented,
    review::{README, Review},
    terminal::Terminal,
};

#[tokio::test]
async fn documents_are_reviewed_while_an_agent_dies_and_another_lies_and_a_person_approves_the_release() {
    let blocks = documented::commands(README, "On your machine");
    let [start, setup] = &blocks[..] else { panic!("two terminals: {blocks:?}") };
    let review = Review::new(Terminal::default(), setup);
    let start = Review::anywhere(start);
    let line: Vec<&str> = start.strip_prefix("robeing dev ").expect("it runs a fleet").split_whitespace().collect();
    let dev = review.terminal().dev(&line);
    dev.line_with(&["ready"]).await;
    review.is_as_documented().await;
    dev.line_with(&["died", "law-0", "SIGKILL"]).await;
}
