//! Groups for tests, and random numbers.

use robeing_bft::{
    crypto::{PublicKey, Signer},
    epoch::{Epoch, EpochChange, Incarnation, Member, Membership, Parameters},
    message::Operation,
    record::Record,
    state::State,
};

use crate::{
    keys::{TestSigner, TestVerifier},
    lan::Lan,
    ledger::Ledger,
};

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A group, with the keys of all members and clients.
#[derive(Clone, Debug)]
pub struct Group {
    pub epoch: Epoch,
    pub initial: State,
    pub members: Vec<TestSigner>,
    pub clients: Vec<TestSigner>,
    pub verifier: TestVerifier,
}

pub fn incarnation(number: u64) -> Incarnation {
    Incarnation(u128::from(number).to_be_bytes())
}

pub fn member(number: u64) -> (Member, TestSigner) {
    let signer = TestSigner::new(number);
    let name = format!("agent-{number}");
    (Member { name, incarnation: incarnation(number), key: signer.public_key() }, signer)
}

pub fn parameters() -> Parameters {
    Parameters {
        checkpoint_interval: 4,
        window: 8,
        batch_requests: 4,
        in_flight: 4,
        view_timeout_ms: 400,
        resend_ms: 150,
    }
}

impl Group {
    pub fn new(members: u64) -> Self {
        Self::with(members, parameters())
    }

    pub fn with(members: u64, parameters: Parameters) -> Self {
        let (all, signers): (Vec<Member>, Vec<TestSigner>) = (0..members).map(member).unzip();
        let mut clients: Vec<TestSigner> = (1_000..1_003).map(TestSigner::new).collect();
        clients.sort_by_key(Signer::public_key);
        let mut verifier = TestVerifier::default();
        signers.iter().chain(&clients).for_each(|signer| verifier.add(signer));
        let keys: Vec<PublicKey> = clients.iter().map(Signer::public_key).collect();
        let (fleet, group) = ("fleet".to_owned(), "group".to_owned());
        let membership = Membership { fleet, group, number: 0, members: all, clients: keys, parameters };
        let initial = State::genesis(&Ledger::default()).unwrap();
        let epoch = Epoch::first(membership, &initial).unwrap();
        Self { epoch, initial, members: signers, clients, verifier }
    }

    /// The group on a perfect network.
    pub fn lan(&self) -> Lan {
        let signers = self.members.iter().map(|signer| Box::new(signer.clone()) as Box<dyn Signer>).collect();
        Lan::new(&self.epoch, &self.initial, signers, Box::new(self.verifier.clone()))
    }

    /// A change of members that all members approve, without some members and with new ones.
    pub fn change(&self, remove: &[u64], add: &[u64]) -> Operation {
        let mut next = Membership::clone(&self.epoch);
        next.number += 1;
        let removed: Vec<Incarnation> = remove.iter().map(|number| incarnation(*number)).collect();
        next.members.retain(|member| !removed.contains(&member.incarnation));
        next.members.extend(add.iter().map(|number| member(*number).0));
        let quorum = self.epoch.quorums().quorum();
        let replicas = self.epoch.replicas().zip(&self.members).take(quorum);
        let approvals = replicas.map(|(replica, signer)| next.approve(&self.epoch, replica, signer)).collect();
        Operation::NewEpoch(Box::new(EpochChange { next, approvals }))
    }

    /// The records of a member before its first start.
    pub fn enrolled(&self, member: usize) -> Vec<Record> {
        vec![Record::Identity(self.epoch.members[member].incarnation)]
    }
}
