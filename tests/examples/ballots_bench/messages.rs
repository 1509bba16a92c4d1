//! The messages of etcd's API (`etcdserverpb`, version 3) that the benchmark needs, with the fields that it needs.

use bytes::Bytes;

/// `CompareTarget`: the number of changes of a key since it was created; 0 if there is no such key.
const VERSION: i32 = 0;
/// `CompareResult`.
const EQUAL: i32 = 0;
/// `CompareResult`.
const GREATER: i32 = 1;

/// `TxnRequest`: puts what `success` says if all comparisons hold, and else does nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transaction {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<Operation>,
}

/// `Compare`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Compare {
    #[prost(int32, tag = "1")]
    pub result: i32,
    #[prost(int32, tag = "2")]
    pub target: i32,
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// One of several kinds of operands.
    #[prost(int64, optional, tag = "4")]
    pub version: Option<i64>,
}

/// `RequestOp`, which is always a put.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Operation {
    #[prost(message, optional, tag = "2")]
    pub put: Option<Put>,
}

/// `PutRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `TxnResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransactionResult {
    /// Whether all comparisons held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
}

/// `StatusRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {}

/// `StatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// The id of the leader; 0 if there is none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
}

/// `ResponseHeader`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Header {
    /// The id of the member that responds.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
}

impl Compare {
    /// Holds if there is no such key.
    pub fn is_absent(key: Bytes) -> Self {
        Self { result: EQUAL, target: VERSION, key, version: Some(0) }
    }

    /// Holds if there is such a key.
    pub fn exists(key: Bytes) -> Self {
        Self { result: GREATER, target: VERSION, key, version: Some(0) }
    }
}

impl Transaction {
    /// Puts a key if all comparisons hold.
    pub fn put_if(compare: Vec<Compare>, put: Put) -> Self {
        Self { compare, success: vec![Operation { put: Some(put) }] }
    }
}
