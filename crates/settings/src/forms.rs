//! Parses values: addresses, durations, numbers, names, lists.

use std::{net::IpAddr, time::Duration};

use serde::de::DeserializeOwned;

use super::{
    ConfigError, Enrolment, ExecutorSpec, LogFormat, MessagesSpec, OnAnomaly, ProcessRole, TlsMode, Weights,
    definition::{Number, Span},
    settings::{LOAD_TERM, MAX_DURATION, MAX_NAME_BYTES, MAX_SPECIALIZATIONS, PERFORMANCE_TERM, SPECIALIZATION_TERM},
    sources::{Sources, Value},
};

/// The port of an address that has none.
pub const DEFAULT_PORT: u16 = 8080;
/// The shortest interval or timeout that can be set.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The maximum number of coordinators in a list.
pub const MAX_COORDINATORS: usize = 64;

pub(super) fn role(value: &Value) -> Result<ProcessRole, ConfigError> {
    let text = value.text.trim();
    let role = ProcessRole::ALL.into_iter().find(|role| text.eq_ignore_ascii_case(role.as_flag()));
    role.ok_or_else(|| value.wrong("coordinator, worker, specialist, messenger or guardian"))
}

pub(super) fn log_format(value: &Value) -> Result<LogFormat, ConfigError> {
    let text = value.text.trim();
    let format = LogFormat::ALL.into_iter().find(|format| text.eq_ignore_ascii_case(format.as_str()));
    format.ok_or_else(|| value.wrong("text or json"))
}

pub(super) fn on_anomaly(value: &Value) -> Result<OnAnomaly, ConfigError> {
    let text = value.text.trim();
    let action = OnAnomaly::ALL.into_iter().find(|action| text.eq_ignore_ascii_case(action.as_str()));
    action.ok_or_else(|| value.wrong("report, quarantine or quarantine-all"))
}

pub(super) fn tls(value: &Value) -> Result<TlsMode, ConfigError> {
    let text = value.text.trim();
    let mode = TlsMode::ALL.into_iter().find(|mode| text.eq_ignore_ascii_case(mode.as_str()));
    mode.ok_or_else(|| value.wrong("strict, permissive or off"))
}

pub(super) fn enrolment(value: &Value) -> Result<Enrolment, ConfigError> {
    let text = value.text.trim();
    let mode = Enrolment::ALL.into_iter().find(|mode| text.eq_ignore_ascii_case(mode.as_str()));
    mode.ok_or_else(|| value.wrong("proof or open"))
}

/// Parses a trust domain of SPIFFE ids, which has no capital letters.
pub(super) fn trust_domain(value: &Value) -> Result<String, ConfigError> {
    let domain = name(value)?;
    match domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Err(value.wrong("a name without capital letters, such as robeing.local")),
        false => Ok(domain),
    }
}

pub(super) fn name(value: &Value) -> Result<String, ConfigError> {
    let text = value.text.trim();
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len());
    if fits && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Ok(text.to_owned());
    }
    Err(value.wrong(&format!("1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'")))
}

/// Parses `host:port`.
pub(super) fn address(value: &Value) -> Result<String, ConfigError> {
    parse_address(value.text.trim()).ok_or_else(|| value.wrong("host:port, such as 127.0.0.1:8080"))
}

/// Parses `host:port` of the loopback interface. Only that is allowed, because any process that can connect gets tasks.
pub(super) fn local_address(value: &Value) -> Result<String, ConfigError> {
    let text = value.text.trim();
    match local_port(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(value.wrong("host:port of this machine alone, such as 127.0.0.1:8081")),
    }
}

/// Parses the URL of an object store. What it names is checked by the agent, which opens it.
pub(super) fn object_store(value: &Value) -> Result<String, ConfigError> {
    let text = value.text.trim();
    match ["s3://", "gs://", "file:///"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme)) {
        true => Ok(text.to_owned()),
        false => Err(value.wrong("s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///DIRECTORY")),
    }
}

/// Returns the port of a `host:port` of the loopback interface, as agents accept it for
/// [`WORKER_LISTEN`](super::settings::WORKER_LISTEN). `None` if the text is not such an address.
pub fn local_port(text: &str) -> Option<u16> {
    let address = parse_address(text.trim())?;
    let (host, port) = address.rsplit_once(':')?;
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_local = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    port.parse().ok().filter(|_| is_local)
}

fn parse_address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plausible = !host.is_empty() && host.len() <= MAX_NAME_BYTES && !host.contains(['/', '@', ' ', '=']);
    let whole = bracketed || !host.contains(':');
    (plausible && whole && port.parse::<u16>().is_ok()).then(|| text.to_owned())
}

/// Parses addresses of coordinators: `host:port`, `host`, or a URL of these.
pub(super) fn coordinators(value: &Value) -> Result<Vec<String>, ConfigError> {
    let mut addresses = Vec::new();
    for part in value.list() {
        // The scheme makes no difference: --tls decides whether TLS is spoken.
        let plain = part.strip_prefix("http://").or_else(|| part.strip_prefix("https://")).unwrap_or(part);
        let plain = plain.trim_end_matches('/');
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

/// Parses `name=host:port,…` with each name and address once.
pub(super) fn members(value: &Value) -> Result<Vec<(String, String)>, ConfigError> {
    let expected = "NAME=HOST:PORT of each coordinator, separated by commas";
    let mut members: Vec<(String, String)> = Vec::new();
    for part in value.list() {
        let (member, at) = part.split_once('=').ok_or_else(|| value.wrong(expected))?;
        let member = name(&Value { text: member.to_owned(), from: value.from.clone() })?;
        let at = parse_address(at.trim()).filter(|at| !at.ends_with(":0")).ok_or_else(|| value.wrong(expected))?;
        if members.iter().any(|(other, other_at)| *other == member || *other_at == at) {
            return Err(value.wrong(&format!("each coordinator once; {member} or its address is listed twice")));
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

/// Reads a whole number within its bounds, or `None` if it is not set.
pub(super) fn number<T>(sources: &Sources<'_>, defined: &Number<T>) -> Result<Option<T>, ConfigError>
where
    T: Copy + PartialOrd + std::str::FromStr + std::fmt::Display,
{
    let Some(value) = sources.get(&defined.setting) else { return Ok(None) };
    let (least, most) = (defined.least, defined.most);
    match value.text.trim().parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(Some(number)),
        _ => Err(value.wrong(&format!("a whole number from {least} to {most}"))),
    }
}

/// Reads a duration within its bounds, or `None` if it is not set.
pub(super) fn span(sources: &Sources<'_>, defined: &Span) -> Result<Option<Duration>, ConfigError> {
    let value = sources.get(&defined.setting);
    value.map(|value| duration(&value, &value.text, defined.least, defined.most)).transpose()
}

fn duration(value: &Value, text: &str, least: Duration, most: Duration) -> Result<Duration, ConfigError> {
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if duration >= least && duration <= most => Ok(duration),
        _ => {
            let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
            Err(value.wrong(&format!("a duration such as 500ms or 2s, from {least} to {most}")))
        }
    }
}

/// Parses `min..max`, with `min` less than `max`.
pub(super) fn duration_range(value: &Value) -> Result<(Duration, Duration), ConfigError> {
    let form = || value.wrong("two durations, the shorter first, such as 150ms..300ms");
    let (min, max) = value.text.split_once("..").ok_or_else(form)?;
    let min = duration(value, min, MIN_INTERVAL, MAX_DURATION)?;
    let max = duration(value, max, MIN_INTERVAL, MAX_DURATION)?;
    if min < max { Ok((min, max)) } else { Err(form()) }
}

/// Parses `term=points,…`; terms that are not named keep their default.
pub(super) fn weights(value: &Value) -> Result<Weights, ConfigError> {
    let expected = || {
        let terms = [SPECIALIZATION_TERM, LOAD_TERM, PERFORMANCE_TERM];
        let forms = terms.map(|term| format!("{}=N from {} to {}", term.name, term.least, term.most));
        value.wrong(&format!("terms with their points, separated by commas: {}", forms.join(", ")))
    };
    let mut weights = Weights::default();
    for part in value.list() {
        let (name, points) = part.split_once('=').ok_or_else(expected)?;
        let (term, place) = match name.trim() {
            name if name == SPECIALIZATION_TERM.name => (SPECIALIZATION_TERM, &mut weights.specialization),
            name if name == LOAD_TERM.name => (LOAD_TERM, &mut weights.load),
            name if name == PERFORMANCE_TERM.name => (PERFORMANCE_TERM, &mut weights.performance),
            _ => return Err(expected()),
        };
        let points = points.trim().parse().ok().filter(|points| term.takes(*points));
        *place = points.ok_or_else(expected)?;
    }
    Ok(weights)
}

/// Parses an executor in the form of a manifest.
pub(super) fn executor(value: &Value) -> Result<ExecutorSpec, ConfigError> {
    let form = r#"JSON such as {"command":{"argv":["wc","-w"]}}, {"http":{"url":"http://127.0.0.1:9000/"}}, {"worker":{}} or {"echo":{}}"#;
    one_of(value, form, "executor")
}

/// Parses what is done with messages, in the form of a manifest.
pub(super) fn messages(value: &Value) -> Result<MessagesSpec, ConfigError> {
    let form = r#"JSON such as {"inbox":{}}, {"command":{"argv":["handle"]}}, {"http":{"url":"http://127.0.0.1:9000/"}} or {"worker":{}}"#;
    one_of(value, form, "handler of messages")
}

/// Parses a JSON object with exactly one field.
fn one_of<T: DeserializeOwned>(value: &Value, form: &str, what: &str) -> Result<T, ConfigError> {
    let wrong = |problem: &dyn std::fmt::Display| {
        if !value.text.contains("http") {
            return value.wrong(&format!("{form} ({problem})"));
        }
        // The text may contain credentials, which the parser would repeat in quotes.
        let problem = problem.to_string();
        let problem = problem.split('"').next().unwrap_or_default();
        let hidden = "not repeated here, since it may hold credentials";
        ConfigError::Wrong(format!("{} is {hidden}: give {form} ({})", value.from, problem.trim()))
    };
    let parsed: serde_json::Value = serde_json::from_str(&value.text).map_err(|e| wrong(&e))?;
    match parsed.as_object() {
        Some(kinds) if kinds.len() == 1 => {}
        _ => return Err(wrong(&format!("exactly one {what} is needed"))),
    }
    serde_json::from_value(parsed).map_err(|e| wrong(&e))
}
