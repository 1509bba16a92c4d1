//! Who calls, and what they may do: the rights of clients, from a file or from the API server of Kubernetes.

pub mod kubernetes;
pub mod rights;
pub mod rights_file;
