//! How members of a group are asked: others as well when one is silent, as a frozen process is, which neither answers nor
//! breaks its connections.

use std::{collections::BTreeMap, iter, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt};
use robeing_client::FleetClient;
use robeing_groups::{
    Group,
    exchange::{self, Ask},
};
use robeing_proto::v1::{MessageCode, MessageStatus};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

use super::{DECIDE_WITHIN, PbftError};
use crate::{
    error::CliError,
    render::{note, outcome_text},
};

/// How long a member has to answer before others are asked as well, and how long it is waited for once enough others
/// have answered.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(2);

/// What a member was asked for, or why it has not said it. An error if the fleet does not pass questions on.
pub(super) type Asked<T> = Result<Result<T, PbftError>, CliError>;

/// Asks an agent. Returns its reply, or why there is none.
pub(super) async fn ask(client: &FleetClient, member: &str, question: &Ask, within: Duration) -> Asked<Vec<u8>> {
    let member = member.to_owned();
    let Some(status) = client.ask_member(&member, question, within).await? else {
        return Ok(Err(PbftError::Away { member, reason: "no agent has this name".into() }));
    };
    let MessageStatus { reason, reply, .. } = &status;
    Ok(match (status.code(), reply) {
        (MessageCode::Accepted, Some(reply)) => Ok(reply.to_vec()),
        (MessageCode::Refused, _) => Err(PbftError::Refused { member, reason: reason.clone() }),
        _ => Err(PbftError::Away { member, reason: outcome_text(&status).trim_end().to_owned() }),
    })
}

/// Asks an agent, and reads its reply.
pub(super) async fn ask_for<T: DeserializeOwned>(
    client: &FleetClient,
    member: &str,
    question: &Ask,
    within: Duration,
) -> Asked<T> {
    Ok(match ask(client, member, question, within).await? {
        Ok(answer) => exchange::read("answer of a member", &answer).map_err(PbftError::Group),
        Err(error) => Err(error),
    })
}

/// Returns the members of a group, or the one that is to be asked.
///
/// # Errors
/// [`PbftError::NoMember`] if that one is none.
pub(super) fn members<'a>(group: &'a Group, via: Option<&str>) -> Result<Vec<&'a str>, PbftError> {
    let found: Vec<&str> = group.names().filter(|name| via.is_none_or(|via| via == *name)).collect();
    if found.is_empty() { Err(PbftError::NoMember(via.unwrap_or_default().to_owned())) } else { Ok(found) }
}

/// Asks the members of a group until one answers, as [`first`] does.
pub(super) async fn any_answer(
    client: &FleetClient,
    group: &Group,
    question: &Ask,
    within: Duration,
) -> Result<(String, Vec<u8>), CliError> {
    let members = members(group, None)?;
    let faulty = group.epoch().quorums().faulty();
    let (member, answer) = first(&members, faulty, |member| ask(client, member, question, within)).await?;
    Ok((member.to_owned(), answer))
}

/// Says of a question that waits for a decision, and that nobody has answered since `began`, that it may still be decided.
pub(super) fn undecided(error: CliError, began: Instant) -> CliError {
    match error {
        CliError::Pbft(PbftError::Away { .. }) if began.elapsed() >= DECIDE_WITHIN => {
            PbftError::Undecided(DECIDE_WITHIN).into()
        }
        error => error,
    }
}

/// Asks members until one answers. The first one is asked; if it is silent, `faulty` more, so that one of those that are
/// asked is not faulty; and then all, as the clients of Castro and Liskov (1999, section 4.1) do. For one that refuses, the
/// next is asked at once. What is asked must have its effect once, however many members are asked.
///
/// # Errors
/// What the last one said that has refused, or else why one has not answered, if none has.
pub(super) async fn first<'a, T, A>(
    members: &[&'a str],
    faulty: usize,
    ask: impl Fn(&'a str) -> A,
) -> Result<(&'a str, T), CliError>
where
    A: Future<Output = Asked<T>>,
{
    let (mut found, problem) = some(members, 1, [faulty.max(1), members.len()], ask).await?;
    found.pop().ok_or_else(|| problem.unwrap_or(PbftError::NoMember(String::new())).into())
}

/// Asks members until so many say that something is done that one of them does not lie: `faulty`, and one more. The first one
/// has the longer time, as the group may have to decide, and the others the shorter one. What is asked must have its effect
/// once, however many members are asked.
///
/// # Errors
/// As [`first`] if nobody says so; [`PbftError::TooFew`] if too few do.
pub(super) async fn enough<'a, T, A>(
    members: &[&'a str],
    faulty: usize,
    [longer, shorter]: [Duration; 2],
    ask: impl Fn(&'a str, Duration) -> A,
) -> Result<(), CliError>
where
    A: Future<Output = Asked<T>>,
{
    let (by, _) = first(members, faulty, |member| ask(member, longer)).await?;
    let others: Vec<&'a str> = members.iter().copied().filter(|name| *name != by).collect();
    let (done, problem) = some(&others, faulty, iter::repeat(faulty), |member| ask(member, shorter)).await?;
    if done.len() >= faulty {
        return Ok(());
    }
    if let Some(problem) = problem {
        note(&problem.to_string());
    }
    Err(PbftError::TooFew { said: done.len() + 1, need: faulty + 1 }.into())
}

/// Asks members until so many have answered: as many at first, and whenever they are silent for [`SILENT_AFTER`] as many
/// more as `more` says, and none when that ends. For one that refuses, the next is asked at once. Returns the answers,
/// fewer if there are no more, and what the last one said that has refused, or else why one has not answered.
pub(super) async fn some<'a, T, A>(
    members: &[&'a str],
    need: usize,
    more: impl IntoIterator<Item = usize>,
    ask: impl Fn(&'a str) -> A,
) -> Result<(Vec<(&'a str, T)>, Option<PbftError>), CliError>
where
    A: Future<Output = Asked<T>>,
{
    let begin = |member: &'a str| {
        let answer = ask(member);
        async move { (member, answer.await) }
    };
    let (mut left, mut more) = (members.iter().copied(), more.into_iter());
    let mut silent: Vec<&str> = left.by_ref().take(need).collect();
    let mut under_way: FuturesUnordered<_> = silent.iter().copied().map(&begin).collect();
    let (mut found, mut problem) = (Vec::new(), None);
    let mut more_at = Instant::now() + SILENT_AFTER;
    while found.len() < need && !silent.is_empty() {
        tokio::select! {
            Some((member, answer)) = under_way.next() => {
                silent.retain(|name| *name != member);
                match answer? {
                    Ok(answer) => found.push((member, answer)),
                    Err(error) => {
                        if let Some(next) = left.next() {
                            note(&error.to_string());
                            silent.push(next);
                            under_way.push(begin(next));
                        }
                        // What one says is worth more than that another is away.
                        let says = matches!(problem, Some(PbftError::Refused { .. }));
                        if !says || matches!(error, PbftError::Refused { .. }) {
                            problem = Some(error);
                        }
                    }
                }
            }
            () = sleep_until(more_at), if left.len() > 0 => {
                let count = more.next().unwrap_or(0);
                let others: Vec<&str> = left.by_ref().take(count).collect();
                if !others.is_empty() {
                    let (before, after) = (silent.join(", "), others.join(", "));
                    let seconds = SILENT_AFTER.as_secs();
                    note(&format!("no answer of {before} within {seconds} s; asking {after} as well"));
                }
                under_way.extend(others.iter().copied().map(&begin));
                silent.extend(others);
                more_at = Instant::now() + SILENT_AFTER;
            }
        }
    }
    Ok((found, problem))
}

/// Asks all members at once. Returns what each says, in their order. Once `enough` have answered or refused, the others
/// have [`SILENT_AFTER`] more.
pub(super) async fn all<'a, T, A>(
    members: &[&'a str],
    enough: usize,
    ask: impl Fn(&'a str) -> A,
) -> Result<Vec<(&'a str, Result<T, PbftError>)>, CliError>
where
    A: Future<Output = Asked<T>>,
{
    let begin = |member: &'a str| {
        let answer = ask(member);
        async move { (member, answer.await) }
    };
    let mut under_way: FuturesUnordered<_> = members.iter().copied().map(&begin).collect();
    let mut said = BTreeMap::new();
    let mut until = (enough == 0).then(|| Instant::now() + SILENT_AFTER);
    while said.len() < members.len() {
        tokio::select! {
            Some((member, answer)) = under_way.next() => {
                said.insert(member, answer?);
                if until.is_none() && said.len() >= enough {
                    until = Some(Instant::now() + SILENT_AFTER);
                }
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            else => break,
        }
    }
    let silent = |member: &str| {
        let reason = format!("nothing came within {} s", SILENT_AFTER.as_secs());
        Err(PbftError::Away { member: member.to_owned(), reason })
    };
    Ok(members.iter().map(|member| (*member, said.remove(member).unwrap_or_else(|| silent(member)))).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::sleep;

    use super::*;

    const MEMBERS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
    /// How long a question may take at most.
    const WITHIN: Duration = Duration::from_secs(60);

    /// How members behave, and who was asked when, ms.
    struct Script {
        began: Instant,
        behaves: fn(&str) -> Option<Result<(), ()>>,
        asked: RefCell<Vec<(String, u128)>>,
    }

    impl Script {
        /// `None`: it is frozen.
        fn new(behaves: fn(&str) -> Option<Result<(), ()>>) -> Self {
            Self { began: Instant::now(), behaves, asked: RefCell::default() }
        }

        async fn ask(&self, member: &str) -> Asked<u32> {
            self.asked.borrow_mut().push((member.to_owned(), self.began.elapsed().as_millis()));
            let member = member.to_owned();
            match (self.behaves)(&member) {
                Some(Ok(())) => Ok(Ok(7)),
                Some(Err(())) => Ok(Err(PbftError::Refused { member, reason: "it is full".into() })),
                None => {
                    sleep(WITHIN).await;
                    Ok(Err(PbftError::Away { member, reason: "it is frozen".into() }))
                }
            }
        }

        fn asked(&self) -> Vec<(String, u128)> {
            self.asked.take()
        }
    }

    fn at(times: &[(&str, u128)]) -> Vec<(String, u128)> {
        times.iter().map(|(member, ms)| ((*member).to_owned(), *ms)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_member_is_asked_while_it_answers() {
        let script = Script::new(|_| Some(Ok(())));
        let found = first(&MEMBERS, 2, |member| script.ask(member)).await.expect("it answers");
        assert_eq!((found, script.asked()), (("a", 7), at(&[("a", 0)])));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_members_are_got_past_although_as_many_are_frozen_as_may_be() {
        let script = Script::new(|member| (member > "b").then_some(Ok(())));
        let found = first(&MEMBERS, 2, |member| script.ask(member)).await.expect("one of three answers");
        assert_eq!((found, script.asked()), (("c", 7), at(&[("a", 0), ("b", 2_000), ("c", 2_000)])));
        let script = Script::new(|member| (member > "f").then_some(Ok(())));
        let found = first(&MEMBERS, 2, |member| script.ask(member)).await.expect("the last one answers");
        let waves = at(&[("a", 0), ("b", 2_000), ("c", 2_000), ("d", 4_000), ("e", 4_000), ("f", 4_000), ("g", 4_000)]);
        assert_eq!((found, script.asked()), (("g", 7), waves));
    }

    #[tokio::test(start_paused = true)]
    async fn for_one_that_refuses_the_next_is_asked_at_once_and_the_last_refusal_is_told() {
        let script = Script::new(|member| Some(if member > "b" { Ok(()) } else { Err(()) }));
        let found = first(&MEMBERS, 2, |member| script.ask(member)).await.expect("the third one answers");
        assert_eq!((found, script.asked()), (("c", 7), at(&[("a", 0), ("b", 0), ("c", 0)])));
        let script = Script::new(|_| Some(Err(())));
        let error = first(&MEMBERS[..2], 0, |member| script.ask(member)).await.expect_err("both refuse").to_string();
        assert_eq!(error, "b refuses: it is full");
        let script = Script::new(|member| if member == "a" { None } else { Some(Err(())) });
        let error = first(&MEMBERS[..3], 1, |member| script.ask(member)).await.expect_err("one is frozen").to_string();
        assert_eq!(error, "c refuses: it is full", "what it says tells more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_of_which_nobody_answers_is_given_up_when_all_have_had_their_time() {
        let script = Script::new(|_| None);
        let error = first(&MEMBERS, 2, |member| script.ask(member)).await.expect_err("all are frozen");
        assert!(error.to_string().contains("it is frozen"), "{error}");
        assert_eq!(script.began.elapsed(), WITHIN + 2 * SILENT_AFTER);
        let nobody = first(&[], 0, |member| script.ask(member)).await.expect_err("nobody is asked");
        assert!(matches!(nobody, CliError::Pbft(PbftError::NoMember(_))), "{nobody}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_more_members_say_than_may_lie_is_not_believed() {
        let within = [WITHIN; 2];
        let script = Script::new(|member| (member < "d").then_some(Ok(())));
        enough(&MEMBERS, 2, within, |member, _| script.ask(member)).await.expect("three say so");
        assert_eq!(script.asked(), at(&[("a", 0), ("b", 0), ("c", 0)]));
        let script = Script::new(|member| (member < "c").then_some(Ok(())));
        let error = enough(&MEMBERS, 2, within, |member, _| script.ask(member)).await.expect_err("two may lie");
        assert!(matches!(error, CliError::Pbft(PbftError::TooFew { said: 2, need: 3 })), "{error}");
        let script = Script::new(|member| Some(if member > "e" { Ok(()) } else { Err(()) }));
        let error = enough(&MEMBERS, 2, within, |member, _| script.ask(member)).await.expect_err("the others refuse");
        assert!(matches!(error, CliError::Pbft(PbftError::TooFew { said: 2, need: 3 })), "{error}");
        let script = Script::new(|_| Some(Ok(())));
        enough(&MEMBERS[..1], 0, within, |member, _| script.ask(member)).await.expect("nobody lies");
    }

    #[tokio::test(start_paused = true)]
    async fn what_all_say_comes_soon_after_enough_have_said_it() {
        let script = Script::new(|member| if member == "b" { None } else { Some(Ok(())) });
        for enough in [0, 3, 6] {
            let began = Instant::now();
            let said = all(&MEMBERS, enough, |member| script.ask(member)).await.expect("the fleet passes it on");
            assert_eq!((began.elapsed(), said.len()), (SILENT_AFTER, 7), "{enough}");
            let silent: Vec<&str> = said.iter().filter(|(_, answer)| answer.is_err()).map(|(name, _)| *name).collect();
            assert_eq!(silent, ["b"]);
        }
        let began = Instant::now();
        let said = all(&MEMBERS, 7, |member| script.ask(member)).await.expect("the fleet passes it on");
        assert_eq!((began.elapsed(), said[1].1.is_err()), (WITHIN, true), "all are waited for");
    }
}
