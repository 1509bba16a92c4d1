//! Four agents that decide, over messages in memory and on real disks.

mod ballots;
mod epochs;
mod messages;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use robeing_bft::{crypto::Signer, wire::Wire};
use robeing_groups::{
    GroupFile, LogFile, Own, Proposal, Signed,
    exchange::{self, Ask, Decided, Enrolled, Page, Shown, Status},
};
use robeing_identity::{PeerRole, TrustBundle};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::{
    fixture::{Fleet, GROUP, NOW, Somebody, identity, names, realm, signer},
    papers::Papers,
    *,
};
use crate::messaging::tests::fixture::packet;

struct TestPapers {
    me: Somebody,
    bundle: TrustBundle,
    since: Instant,
}

impl Papers for TestPapers {
    fn own(&self) -> Option<Own<'_>> {
        Some(self.me.own())
    }

    fn fleet(&self) -> Option<String> {
        Some(realm().to_string())
    }

    fn bundle(&self) -> Option<&TrustBundle> {
        Some(&self.bundle)
    }

    fn now(&self) -> u64 {
        NOW + u64::try_from(self.since.elapsed().as_millis()).expect("a test is short")
    }
}

fn papers(fleet: &Fleet, name: &str, since: Instant) -> TestPapers {
    TestPapers { me: fleet.certify(PeerRole::Worker, name), bundle: fleet.bundle(), since }
}

struct Source(Option<Arc<TestPapers>>);

#[async_trait]
impl PaperSource for Source {
    async fn papers(&self) -> Option<Arc<dyn Papers>> {
        self.0.clone().map(|papers| papers as Arc<dyn Papers>)
    }
}

/// Who runs.
type Net = Arc<Mutex<BTreeMap<String, Groups>>>;

/// Sends from one agent to those that run.
struct InMemory {
    from: String,
    net: Net,
}

impl InMemory {
    fn other(&self, to: &str) -> Option<Groups> {
        self.net.lock().expect("no test panics").get(to).cloned()
    }
}

#[async_trait]
impl Post for InMemory {
    async fn send(&self, to: &str, payload: Bytes) {
        if let Some(groups) = self.other(to) {
            let packet = Packet { sender: self.from.as_str().into(), payload, ..packet(1) };
            tokio::spawn(async move { groups.receive(&packet) });
        }
    }

    async fn ask(&self, to: &str, payload: Bytes) -> Result<Bytes, String> {
        let groups = self.other(to).ok_or("it is away")?;
        groups.answer(&payload).await
    }
}

/// Four agents.
struct Stage {
    fleet: Fleet,
    net: Net,
    stops: BTreeMap<String, CancellationToken>,
    /// What decides ballots, by member.
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    since: Instant,
    dir: TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stops.values().for_each(CancellationToken::cancel);
    }
}

impl Stage {
    async fn new() -> Self {
        Self::with(BTreeMap::new()).await
    }

    async fn with(handlers: BTreeMap<String, Arc<dyn Handler>>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (net, stops, since) = (Arc::new(Mutex::new(BTreeMap::new())), BTreeMap::new(), Instant::now());
        let mut stage = Self { fleet: Fleet::new(), net, stops, handlers, since, dir };
        for name in names() {
            stage.start(&name).await;
        }
        stage
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn groups(&self, name: &str) -> Groups {
        self.net.lock().expect("no test panics").get(name).cloned().expect("it runs")
    }

    async fn start(&mut self, name: &str) {
        let papers = papers(&self.fleet, name, self.since);
        let (source, stop) = (Arc::new(Source(Some(Arc::new(papers)))), CancellationToken::new());
        let groups = Groups::new(name.into(), Some(self.data(name)), Platform::real(), source, stop.clone());
        if let Some(handler) = self.handlers.get(name) {
            groups.decide_by(Arc::clone(handler));
        }
        let post = InMemory { from: name.to_owned(), net: Arc::clone(&self.net) };
        groups.start(Arc::new(post)).await;
        self.net.lock().expect("no test panics").insert(name.to_owned(), groups);
        self.stops.insert(name.to_owned(), stop);
    }

    async fn stop(&mut self, name: &str) {
        let groups = self.net.lock().expect("no test panics").remove(name).expect("it runs");
        self.stops.remove(name).expect("it runs").cancel();
        groups.stopped().await;
    }

    async fn ask(&self, name: &str, ask: &Ask) -> Result<Bytes, String> {
        let answer = self.groups(name).answer(&ask.to_bytes()).await;
        answer.inspect(|bytes| assert!(!bytes.is_empty()))
    }

    async fn enrolled(&self) -> GroupFile {
        let mut enrolments = Vec::new();
        for name in names() {
            let ask = Ask::Enrol { group: GROUP.into(), members: names() };
            let answer = self.ask(&name, &ask).await.expect("it enrols");
            enrolments.push(exchange::read::<Enrolled>("answer", &answer).expect("an enrolment").enrolment);
        }
        GroupFile::of(enrolments).expect("a group")
    }

    async fn formed(&self) -> Group {
        let file = self.enrolled().await;
        for name in names() {
            self.ask(&name, &Ask::Form { file: file.clone() }).await.expect("it becomes a member");
        }
        file.verify().expect("a group")
    }

    fn proposal(&self, group: &Group, id: u8, text: &str) -> Signed {
        let text = Bytes::copy_from_slice(text.as_bytes());
        let proposal = Proposal { group: *group.epoch().domain(), id: [id; 16], at_ms: NOW, text };
        proposal.sign(&self.fleet.certify(PeerRole::Client, "ada").own()).expect("a proposal")
    }

    async fn propose(&self, name: &str, group: &Group, id: u8, text: &str) -> u64 {
        self.propose_signed(name, self.proposal(group, id, text)).await
    }

    async fn propose_signed(&self, name: &str, proposal: Signed) -> u64 {
        let ask = Ask::Propose { group: GROUP.into(), proposal };
        let answer = timeout(Duration::from_secs(60), self.ask(name, &ask)).await.expect("it is decided in time");
        exchange::read::<Decided>("answer", &answer.expect("it is decided")).expect("a number").decision
    }

    async fn status(&self, name: &str) -> Status {
        let answer = self.ask(name, &Ask::Show { group: GROUP.into() }).await.expect("it answers");
        exchange::read::<Shown>("answer", &answer).expect("a status").status
    }

    async fn page(&self, name: &str) -> Page {
        let ask = Ask::Log { group: GROUP.into(), from: 1, limit: 256 };
        exchange::read("answer", &self.ask(name, &ask).await.expect("it answers")).expect("a page")
    }

    /// Waits until all members that run have the same decisions, at least so many, and returns their texts.
    async fn agreed(&self, group: &Group, least: usize) -> Vec<String> {
        let running: Vec<String> = self.stops.keys().cloned().collect();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let mut texts = Vec::new();
            for name in &running {
                texts.push(self.texts(group, self.page(name).await));
            }
            if texts[0].len() >= least && texts.iter().all(|one| *one == texts[0]) {
                return texts.remove(0);
            }
            assert!(Instant::now() < until, "they do not agree: {texts:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Verifies decisions as anyone who has nothing but the file, and returns what was decided.
    fn texts(&self, group: &Group, page: Page) -> Vec<String> {
        let file = LogFile::of(group, page.decisions);
        let read = LogFile::from_json(file.to_json().as_bytes()).expect("a file");
        let report = read.verify(Some(&self.fleet.bundle())).expect("everything is proved");
        let entries = report.decisions.into_iter().flat_map(|decision| {
            assert_eq!(decision.signers.len(), 3);
            decision.entries
        });
        let text = |entry: robeing_groups::CheckedEntry| {
            assert_eq!((entry.author, entry.is_trusted), (Ok("client:ada".to_owned()), Some(true)));
            let proposal = entry.proposal.expect("a proposal");
            (!entry.is_repeated).then(|| String::from_utf8_lossy(&proposal.text).into_owned())
        };
        entries.filter_map(text).collect()
    }
}

#[tokio::test]
async fn members_decide_while_each_of_them_stops_in_turn_and_all_logs_agree() {
    let mut stage = Stage::new().await;
    let group = stage.formed().await;
    let first = stage.proposal(&group, 1, "1");
    assert_eq!(stage.propose_signed("a", first.clone()).await, 1);
    for (id, name) in (2..).zip(names().into_iter().skip(1)) {
        stage.propose(&name, &group, id, &format!("{id}")).await;
    }
    // The same proposal is decided once.
    assert_eq!(stage.propose_signed("b", first).await, 1);
    assert_eq!(stage.agreed(&group, 4).await.len(), 4);
    for (round, name) in (10..).zip(names()) {
        stage.stop(&name).await;
        let other = if name == "a" { "b" } else { "a" };
        stage.propose(other, &group, round, &format!("without {name}")).await;
        stage.start(&name).await;
    }
    let texts = stage.agreed(&group, 8).await;
    assert_eq!(texts.len(), 8, "{texts:?}");
    assert!(stage.status("d").await.problem.is_empty());
}

#[tokio::test]
async fn a_member_that_was_away_for_long_gets_the_decisions_that_it_missed() {
    let mut stage = Stage::new().await;
    let group = stage.formed().await;
    stage.stop("d").await;
    // Past two checkpoints, so that the others have dropped what they had kept for it.
    for id in 0..140 {
        stage.propose("a", &group, id, &format!("{id}")).await;
    }
    stage.start("d").await;
    assert_eq!(stage.agreed(&group, 140).await.len(), 140);
}

#[tokio::test]
async fn a_member_whose_disk_was_wiped_does_not_come_back() {
    let mut stage = Stage::new().await;
    let group = stage.formed().await;
    stage.propose("a", &group, 1, "one").await;
    stage.stop("d").await;
    fs::remove_dir_all(stage.data("d")).expect("it is the test's");
    stage.start("d").await;
    let shown = stage.ask("d", &Ask::Show { group: GROUP.into() }).await;
    assert_eq!(shown.expect_err("it is no member"), "this agent is no member of a group \"council\"");
    let form = Ask::Form { file: group.file().clone() };
    let refused = stage.ask("d", &form).await.expect_err("it is refused");
    assert!(refused.contains("does not come back under its old identity"), "{refused}");
    // Nor with a new key.
    stage.ask("d", &Ask::Enrol { group: GROUP.into(), members: names() }).await.expect("it may enrol again");
    let refused = stage.ask("d", &form).await.expect_err("it is refused");
    assert!(refused.contains("another key of this agent"), "{refused}");
    stage.propose("b", &group, 2, "two").await;
}

#[tokio::test]
async fn a_member_that_lost_a_part_of_its_disk_says_so_and_takes_no_part() {
    let mut stage = Stage::new().await;
    let group = stage.formed().await;
    stage.propose("a", &group, 1, "one").await;
    stage.stop("d").await;
    let records = stage.data("d").join("groups").join(GROUP).join("records");
    fs::remove_file(&records).expect("it is there");
    stage.start("d").await;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let status = stage.status("d").await;
        if status.problem.contains("does not come back under its old identity") {
            break;
        }
        assert!(Instant::now() < until, "{status:?}");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!Path::new(&records).exists(), "it is not made again");
    stage.propose("a", &group, 2, "two").await;
}

#[tokio::test]
async fn a_member_that_can_not_use_its_disk_for_now_says_so_and_comes_back() {
    let mut stage = Stage::new().await;
    let group = stage.formed().await;
    stage.stop("d").await;
    let folder = Folder::new(&Platform::real(), &stage.data("d").join("groups"), GROUP);
    let locked = folder.open().await.expect("it is free");
    stage.start("d").await;
    let shown = timeout(Duration::from_secs(4), stage.status("d")).await.expect("it answers");
    assert!(shown.problem.contains("another process uses"), "{shown:?}");
    for ask in [
        Ask::Propose { group: GROUP.into(), proposal: stage.proposal(&group, 1, "one") },
        Ask::Log { group: GROUP.into(), from: 1, limit: 1 },
    ] {
        let refused = timeout(Duration::from_secs(10), stage.ask("d", &ask)).await.expect("it answers");
        let refused = refused.expect_err("it can't take part");
        assert!(refused.contains("another process uses"), "{refused}");
    }
    // Other groups can be enrolled for meanwhile.
    stage.ask("d", &Ask::Form { file: group.file().clone() }).await.expect("it says the problem");
    stage.ask("d", &Ask::Enrol { group: "other".into(), members: names() }).await.expect("it enrols");
    drop(locked);
    assert_eq!(stage.propose("a", &group, 2, "two").await, 1, "what nobody waited for is not proposed");
    let until = Instant::now() + Duration::from_secs(60);
    while !stage.status("d").await.problem.is_empty() {
        assert!(Instant::now() < until, "it does not come back");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_agent_does_not_use_the_disk_of_another_member() {
    let mut stage = Stage::new().await;
    let group = Arc::new(stage.formed().await);
    stage.stop("a").await;
    let folder = Folder::new(&Platform::real(), &stage.data("a").join("groups"), GROUP);
    let post: Arc<dyn Post> = Arc::new(InMemory { from: "b".to_owned(), net: Arc::clone(&stage.net) });
    let refused = Host::start(&folder, &group, "b", &post).await.err().expect("it is refused");
    assert!(matches!(&refused, HostError::Name { found, .. } if found == "a"), "{refused}");
    assert!(Host::start(&folder, &group, "a", &post).await.is_ok());
}

#[tokio::test]
async fn a_member_whose_description_was_damaged_says_so() {
    let mut stage = Stage::new().await;
    stage.formed().await;
    stage.stop("d").await;
    let description = stage.data("d").join("groups").join(GROUP).join("group.json");
    fs::write(&description, "{}").expect("it is the test's");
    stage.start("d").await;
    let refused = stage.ask("d", &Ask::Show { group: GROUP.into() }).await.expect_err("it takes no part");
    assert!(refused.contains("group.json can't be used"), "{refused}");
}

#[tokio::test]
async fn whoever_passes_enrolments_on_cannot_substitute_a_key() {
    let stage = Stage::new().await;
    let file = stage.enrolled().await;
    // A key that member b did not make, with the certificate of another authority of the same name.
    let mut forged = file.clone();
    forged.members[1] = Fleet::new().enrolment("b", &identity(9));
    let refused = stage.ask("a", &Ask::Form { file: forged.clone() }).await.expect_err("it is refused");
    assert!(refused.contains("authority that is not trusted"), "{refused}");
    let refused = stage.ask("b", &Ask::Form { file: forged }).await.expect_err("it is refused");
    assert!(refused.contains("another key of this agent"), "{refused}");
    // A statement that was changed.
    let mut forged = file.clone();
    let mut statement = forged.members[1].statement.0.to_vec();
    let key = signer(&identity(9)).public_key().encoded();
    let at = statement.len() - 8 - key.len();
    statement[at..at + key.len()].copy_from_slice(&key);
    forged.members[1].statement = robeing_votes::Base64(statement.into());
    let refused = stage.ask("a", &Ask::Form { file: forged }).await.expect_err("it is refused");
    assert!(refused.contains("is not proved"), "{refused}");
    assert!(stage.ask("a", &Ask::Form { file }).await.is_ok(), "the right one");
}

#[tokio::test]
async fn what_nobody_has_signed_is_not_proposed() {
    let stage = Stage::new().await;
    let group = stage.formed().await;
    let refused = async |proposal: Signed| {
        let ask = Ask::Propose { group: GROUP.into(), proposal };
        stage.ask("a", &ask).await.expect_err("it is refused")
    };
    let mut changed = stage.proposal(&group, 1, "deploy");
    let last = changed.statement.0.len() - 1;
    let mut statement = changed.statement.0.to_vec();
    statement[last] ^= 1;
    changed.statement = robeing_votes::Base64(statement.into());
    assert!(refused(changed).await.contains("is not proved"));
    let text = Bytes::from_static(b"old");
    let old = Proposal { group: *group.epoch().domain(), id: [2; 16], at_ms: NOW - 700_000, text };
    let old = old.sign(&stage.fleet.certify(PeerRole::Client, "ada").own()).expect("it is signed");
    let why = refused(old).await;
    assert!(why.contains("signed at another time") || why.contains("valid from"), "{why}");
    let stranger = Fleet::new().certify(PeerRole::Client, "ada");
    let text = Bytes::from_static(b"mine");
    let foreign = Proposal { group: *group.epoch().domain(), id: [3; 16], at_ms: NOW, text };
    let foreign = foreign.sign(&stranger.own()).expect("it is signed");
    assert!(refused(foreign).await.contains("authority that is not trusted"));
}

#[tokio::test]
async fn who_has_no_data_folder_or_no_certificate_is_no_member() {
    let fleet = Fleet::new();
    let ask = Ask::Enrol { group: GROUP.into(), members: names() };
    let papers = || papers(&fleet, "a", Instant::now());
    let dir = tempfile::tempdir().expect("a folder");
    let of = |me: &str, data: Option<PathBuf>, papers: Option<TestPapers>| {
        let source = Arc::new(Source(papers.map(Arc::new)));
        Groups::new(me.into(), data, Platform::real(), source, CancellationToken::new())
    };
    let data = || Some(dir.path().to_owned());
    for (groups, words) in [
        (of("a", None, Some(papers())), "start it with --data"),
        (of("a", data(), None), "run the fleet with TLS"),
        (of("e", data(), Some(papers())), "is not among the members"),
    ] {
        let refused = groups.answer(&ask.to_bytes()).await.expect_err(words);
        assert!(refused.contains(words), "{refused}");
    }
    let groups = of("a", data(), Some(papers()));
    for (name, members, words) in
        [("../etc", names(), "is no name of a group"), (GROUP, names()[..3].to_vec(), "4 to 16 different members")]
    {
        let ask = Ask::Enrol { group: name.into(), members };
        let refused = groups.answer(&ask.to_bytes()).await.expect_err(words);
        assert!(refused.contains(words), "{refused}");
    }
    for number in 0..limits::MAX_GROUPS {
        let ask = Ask::Enrol { group: format!("g-{number}"), members: names() };
        groups.answer(&ask.to_bytes()).await.expect("there is room");
    }
    let refused = groups.answer(&ask.to_bytes()).await.expect_err("there is no room");
    assert!(refused.contains("the most there may be"), "{refused}");
}
