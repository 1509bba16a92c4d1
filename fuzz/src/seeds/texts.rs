//! Documents and other texts.

use super::Seed;

/// The example of a fleet, and the classic one.
const MANIFESTS: [(&str, &str); 2] = [
    ("example", include_str!("../../../examples/robeingcluster.yaml")),
    ("classic", include_str!("../../../examples/classic/robeingcluster.yaml")),
];

fn of(target: &'static str, texts: &[(&str, &str)]) -> Vec<Seed> {
    texts.iter().map(|(name, text)| Seed::new(target, *name, *text)).collect()
}

pub(super) fn seeds() -> Vec<Seed> {
    [documents(), addresses(), timetables()].concat()
}

fn documents() -> Vec<Seed> {
    let (redacts, broken) = (
        r#"{"name":"a","events":["Submission","Message"],"match":"size > 1","rule":"json.a == 1","action":"redact","fields":["/a"],"message":"m"}"#,
        r#"{"name":"b","events":["Result"],"rule":"object.kind == ","action":"deny","failurePolicy":"Open"}"#,
    );
    let allows = r#"{"name":"c","events":["Submission"],"rule":"'admin' in request.rights","action":"allow"}"#;
    let approval =
        r#"{"name":"d","events":["Message"],"rule":"true","action":"requireApproval","messageExpression":"'no'"}"#;
    let stored = |name: &str, parts: &[&str]| Seed::new("stored_policies", name, parts.join("\0"));
    let mut seeds = of("manifest", &MANIFESTS);
    seeds.extend([
        stored("redacts", &[redacts, r#"{"a":1}"#]),
        stored("several", &[allows, redacts, approval, r#"{"a":1}"#]),
        stored("broken", &[redacts, broken, "{}", "not json", "payload"]),
    ]);
    seeds.extend(of("rights", &[
        ("full", "clients:\n- name: ann\n  rights: [submit, vote]\n- {name: root, rights: [admin]}\n- {name: \"*\", rights: [message]}\n- {name: anonymous, rights: [read]}\n"),
        ("json", r#"{"clients":[{"name":"ann","rights":["read"]}]}"#),
        ("anonymous-admin", "clients: [{name: anonymous, rights: [admin]}]"),
        ("alias", "clients: &all [{name: ann, rights: &r [read]}, {name: bob, rights: *r}]"),
        ("twice", "clients: [{name: ann, rights: []}, {name: ann, rights: []}]"),
        ("nested", "clients: [[[[[[[[[[[[[[[[[[[["),
    ]));
    seeds.extend(of("kubernetes_answer", &[
        ("reviewed", r#"{"status":{"authenticated":true,"audiences":["robeing"],"user":{"username":"system:serviceaccount:default:s","uid":"1","groups":["g"],"extra":{"authentication.kubernetes.io/pod-name":["p"]}}}}"#),
        ("other-audience", r#"{"status":{"authenticated":true,"audiences":["x"],"user":{"username":"ann"}}}"#),
        ("unknown", r#"{"status":{"error":"é no such token"}}"#),
        ("allowed", r#"{"status":{"allowed":true}}"#),
        ("denied", r#"{"status":{"allowed":true,"denied":true,"reason":"webhook"}}"#),
        ("failed", r#"{"kind":"Status","status":"Failure"}"#),
    ]));
    seeds
}

fn addresses() -> Vec<Seed> {
    let mut seeds = of(
        "message_address",
        &[
            ("name", "w-0"),
            ("agent", "agent:w-0"),
            ("role", "role:Worker"),
            ("coordinator", "role:coordinator"),
            ("pool", "pool:data"),
            ("skill", "skill:ocr"),
            ("team", "team:7"),
            ("everyone", "everyone"),
            ("no-role", "role:boss"),
            ("kind", "kind:x"),
            ("spaces", "agent:a b"),
            ("colons", "agent::a"),
            ("wide", "pool:é"),
        ],
    );
    seeds.extend(of(
        "retry_after",
        &[
            ("seconds", "120"),
            ("huge", "99999999999999999999999"),
            ("date", "Wed, 21 Oct 2026 07:28:30 GMT"),
            ("dates", "Wed, 21 Oct 2015 07:28:30 GMT\nWed, 21 Oct 2015 07:28:20 GMT"),
            ("asctime", "Sun Nov  6 08:49:37 1994\nSunday, 06-Nov-94 08:49:37 GMT"),
            ("negative", "-1"),
        ],
    ));
    seeds.extend(of(
        "target_url",
        &[
            ("plain", "http://example.com/path?q=1#f"),
            ("credentials", "https://us%65r:p%40ss@example.com:8443/a b"),
            ("secret", "https://user:secret@example.com/hook?token=x"),
            ("ipv6", "http://[::1]:80/"),
            ("idna", "https://bücher.example/ü"),
            ("no-host", "http:///x"),
            ("backslash", "http:\\\\a"),
            ("port", "http://a:99999/"),
            ("at", "http://a/b@c?d@e"),
            ("number", "http://0x7f.1/"),
            ("token", "https://token@h"),
        ],
    ));
    seeds.extend(of("webhooks", &[
        ("full", r#"[{"name":"w-0","url":"http://h/","secret":{"env":"SECRET"},"kinds":["k"],"states":["failed"]}]"#),
        ("several", r#"[{"name":"a","url":"http://u:p@h/","secret":{"env":"SECRET"}},{"name":"b","url":"http://h/?t=1","secret":{"env":"SECRET"}}]"#),
        ("twice", r#"[{"name":"a","url":"http://h/","secret":{"env":"SECRET"}},{"name":"a","url":"http://h/","secret":{"env":"SECRET"}}]"#),
        ("https", r#"[{"name":"a","url":"https://h/","secret":{"env":"SECRET"}}]"#),
        ("file", r#"[{"name":"a","url":"http://h/","secret":{"file":"/none"}}]"#),
        ("state", r#"[{"name":"a","url":"http://h/","secret":{"env":"SECRET"},"states":["queued"]}]"#),
    ]));
    seeds
}

fn timetables() -> Vec<Seed> {
    of(
        "timetable",
        &[
            ("berlin", "30 2 * * *\nEurope/Berlin\n1774659600000"),
            ("often", "*/5 8-18 * * mon-fri\n\n1700000000000"),
            ("macro", "@monthly\nEtc/UTC\n0"),
            ("either-day", "0 0 13 * 5\nAmerica/New_York\n1700000000000"),
            ("leap", "0 0 29 2 ?\nUTC\n4107542400000"),
            ("hourly", "15 * * * *\nAustralia/Lord_Howe\n1774659600000"),
            ("last", "59 23 31 12 7\nPacific/Apia\n253402300799999"),
            ("never", "0 0 31 2,4 *\nUTC\n0"),
            ("zone", "@daily\nEurope/Paderborn\n0"),
            ("names", "0 0 1-7/2,15 jan,JUL-dec sun-sat\nAsia/Kathmandu\n1"),
            ("steps", "*/99 */0 * * *\nUTC\n0"),
        ],
    )
}
