//! Prints the files generated from the `RobeingCluster` types: the definition as YAML, for `crds/robeingclusters.yaml`,
//! or with `--reference` the field reference, for `docs/reference.md`.

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => robeing_crds::crd_yaml(),
        ["--reference"] => robeing_crds::reference(),
        _ => {
            eprintln!("usage: crdgen [--reference]");
            return ExitCode::from(2);
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: can't write to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}
