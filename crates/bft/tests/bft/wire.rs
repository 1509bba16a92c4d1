//! The encodings of messages and records.

use proptest::prelude::*;
use robeing_bft::{message::Message, record::Record};

use crate::world::{Plan, World};

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), tag in 0_u8..16) {
        if let [version, kind, ..] = &mut bytes[..] {
            (*version, *kind) = (1, tag);
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes.clone());
        }
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }
}

#[test]
fn records_have_one_encoding() {
    let mut world = World::new(Plan::of(12));
    world.run();
    let disks: Vec<Vec<u8>> = world.nodes.iter().flat_map(|node| node.disk.clone()).collect();
    assert!(disks.len() > 20);
    for bytes in disks {
        let record = Record::decode(&bytes).unwrap();
        assert_eq!(record.encode(), bytes);
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Record::decode(&longer).is_err());
        assert!(Record::decode(&bytes[..bytes.len() - 1]).is_err());
        let mut later = bytes;
        later[0] = 2;
        assert!(Record::decode(&later).is_err());
    }
}
