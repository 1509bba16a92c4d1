//! Prints the definition of `RobeingCluster` as YAML, for `crds/robeingclusters.yaml`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(robeing_crds::crd_yaml().as_bytes())
}
