//! The application of tests: it remembers all calls.

use bytes::Bytes;
use robeing_bft::{
    application::Application,
    certificate::Seq,
    crypto::{Digest, PublicKey},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The digest of each call with its client, in order.
    pub calls: Vec<Digest>,
}

impl Ledger {
    pub fn digest(client: &PublicKey, call: &[u8]) -> Digest {
        Digest::of_bytes(&[&client.0[..], call].concat())
    }
}

impl Application for Ledger {
    fn execute(&mut self, _: Seq, client: &PublicKey, call: &Bytes) -> Bytes {
        self.calls.push(Self::digest(client, call));
        Bytes::from(self.calls.len().to_be_bytes().to_vec())
    }

    fn snapshot(&self) -> Bytes {
        self.calls.iter().flat_map(|call| call.0).collect::<Vec<u8>>().into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (calls, rest) = snapshot.as_chunks();
        if !rest.is_empty() {
            return Err("it is cut".to_owned());
        }
        self.calls = calls.iter().map(|call| Digest(*call)).collect();
        Ok(())
    }
}
