//! Requests, and the batches in which they are ordered.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    certificate::{Kind, Proposal},
    crypto::{Context, Digest, PublicKey, Signature, Signer, Verifier},
    epoch::{EpochChange, Scope},
    error::{DecodeError, Invalid},
    limits::{MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_REQUEST_BYTES},
    wire::{Reader, Wire, put_length, wire_enum, wire_struct},
};

/// What a request does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Calls the application.
    Call(Bytes),
    /// Ends the epoch.
    NewEpoch(Box<EpochChange>),
}

wire_enum!(Operation, "an operation" { 1 = Call, 2 = NewEpoch });

/// A client's request (1999, section 4.1). Its id does what the timestamp does there: each is executed once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The client's key, which is its identity.
    pub client: PublicKey,
    /// The request's number. Each client counts its own from 1.
    pub id: u64,
    /// What to do.
    pub operation: Operation,
    /// The client's signature of the above.
    pub signature: Signature,
}

wire_struct!(Request { client, id, operation, signature });

/// What a client signs.
struct Unsigned<'a>(&'a Request);

impl Wire for Unsigned<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.client.put(out);
        self.0.id.put(out);
        self.0.operation.put(out);
    }

    fn take(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // It is only signed.
        Err(DecodeError::Truncated)
    }
}

impl Request {
    /// Size of a request with an operation of no bytes, at least.
    const OVERHEAD: usize = 32 + 8 + 1 + 4 + 64;

    /// Makes a request.
    pub fn sign(scope: &Scope, id: u64, operation: Operation, signer: &dyn Signer) -> Self {
        let mut request = Self { client: signer.public_key(), id, operation, signature: Signature([0; 64]) };
        request.signature = Context::Request.sign(scope.domain(), &Unsigned(&request), signer);
        request
    }

    /// The encoded size, in bytes.
    pub fn size(&self) -> usize {
        match &self.operation {
            Operation::Call(bytes) => Self::OVERHEAD.saturating_add(bytes.len()),
            Operation::NewEpoch(change) => Self::OVERHEAD.saturating_add(change.encoded().len()),
        }
    }

    /// Checks that a client of this epoch made the request.
    pub(crate) fn check(&self, scope: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        let size = self.size().saturating_sub(Self::OVERHEAD);
        if size > MAX_REQUEST_BYTES {
            return Err(Invalid::RequestTooLarge(size));
        }
        if self.id == 0 {
            return Err(Invalid::RequestId);
        }
        if !scope.is_client(&self.client) {
            return Err(Invalid::NotAClient);
        }
        if !Context::Request.verify(scope.domain(), &Unsigned(self), &self.client, &self.signature, verifier) {
            return Err(Invalid::Signature(Context::Request.name()));
        }
        match &self.operation {
            Operation::Call(_) => Ok(()),
            Operation::NewEpoch(change) => change.check(scope, verifier),
        }
    }
}

/// Requests that are ordered together, with their digest. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    requests: Arc<[Request]>,
    digest: Digest,
}

impl Wire for Batch {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.requests.len(), out);
        for request in self.requests.iter() {
            request.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Vec::take(input).map(Self::new)
    }
}

impl Batch {
    /// Makes a batch. One that does not keep to the limits is refused by every replica.
    pub fn new(requests: Vec<Request>) -> Self {
        let digest = Digest::of("robeing.bft.v1.batch", &requests);
        Self { requests: requests.into(), digest }
    }

    /// The batch of no requests, which fills gaps in a new view.
    pub fn null() -> Self {
        Self::new(Vec::new())
    }

    /// The requests.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The digest of the requests and their signatures.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The kind of the batch.
    pub fn kind(&self) -> Kind {
        match &self.requests[..] {
            [] => Kind::Null,
            [Request { operation: Operation::NewEpoch(_), .. }] => Kind::Epoch,
            _ => Kind::Calls,
        }
    }

    /// Checks that this is the batch that is proposed.
    pub(crate) fn check_matches(&self, proposal: &Proposal) -> Result<(), Invalid> {
        let same = self.digest == proposal.digest && self.kind() == proposal.kind;
        if same { Ok(()) } else { Err(Invalid::WrongBatch(proposal.seq)) }
    }

    /// Checks limits and requests.
    pub(crate) fn check(&self, scope: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        let bytes = self.requests.iter().fold(0_usize, |sum, request| sum.saturating_add(request.size()));
        let most = MAX_BATCH_REQUESTS.min(scope.parameters.batch_requests as usize);
        if self.requests.len() > most || bytes > MAX_BATCH_BYTES {
            return Err(Invalid::BatchTooLarge { requests: self.requests.len(), bytes });
        }
        let changes = |request: &&Request| matches!(request.operation, Operation::NewEpoch(_));
        if self.requests.len() > 1 && self.requests.iter().any(|request| changes(&request)) {
            return Err(Invalid::MixedBatch);
        }
        self.requests.iter().try_for_each(|request| request.check(scope, verifier))
    }
}
