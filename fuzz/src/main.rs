//! Runs a fuzz target. `FUZZ_TARGET` names it; see CONTRIBUTING.md.
//!
//! With the feature `libfuzzer` it fuzzes, and takes the arguments of libFuzzer; otherwise it runs the files that are its
//! arguments, for example one that has crashed the target.

use std::{env, fs, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use robeing_fuzz::{TARGETS, Target, seeds};

/// The variable with the name of the target.
const VARIABLE: &str = "FUZZ_TARGET";

fn target() -> anyhow::Result<&'static Target> {
    let name = env::var(VARIABLE).with_context(|| format!("set {VARIABLE} to a target; --list prints their names"))?;
    let target = TARGETS.iter().find(|target| target.name == name);
    target.with_context(|| format!("there is no target {name:?}; --list prints their names"))
}

/// Writes the seeds that the program's own encoders make to a folder for each target.
fn write_seeds(folder: &Path) -> anyhow::Result<()> {
    for seed in seeds::all() {
        let folder = folder.join(seed.target);
        fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
        let file = folder.join(&seed.name);
        fs::write(&file, &seed.bytes).with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

fn run() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => TARGETS.iter().for_each(|target| println!("{} {}", target.name, target.max_len)),
        ["--write-seeds", folder] => write_seeds(Path::new(folder))?,
        ["--write-seeds", ..] => bail!("give the folder of the seeds: --write-seeds fuzz/seeds"),
        _ => return fuzzer::run(target()?, &arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(2)
    })
}

#[cfg(not(feature = "libfuzzer"))]
mod fuzzer {
    use std::{fs, process::ExitCode};

    use anyhow::Context;
    use robeing_fuzz::Target;

    /// Runs each file through the target.
    pub fn run(target: &Target, files: &[String]) -> anyhow::Result<ExitCode> {
        for file in files {
            let bytes = fs::read(file).with_context(|| format!("can't read {file}"))?;
            println!("{}: {file}, {} bytes", target.name, bytes.len());
            (target.run)(&bytes);
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(feature = "libfuzzer")]
mod fuzzer {
    use std::{
        env,
        ffi::{CString, c_char, c_int},
        process::ExitCode,
        slice,
        sync::OnceLock,
    };

    // Links the library.
    use libfuzzer_sys as _;
    use robeing_fuzz::Target;

    static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

    unsafe extern "C" {
        fn LLVMFuzzerRunDriver(
            argc: *mut c_int,
            argv: *mut *mut *mut c_char,
            callback: extern "C" fn(*const u8, usize) -> c_int,
        ) -> c_int;
    }

    extern "C" fn one_input(data: *const u8, size: usize) -> c_int {
        // SAFETY: libFuzzer passes `size` bytes, and null only for none.
        let input = if size == 0 { &[][..] } else { unsafe { slice::from_raw_parts(data, size) } };
        if let Some(run) = RUN.get() {
            run(input);
        }
        0
    }

    /// Fuzzes the target until one of the limits in the arguments, or a crash.
    pub fn run(target: &Target, arguments: &[String]) -> anyhow::Result<ExitCode> {
        RUN.get_or_init(|| target.run);
        let program = env::args().next().unwrap_or_default();
        let arguments = [program].into_iter().chain(arguments.iter().cloned()).map(CString::new);
        let arguments: Vec<CString> = arguments.collect::<Result<_, _>>()?;
        // The library keeps pointers to them until the process ends.
        let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let mut count = c_int::try_from(pointers.len())?;
        pointers.push(std::ptr::null_mut());
        let mut pointers = pointers.leak().as_mut_ptr();
        // SAFETY: the arguments are what `main` of a C program gets, and are never freed.
        let code = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut pointers, one_input) };
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}
