//! A fleet on a real Kubernetes of three nodes, used through the commands that users type. It takes minutes and needs
//! the image of `make image`, so it is run separately: `make e2e`.

mod crowd;
mod day_two;
mod life;
mod review;
