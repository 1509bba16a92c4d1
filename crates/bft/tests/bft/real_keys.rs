//! The same with real signatures.

use robeing_bft::{
    certificate::Decision,
    client::Client,
    crypto::{Ed25519, Ed25519Signer, Signer},
    epoch::{Epoch, Incarnation, Member, Membership, Parameters, ReplicaId},
    replica::Outcome,
    state::State,
    wire::Wire,
};

use crate::{lan::Lan, ledger::Ledger};

fn signer(number: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed(&[number; 32]).unwrap()
}

fn membership() -> Membership {
    let member = |number: u8| Member {
        name: format!("agent-{number}"),
        incarnation: Incarnation([number; 16]),
        key: signer(number).public_key(),
    };
    let (fleet, group, parameters) = ("fleet".to_owned(), "group".to_owned(), Parameters::default());
    Membership { fleet, group, number: 0, members: (1..=4).map(member).collect(), clients: Vec::new(), parameters }
}

#[test]
fn anyone_verifies_a_decision_from_the_membership_alone() {
    let initial = State::genesis(&Ledger::default()).unwrap();
    let epoch = Epoch::first(membership(), &initial).unwrap();
    let signers = (1..=4).map(|number| Box::new(signer(number)) as Box<dyn Signer>).collect();
    let mut lan = Lan::new(&epoch, &initial, signers, Box::new(Ed25519));
    let mut client = Client::new(epoch.scope().clone(), 0);
    let request = client.call("decide this".into(), &signer(3)).unwrap();
    lan.give(1, robeing_bft::message::Message::Request(request)).unwrap();
    lan.run();
    assert_eq!(lan.executed(), [1; 4]);

    let bytes = (membership().encoded(), lan.decided[2][0].encoded());
    let membership = Membership::decoded(&bytes.0).unwrap();
    let decision = Decision::decoded(&bytes.1).unwrap();
    assert_eq!(decision.verify(&membership, &Ed25519), Ok(()));
    assert_eq!(decision.certificate.commits.len(), 3);
    let mut others = [membership.clone(), membership.clone(), membership];
    others[0].fleet.push('2');
    others[1].number += 1;
    others[2].members[3].key = signer(9).public_key();
    assert!(others.iter().all(|other| decision.verify(other, &Ed25519).is_err()));

    // The client believes what two of four replicas say.
    let outcomes: Vec<Outcome> = lan.outcomes.clone();
    assert_eq!(outcomes.len(), 4);
    let replies =
        outcomes.into_iter().zip(0..).map(|(one, id)| one.reply(&epoch, ReplicaId(id), &signer(id as u8 + 1)));
    let replies: Vec<_> = replies.collect();
    assert_eq!(client.reply(&replies[0], &signer(3), &Ed25519), None);
    assert_eq!(client.reply(&replies[0], &signer(3), &Ed25519), None);
    let mut forged = replies[1].clone();
    forged.replica = ReplicaId(2);
    assert_eq!(client.reply(&forged, &signer(3), &Ed25519), None);
    assert_eq!(client.reply(&replies[1], &signer(3), &Ed25519).map(|(id, _)| id), Some(1));
}
