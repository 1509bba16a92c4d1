//! The dependency rules ("walls"), in one place.

/// A crate, and the crates that it may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Crate {
    /// The name of the crate.
    pub name: &'static str,
    /// The folder of the crate.
    pub folder: &'static str,
    /// Crates of the project that it may use.
    pub uses: &'static [&'static str],
    /// The reason why it may use no others.
    pub why: &'static str,
}

/// Every crate that is shipped.
pub const CRATES: &[Crate] = &[
    Crate { name: "robeing-proto", folder: "proto", uses: &[], why: "the protocols depend on no implementation" },
    Crate {
        name: "robeing-crds",
        folder: "crds",
        uses: &["robeing-cron", "robeing-policy", "robeing-proto", "robeing-settings", "robeing-target"],
        why: "the schema takes the bounds of settings; a manifest is read, and put into messages, without a fleet",
    },
    Crate { name: "robeing-fleet", folder: "fleet", uses: &[], why: "the state machine is pure" },
    Crate {
        name: "robeing-platform",
        folder: "crates/platform",
        uses: &[],
        why: "the interface to the outside world is the same for all crates",
    },
    Crate {
        name: "robeing-policy",
        folder: "crates/policy",
        uses: &[],
        why: "policies are decided from their input alone",
    },
    Crate { name: "robeing-bft", folder: "crates/bft", uses: &[], why: "agreement is decided from its input alone" },
    Crate {
        name: "robeing-sealing",
        folder: "crates/sealing",
        uses: &["robeing-platform", "robeing-proto"],
        why: "payloads are sealed and opened without network and clock",
    },
    Crate {
        name: "robeing-votes",
        folder: "crates/votes",
        uses: &["robeing-identity"],
        why: "votes are signed and verified without network and clock",
    },
    Crate {
        name: "robeing-groups",
        folder: "crates/groups",
        uses: &["robeing-bft", "robeing-identity", "robeing-votes"],
        why: "groups and their decisions are verified without network and clock",
    },
    Crate { name: "robeing-target", folder: "crates/target", uses: &[], why: "a URL is parsed without calling it" },
    Crate {
        name: "robeing-blobs",
        folder: "crates/blobs",
        uses: &[],
        why: "an object store is reached without a fleet",
    },
    Crate {
        name: "robeing-cron",
        folder: "crates/cron",
        uses: &[],
        why: "when something is due follows from the time given",
    },
    Crate {
        name: "robeing-net",
        folder: "crates/net",
        uses: &["robeing-identity", "robeing-platform", "robeing-proto"],
        why: "connections do not depend on their use",
    },
    Crate {
        name: "robeing-identity",
        folder: "crates/identity",
        uses: &[],
        why: "certificates and tokens are made and verified without network and clock",
    },
    Crate {
        name: "robeing-settings",
        folder: "crates/settings",
        uses: &["robeing-fleet"],
        why: "settings are parsed before anything runs, within the state machine's limits",
    },
    Crate {
        name: "robeing-telemetry",
        folder: "crates/telemetry",
        uses: &["robeing-net", "robeing-platform", "robeing-settings"],
        why: "every process has the same logs and probes",
    },
    Crate {
        name: "robeing-client",
        folder: "crates/client",
        uses: &[
            "robeing-groups",
            "robeing-identity",
            "robeing-net",
            "robeing-platform",
            "robeing-proto",
            "robeing-sealing",
            "robeing-votes",
        ],
        why: "clients use only the public API",
    },
    Crate {
        name: "robeing-coordinator",
        folder: "coordinator",
        uses: &[
            "robeing-cron",
            "robeing-fleet",
            "robeing-identity",
            "robeing-net",
            "robeing-platform",
            "robeing-policy",
            "robeing-proto",
            "robeing-sealing",
            "robeing-settings",
            "robeing-telemetry",
            "robeing-votes",
        ],
        why: "coordinators and agents communicate only over the network",
    },
    Crate {
        name: "robeing-agent",
        folder: "agent",
        uses: &[
            "robeing-bft",
            "robeing-blobs",
            "robeing-coordinator",
            "robeing-fleet",
            "robeing-groups",
            "robeing-identity",
            "robeing-net",
            "robeing-platform",
            "robeing-policy",
            "robeing-proto",
            "robeing-sealing",
            "robeing-settings",
            "robeing-target",
            "robeing-telemetry",
            "robeing-votes",
        ],
        why: "the single binary contains both",
    },
    Crate {
        name: "robeing",
        folder: "cli",
        uses: &[
            "robeing-blobs",
            "robeing-client",
            "robeing-crds",
            "robeing-groups",
            "robeing-identity",
            "robeing-policy",
            "robeing-proto",
            "robeing-settings",
            "robeing-votes",
        ],
        why: "fleets are accessed only through the client, and settings are written in the form that processes read",
    },
    Crate {
        name: "robeing-operator",
        folder: "operator",
        uses: &[
            "robeing-client",
            "robeing-crds",
            "robeing-identity",
            "robeing-policy",
            "robeing-proto",
            "robeing-settings",
            "robeing-telemetry",
        ],
        why: "fleets are accessed only through the client, and settings are written in the form that processes read",
    },
];

/// Crates that may use everything: tests, and replacements of third-party crates.
pub const UNSHIPPED: &[&str] =
    &["base2histogram", "devkube", "robeing-fuzz", "robeing-sim", "robeing-tests", "robeing-walls"];

/// A crate with a fixed list of dependencies.
#[derive(Clone, Copy, Debug)]
pub struct Pure {
    /// The name of the crate.
    pub name: &'static str,
    /// All crates that it may depend on.
    pub uses: &'static [&'static str],
}

/// Crates without a runtime, network or clock, and without randomness but the keys by which `ahash` looks up.
pub const PURE: &[Pure] = &[
    Pure { name: "robeing-fleet", uses: &["ahash", "bilrost", "bytes", "crc32c", "thiserror"] },
    Pure {
        name: "robeing-policy",
        uses: &["bytes", "cel", "regex-automata", "schemars", "serde", "serde_json", "thiserror"],
    },
    Pure { name: "robeing-bft", uses: &["bytes", "ring", "thiserror"] },
    Pure { name: "robeing-cron", uses: &["jiff", "thiserror"] },
];

/// A library that only some crates may use.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// The prefix of the names of the library's crates.
    pub prefix: &'static str,
    /// The crates that may use it.
    pub users: &'static [&'static str],
}

/// Libraries that only some crates may use.
pub const LIBRARIES: &[Library] = &[
    Library { prefix: "openraft", users: &["robeing-coordinator"] },
    Library { prefix: "object_store", users: &["robeing-blobs"] },
];

/// Words that may occur only in some places of the sources.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// The words.
    pub words: &'static [&'static str],
    /// The folders in which they are searched for.
    pub folders: &'static [&'static str],
    /// Files and folders in which they may occur.
    pub allowed: &'static [&'static str],
    /// The reason.
    pub why: &'static str,
}

/// Rules within crates. Tests and comments are not checked.
pub const WORDS: &[Words] = &[
    Words {
        words: &["openraft"],
        folders: &["coordinator/src"],
        allowed: &["coordinator/src/raft"],
        why: "the consensus library is hidden behind RaftHandle",
    },
    Words {
        words: &["robeing_coordinator"],
        folders: &["agent/src"],
        allowed: &["agent/src/main.rs"],
        why: "sessions and executors know nothing of coordinators",
    },
    Words {
        words: &["Endpoint::from", "Server::builder(", "connect_lazy(", "connect_with_connector"],
        folders: &["agent/src", "cli/src", "coordinator/src", "crates", "operator/src"],
        allowed: &["crates/net/src", "crates/client/src/stub.rs"],
        why: "channels and listeners are created in one place",
    },
    Words {
        words: &["internal::v1", "robeing_proto::internal"],
        folders: &["cli/src", "crates", "crds/src", "fleet/src", "operator/src"],
        allowed: &[],
        why: "only processes of a fleet use the private protocols; all others use only the public API",
    },
    Words {
        words: &["f32", "f64"],
        folders: &["fleet/src"],
        allowed: &[],
        why: "the state machine has no floats, so that it computes the same on every machine",
    },
    Words {
        words: &["HashMap", "HashSet"],
        folders: &["fleet/src"],
        allowed: &["fleet/src/fixed_map.rs"],
        why: "everything that is iterated is in ordered maps; FixedMap is only for lookups",
    },
];
