//! Parses the `Retry-After` header (RFC 9110, section 10.2.3).

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{DATE, HeaderName, RETRY_AFTER},
};

/// Returns the delay, counted from the answer. A date is relative to the server's `Date` header, or to `now` without
/// one.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(RETRY_AFTER)?;
    if !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large to parse is a very long time.
        return Some(Duration::from_secs(wanted.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(wanted).ok()?;
    let now = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        let asked = |retry_after: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, retry_after.parse().expect("a header"));
            if let Some(date) = date {
                headers.insert(DATE, date.parse().expect("a header"));
            }
            super::retry_after(&headers, now).map(|after| after.as_secs())
        };
        assert_eq!(asked("120", None), Some(120));
        assert_eq!(asked(" 0 ", None), Some(0));
        assert_eq!(asked("99999999999999999999999", None), Some(u64::MAX));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:30 GMT", None), Some(30));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:30 GMT", Some("Wed, 21 Oct 2015 07:28:20 GMT")), Some(10));
        assert_eq!(asked("Wed, 21 Oct 2015 07:00:00 GMT", None), Some(0), "it is past");
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(asked(nonsense, None), None, "{nonsense:?}");
        }
        assert_eq!(super::retry_after(&HeaderMap::new(), now), None);
    }
}
