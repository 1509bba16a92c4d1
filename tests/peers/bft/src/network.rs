//! Wires between the replicas of simplex, which carry its encoded messages, without limits on rates.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{BlockedSubscription, Blocker, CheckedSender, LimitedSender, Receiver, Recipients};
use commonware_runtime::{IoBuf, IoBufs};
use commonware_utils::{
    NZUsize,
    channel::{mpsc, ring},
    ordered::Set,
};

use crate::wire::{Wire, wire};

/// How many messages the consumer of an inbox queues itself.
const CAPACITY: NonZeroUsize = NZUsize!(1024);

/// A message, and who sent it.
type Sent = (PublicKey, IoBuf);

/// Sends to all replicas.
#[derive(Clone)]
pub struct Link {
    me: PublicKey,
    peers: Arc<BTreeMap<PublicKey, Wire<Sent>>>,
}

/// A message's recipients.
pub struct Checked<'a> {
    link: &'a Link,
    recipients: Vec<PublicKey>,
}

/// What arrives at a replica.
#[derive(Debug)]
pub struct Inbox(mpsc::UnboundedReceiver<Sent>);

/// Connects these replicas with each other; a message takes this long. Returns the ends of each, in their order.
pub fn connect(replicas: &[PublicKey], delay: Duration) -> Vec<(Link, Inbox)> {
    let (senders, inboxes): (Vec<mpsc::UnboundedSender<Sent>>, Vec<_>) =
        replicas.iter().map(|_| mpsc::unbounded_channel()).unzip();
    let to = |inbox: mpsc::UnboundedSender<Sent>| wire(delay, move |message| drop(inbox.send(message)));
    let peers: BTreeMap<PublicKey, Wire<Sent>> = replicas.iter().cloned().zip(senders.into_iter().map(to)).collect();
    let peers = Arc::new(peers);
    let ends = replicas.iter().cloned().zip(inboxes);
    ends.map(|(me, inbox)| (Link { me, peers: Arc::clone(&peers) }, Inbox(inbox))).collect()
}

impl LimitedSender for Link {
    type PublicKey = PublicKey;
    type Checked<'a> = Checked<'a>;

    fn check(&mut self, recipients: Recipients<PublicKey>) -> Result<Checked<'_>, SystemTime> {
        let recipients = match recipients {
            Recipients::All => self.peers.keys().filter(|peer| **peer != self.me).cloned().collect(),
            Recipients::Some(recipients) => recipients,
            Recipients::One(recipient) => vec![recipient],
        };
        Ok(Checked { link: self, recipients })
    }
}

impl CheckedSender for Checked<'_> {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        self.recipients.clone()
    }

    fn send(self, message: impl Into<IoBufs> + Send, _: bool) -> Unreliable<Feedback> {
        let message = message.into().coalesce();
        for recipient in &self.recipients {
            if let Some(peer) = self.link.peers.get(recipient) {
                peer((self.link.me.clone(), message.clone()));
            }
        }
        Unreliable::new(Feedback::Ok)
    }
}

impl Receiver for Inbox {
    type Error = Infallible;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<(PublicKey, IoBuf), Infallible> {
        match self.0.recv().await {
            Some(message) => Ok(message),
            // All replicas have ended, and this one is about to.
            None => std::future::pending().await,
        }
    }

    fn capacity(&self) -> NonZeroUsize {
        CAPACITY
    }
}

/// Blocks nobody: no replica lies here.
#[derive(Clone, Default)]
pub struct NoBlocks(Arc<Mutex<Vec<ring::Sender<Set<PublicKey>>>>>);

impl Blocker for NoBlocks {
    type PublicKey = PublicKey;

    fn block(&mut self, peer: PublicKey) -> Feedback {
        panic!("replica {peer} was taken for a liar");
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        let (sender, receiver) = ring::channel(NZUsize!(1));
        sender.send_lossy(Set::default());
        // Kept, so that the subscription does not end.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }
}
