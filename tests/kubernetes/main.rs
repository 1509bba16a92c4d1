//! A fleet on a real Kubernetes of three nodes, by what users type. It takes minutes and needs the image of `make image`, so it is
//! run by itself: `make e2e`.

mod day_two;
mod life;
