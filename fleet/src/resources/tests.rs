use std::cmp::Ordering;

use proptest::{collection::vec, prelude::*};

use super::{
    Part,
    amounts::{Amounts, Resource},
    room::Room,
    share::dominant,
};
use crate::{
    AgentId,
    limits::{MAX_AMOUNT, MAX_CANDIDATES},
};

fn amounts(cpu: u64, memory: u64) -> Amounts {
    Amounts { cpu, memory, ..Amounts::NONE }
}

fn part(amounts: Amounts) -> Part {
    Part { amounts, agent: None }
}

fn room(agents: &[Amounts]) -> Room {
    let mut room = Room::default();
    for (id, amounts) in (1..).zip(agents) {
        room.insert(AgentId(id), *amounts);
    }
    room
}

#[test]
fn a_part_goes_to_the_agent_with_the_least_left_of_what_it_needs_most() {
    let room = room(&[amounts(8, 80), amounts(4, 100), amounts(4, 90), amounts(2, 10)]);
    let total = room.sum;
    let place = |part_of: Amounts| room.place(&[part(part_of)], false, total);
    assert_eq!(place(amounts(3, 1)), Some(vec![AgentId(2)]), "of equal ones the first");
    assert_eq!(place(amounts(3, 85)), Some(vec![AgentId(3)]), "memory is the larger share");
    assert_eq!(place(amounts(2, 1)), Some(vec![AgentId(4)]));
    assert_eq!(place(amounts(5, 81)), None, "no agent has both");
}

#[test]
fn parts_are_placed_together_or_not_at_all_and_spread_if_they_must() {
    let room = room(&[amounts(4, 4), amounts(4, 4)]);
    let parts = |count: usize, of: Amounts| vec![part(of); count];
    let total = room.sum;
    let [first, second] = [AgentId(1), AgentId(2)];
    assert_eq!(room.place(&parts(2, amounts(2, 2)), false, total), Some(vec![first, first]));
    assert_eq!(room.place(&parts(2, amounts(2, 2)), true, total), Some(vec![first, second]));
    assert_eq!(room.place(&parts(4, amounts(2, 2)), false, total), Some(vec![first, first, second, second]));
    assert_eq!(room.place(&parts(3, amounts(1, 1)), true, total), None, "there are two agents");
    assert_eq!(room.place(&parts(3, amounts(3, 0)), false, total), None);
    let mixed = [part(amounts(1, 1)), part(amounts(4, 4)), part(amounts(3, 3))];
    assert_eq!(room.place(&mixed, false, total), Some(vec![second, first, second]), "the largest one first");
}

#[test]
fn a_search_ends_with_the_resource_of_which_the_fewest_agents_have_enough_or_after_so_many_agents() {
    let many = MAX_CANDIDATES;
    let of = |agents: Vec<Amounts>| {
        let room = room(&agents);
        room.place(&[part(amounts(1, 1))], false, room.sum)
    };
    let without_memory = vec![amounts(8, 0); 2 * many];
    let one_has_both = [without_memory.clone(), vec![amounts(9, 9)]].concat();
    assert_eq!(of(one_has_both), Some(vec![AgentId(2 * many as u32 + 1)]), "few have memory");
    let without_either = [without_memory, vec![amounts(0, 8); 2 * many], vec![amounts(9, 9)]].concat();
    assert_eq!(of(without_either), None, "too many have only one of the two");
    let few = [vec![amounts(8, 0); many / 4], vec![amounts(0, 8); many / 4], vec![amounts(9, 9)]].concat();
    assert_eq!(of(few), Some(vec![AgentId(many as u32 / 2 + 1)]));
}

#[test]
fn a_part_that_needs_nothing_takes_an_agent_and_ends_the_search() {
    let one = room(&[amounts(1, 1)]);
    let nothing = |count: usize| vec![part(Amounts::NONE); count];
    assert_eq!(one.place(&nothing(1), true, one.sum), Some(vec![AgentId(1)]));
    assert_eq!(one.place(&nothing(2), true, one.sum), None, "there is one agent");
    assert_eq!(one.place(&nothing(2), false, one.sum), Some(vec![AgentId(1); 2]));
    let many = room(&vec![amounts(1, 1); 40]);
    assert_eq!(many.place(&nothing(40), true, many.sum).map(|agents| agents.len()), Some(40), "more than are near");
}

fn any_amounts(most: u64) -> impl Strategy<Value = Amounts> {
    (0..=most, 0..=most, 0..=most, 0..=most).prop_map(|(cpu, memory, storage, bandwidth)| Amounts {
        cpu,
        memory,
        storage,
        bandwidth,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_are_compared_exactly(
        one in any_amounts(MAX_AMOUNT), other in any_amounts(MAX_AMOUNT), weights in (1..=1000u32, 1..=1000u32),
        total in 1..=MAX_AMOUNT,
    ) {
        let total = Amounts { cpu: total, ..Amounts::NONE };
        let [one, other] = [one, other].map(|amounts| Amounts { cpu: amounts.cpu, ..Amounts::NONE });
        let share = |amounts: Amounts, weight: u32| dominant(amounts, total).1.per_weight(weight);
        // The whole is the same, so that the products fit.
        let products = (u128::from(one.cpu) * u128::from(weights.1), u128::from(other.cpu) * u128::from(weights.0));
        let order = share(one, weights.0).compare(share(other, weights.1));
        prop_assert_eq!(order, products.0.cmp(&products.1));
        prop_assert_eq!(share(other, weights.1).compare(share(one, weights.0)), order.reverse());
    }

    #[test]
    fn the_dominant_share_is_the_largest(amounts in any_amounts(1000), total in any_amounts(1000)) {
        let (resource, share) = dominant(amounts, total);
        for other in Resource::ALL {
            let product = |of: Resource, whole: Resource| amounts.get(of) * total.get(whole).max(1);
            prop_assert!(product(resource, other) >= product(other, resource), "{other:?}");
        }
        prop_assert_eq!(share.compare(share), Ordering::Equal);
    }

    #[test]
    fn no_agent_is_given_more_than_it_has_and_one_part_is_placed_if_one_has_room(
        agents in vec(any_amounts(9), 0..6), parts in vec(any_amounts(5), 1..5), spread in any::<bool>(),
    ) {
        let room = room(&agents);
        let parts: Vec<Part> = parts.into_iter().map(part).collect();
        let placed = room.place(&parts, spread, room.sum);
        if let Some(chosen) = &placed {
            prop_assert_eq!(chosen.len(), parts.len());
            for (id, has) in (1..).zip(&agents) {
                let given = chosen.iter().zip(&parts).filter(|(agent, _)| agent.0 == id);
                prop_assert!(!spread || given.clone().count() <= 1);
                let given = given.fold(Amounts::NONE, |sum, (_, part)| sum.plus(part.amounts));
                prop_assert!(has.covers(given), "{given:?} of {has:?}");
            }
        }
        if let [part] = parts.as_slice() {
            prop_assert_eq!(placed.is_some(), agents.iter().any(|has| has.covers(part.amounts)));
        }
    }

    #[test]
    fn a_room_from_which_all_is_removed_is_empty(agents in vec(any_amounts(9), 0..6)) {
        let mut room = room(&agents);
        for (id, amounts) in (1..).zip(&agents) {
            room.remove(AgentId(id), *amounts);
        }
        prop_assert_eq!(room, Room::default());
    }
}
