//! The forms of values: addresses, durations, numbers, names, lists.

use std::{net::IpAddr, time::Duration};

use robeing_fleet::limits::{MAX_DURATION_MS, MAX_NAME_BYTES, MAX_SPECIALIZATIONS, MAX_WEIGHT};

use super::{
    AgentRole, ConfigError, ExecutorSpec, Weights,
    settings::{Sources, Value},
};

/// The port of everything that does not say another.
pub const DEFAULT_PORT: u16 = 8080;
/// The shortest interval or timeout that may be set.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Coordinators that may be named.
pub const MAX_COORDINATORS: usize = 64;

/// What a process is.
pub(super) enum AnyRole {
    Coordinator,
    Agent(AgentRole),
}

pub(super) fn role(value: &Value) -> Result<AnyRole, ConfigError> {
    Ok(match value.text.trim().to_ascii_lowercase().as_str() {
        "coordinator" => AnyRole::Coordinator,
        "worker" => AnyRole::Agent(AgentRole::Worker),
        "specialist" => AnyRole::Agent(AgentRole::Specialist),
        "messenger" => AnyRole::Agent(AgentRole::Messenger),
        "guardian" => AnyRole::Agent(AgentRole::Guardian),
        _ => return Err(value.wrong("coordinator, worker, specialist, messenger or guardian")),
    })
}

pub(super) fn name(value: &Value) -> Result<String, ConfigError> {
    let text = value.text.trim();
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len());
    if fits && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Ok(text.to_owned());
    }
    Err(value.wrong(&format!("1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'")))
}

/// `host:port`, as it is.
pub(super) fn address(value: &Value) -> Result<String, ConfigError> {
    parse_address(value.text.trim()).ok_or_else(|| value.wrong("host:port, such as 127.0.0.1:8080"))
}

/// `host:port` of the loopback interface: whoever can connect there gets tasks.
pub(super) fn local_address(value: &Value) -> Result<String, ConfigError> {
    let expected = || value.wrong("host:port of this machine alone, such as 127.0.0.1:8081");
    let address = parse_address(value.text.trim()).ok_or_else(expected)?;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) { Ok(address) } else { Err(expected()) }
}

fn parse_address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plausible = !host.is_empty() && host.len() <= MAX_NAME_BYTES && !host.contains(['/', '@', ' ', '=']);
    let whole = bracketed || !host.contains(':');
    (plausible && whole && port.parse::<u16>().is_ok()).then(|| text.to_owned())
}

/// Addresses of coordinators: `host:port`, `host`, or an http URL of these.
pub(super) fn coordinators(value: &Value) -> Result<Vec<String>, ConfigError> {
    let mut addresses = Vec::new();
    for part in value.list() {
        if part.starts_with("https://") {
            return Err(value.wrong("http://host:port or host:port; https is not spoken"));
        }
        let plain = part.strip_prefix("http://").unwrap_or(part).trim_end_matches('/');
        let with_port = || format!("{plain}:{DEFAULT_PORT}");
        let address = parse_address(plain).or_else(|| parse_address(&with_port()));
        let address = address.filter(|address| !address.ends_with(":0"));
        let address = address.ok_or_else(|| value.wrong("host:port of coordinators, separated by commas"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() || addresses.len() > MAX_COORDINATORS {
        return Err(value.wrong(&format!("host:port of 1 to {MAX_COORDINATORS} coordinators, separated by commas")));
    }
    Ok(addresses)
}

/// `name=host:port,…`, each name and address once.
pub(super) fn members(value: &Value) -> Result<Vec<(String, String)>, ConfigError> {
    let expected = "NAME=HOST:PORT of each coordinator, separated by commas";
    let mut members: Vec<(String, String)> = Vec::new();
    for part in value.list() {
        let (member, at) = part.split_once('=').ok_or_else(|| value.wrong(expected))?;
        let member = name(&Value { text: member.to_owned(), from: value.from.clone() })?;
        let at = parse_address(at.trim()).filter(|at| !at.ends_with(":0")).ok_or_else(|| value.wrong(expected))?;
        if members.iter().any(|(other, other_at)| *other == member || *other_at == at) {
            return Err(value.wrong(&format!("each coordinator once; {member} or its address is there twice")));
        }
        members.push((member, at));
    }
    if members.is_empty() || members.len() > MAX_COORDINATORS {
        return Err(value.wrong(expected));
    }
    Ok(members)
}

pub(super) fn specializations(value: &Value) -> Result<Vec<String>, ConfigError> {
    let mut skills: Vec<String> = Vec::new();
    for part in value.list() {
        if part.len() > MAX_NAME_BYTES || part.chars().any(char::is_control) {
            return Err(value.wrong(&format!("names of at most {MAX_NAME_BYTES} bytes, separated by commas")));
        }
        if !skills.iter().any(|skill| skill == part) {
            skills.push(part.to_owned());
        }
    }
    if skills.len() > MAX_SPECIALIZATIONS {
        return Err(value.wrong(&format!("at most {MAX_SPECIALIZATIONS} specializations")));
    }
    Ok(skills)
}

/// A whole number within bounds, or the default.
pub(super) fn number<T>(sources: &Sources<'_>, flag: &'static str, from: T, to: T, default: T) -> Result<T, ConfigError>
where
    T: Copy + PartialOrd + std::str::FromStr + std::fmt::Display,
{
    Ok(optional_number(sources, flag, from, to)?.unwrap_or(default))
}

pub(super) fn optional_number<T>(
    sources: &Sources<'_>,
    flag: &'static str,
    from: T,
    to: T,
) -> Result<Option<T>, ConfigError>
where
    T: Copy + PartialOrd + std::str::FromStr + std::fmt::Display,
{
    let Some(value) = sources.get(flag) else { return Ok(None) };
    match value.text.trim().parse::<T>() {
        Ok(number) if number >= from && number <= to => Ok(Some(number)),
        _ => Err(value.wrong(&format!("a whole number from {from} to {to}"))),
    }
}

/// A duration of at least `from`, or `None` when it is not set.
pub(super) fn duration(
    sources: &Sources<'_>,
    flag: &'static str,
    from: Duration,
) -> Result<Option<Duration>, ConfigError> {
    sources.get(flag).map(|value| parse_duration(&value, value.text.trim(), from)).transpose()
}

fn parse_duration(value: &Value, text: &str, from: Duration) -> Result<Duration, ConfigError> {
    let longest = Duration::from_millis(MAX_DURATION_MS);
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= from && duration <= longest => Ok(duration),
        _ => {
            let (from, to) = (humantime::format_duration(from), humantime::format_duration(longest));
            Err(value.wrong(&format!("a duration such as 500ms or 2s, from {from} to {to}")))
        }
    }
}

/// `min..max`, the first below the second.
pub(super) fn duration_range(value: &Value) -> Result<(Duration, Duration), ConfigError> {
    let form = || value.wrong("two durations, the shorter first, such as 150ms..300ms");
    let (min, max) = value.text.split_once("..").ok_or_else(form)?;
    let min = parse_duration(value, min.trim(), MIN_INTERVAL)?;
    let max = parse_duration(value, max.trim(), MIN_INTERVAL)?;
    if min < max { Ok((min, max)) } else { Err(form()) }
}

/// `term=points,…`; terms that are not named keep their default.
pub(super) fn weights(value: &Value) -> Result<Weights, ConfigError> {
    let expected =
        || value.wrong(&format!("specialization=N,load=N,performance=N, each from -{MAX_WEIGHT} to {MAX_WEIGHT}"));
    let mut weights = Weights::default();
    for part in value.list() {
        let (term, points) = part.split_once('=').ok_or_else(expected)?;
        let points: i32 = points.trim().parse().map_err(|_| expected())?;
        if points.abs() > MAX_WEIGHT {
            return Err(expected());
        }
        match term.trim() {
            "specialization" => weights.specialization = points,
            "load" => weights.load = points,
            "performance" => weights.performance = points,
            _ => return Err(expected()),
        }
    }
    Ok(weights)
}

/// An executor in the form of a manifest.
pub(super) fn executor(value: &Value) -> Result<ExecutorSpec, ConfigError> {
    let wrong = |problem: &dyn std::fmt::Display| {
        let form = r#"JSON such as {"command":{"argv":["wc","-w"]}}, {"http":{"url":"http://127.0.0.1:9000/"}}, {"worker":{}} or {"echo":{}}"#;
        if !value.text.contains("http") {
            return value.wrong(&format!("{form} ({problem})"));
        }
        // There may be credentials in it, which the parser would repeat in quotes.
        let problem = problem.to_string();
        let problem = problem.split('"').next().unwrap_or_default();
        let hidden = "not repeated here, since it may hold credentials";
        ConfigError::Wrong(format!("{} is {hidden}: give {form} ({})", value.from, problem.trim()))
    };
    let parsed: serde_json::Value = serde_json::from_str(&value.text).map_err(|e| wrong(&e))?;
    match parsed.as_object() {
        Some(kinds) if kinds.len() == 1 => {}
        _ => return Err(wrong(&"exactly one executor is needed")),
    }
    serde_json::from_value(parsed).map_err(|e| wrong(&e))
}
