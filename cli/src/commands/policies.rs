//! `robeing policies set`, `show` and `check`.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use robeing_crds::{ManifestError, parse_manifest, sets_field};
use robeing_policy::{PolicyError, PolicySet, PolicySpec};
use robeing_proto::v1::{Policies, SetPoliciesRequest, SetPoliciesResponse};
use serde::Deserialize;

use super::connect::client;
use crate::{
    args::{Connection, Format, PolicyFileArgs, SetPoliciesArgs, ShowPoliciesArgs},
    error::CliError,
    exit::Exit,
    inputs::STDIN,
    kubernetes::Access,
    render::{policy_table, print_one},
};

/// Maximum size of a file with policies, in bytes: 4 MiB.
const MAX_FILE: u64 = 4 << 20;
/// How deep a file with policies may be nested.
const MAX_DEPTH: usize = 16;

/// Why policies can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The file can't be read.
    #[error("can't read {file}: {error}")]
    Read {
        /// The file.
        file: String,
        /// The cause.
        error: io::Error,
    },
    /// The file is too large.
    #[error("{file} has more than {MAX_FILE} bytes, which no policies have")]
    TooLarge {
        /// The file.
        file: String,
    },
    /// The file is a manifest with mistakes.
    #[error("{file}: {error}")]
    Manifest {
        /// The file.
        file: String,
        /// What is wrong.
        error: Box<ManifestError>,
    },
    /// The file has another form.
    #[error(
        "{file} is no list of policies: {problem}; write `policies: [{{name: …, events: […], rule: …, action: …}}]`"
    )]
    Form {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The file is a manifest that does not say which policies there are.
    #[error(
        "{file} sets no policies: it is a manifest without spec.policies; to remove all policies of a fleet, write \
         `policies: []`"
    )]
    NoPolicies {
        /// The file.
        file: String,
    },
    /// Policies are wrong.
    #[error("{}", sentences(.0))]
    Wrong(Vec<PolicyError>),
}

fn sentences(errors: &[PolicyError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    policies: Vec<PolicySpec>,
}

/// Checks policies, and returns them as a fleet takes them.
///
/// # Errors
/// Everything that is wrong with them.
pub(crate) fn request(policies: &[PolicySpec]) -> Result<SetPoliciesRequest, PolicyFileError> {
    PolicySet::compile(policies).map_err(PolicyFileError::Wrong)?;
    Ok(SetPoliciesRequest { policies: policies.iter().map(PolicySpec::to_json).collect() })
}

/// Reads policies from a file: a list, or the manifest of a `RobeingCluster`.
fn read(file: &Path) -> Result<Vec<PolicySpec>, PolicyFileError> {
    let name = file.display().to_string();
    let failed = |error| PolicyFileError::Read { file: name.clone(), error };
    let mut text = String::new();
    let source: Box<dyn Read> = match file.as_os_str() == STDIN {
        true => Box::new(io::stdin().lock()),
        false => Box::new(std::fs::File::open(file).map_err(failed)?),
    };
    source.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(PolicyFileError::TooLarge { file: name });
    }
    parse(&name, &text)
}

fn parse(file: &str, text: &str) -> Result<Vec<PolicySpec>, PolicyFileError> {
    if text.lines().any(|line| line.trim_end() == format!("kind: {}", robeing_crds::KIND)) {
        let wrong = |error| PolicyFileError::Manifest { file: file.to_owned(), error: Box::new(error) };
        let policies = parse_manifest(text).map_err(wrong)?.spec.policies;
        // Without a list of policies, even an empty one, it does not mean to remove them.
        return match sets_field(text, "/spec/policies").map_err(wrong)? {
            true => Ok(policies),
            false => Err(PolicyFileError::NoPolicies { file: file.to_owned() }),
        };
    }
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! { max_depth: MAX_DEPTH, max_documents: 1, max_aliases: 0, },
        with_snippet: false,
    };
    let list: Result<List, serde_yaml::Error> = serde_yaml::from_str_with_options(text, options);
    let problem = |error: serde_yaml::Error| error.without_snippet().to_string().replace('\n', " ");
    list.map(|list| list.policies)
        .map_err(|error| PolicyFileError::Form { file: file.to_owned(), problem: problem(error) })
}

pub(super) async fn set(args: SetPoliciesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let policies = read(&args.file)?;
    let request = request(&policies)?;
    let client = client(fleet, None, Access::Administer).await?;
    let set = client.set_policies(request).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &set, |set| set_text(policies.len(), set))?;
    Ok(Exit::Success)
}

fn set_text(count: usize, set: &SetPoliciesResponse) -> String {
    match count {
        0 => "the fleet has no policies now\n".to_owned(),
        _ => format!("{} in force, as of revision {}\n", are(count), set.revision),
    }
}

fn are(count: usize) -> String {
    if count == 1 { "1 policy is".to_owned() } else { format!("{count} policies are") }
}

pub(super) async fn show(args: ShowPoliciesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    let policies = client.get_policies().await?;
    let text = shown(&policies, args.output.output)?;
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Success)
}

/// Formats policies: as YAML and JSON in the form that `set` reads.
fn shown(policies: &Policies, format: Format) -> Result<String, CliError> {
    let unreadable = |problem: String| CliError::Render { form: "yaml", problem };
    let values = policies.policies.iter().map(|json| serde_json::from_str(json));
    let values: Vec<serde_json::Value> =
        values.collect::<Result<_, _>>().map_err(|error| unreadable(error.to_string()))?;
    let list = serde_json::json!({ "policies": values });
    Ok(match format {
        Format::Table => policy_table(&values),
        Format::Json => format!("{list:#}\n"),
        Format::Yaml => serde_yaml::to_string(&list).map_err(|error| unreadable(error.to_string()))?,
    })
}

pub(super) fn check(args: &PolicyFileArgs) -> Result<Exit, CliError> {
    let policies = read(&args.file)?;
    request(&policies)?;
    writeln!(io::stdout().lock(), "{} all right", are(policies.len()))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "policies:\n- name: a\n  events: [Submission]\n  rule: object.kind == 'x'\n  action: deny\n";

    #[test]
    fn a_list_and_a_manifest_have_policies() {
        let list = parse("f", LIST).expect("a list");
        let manifest = format!(
            "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {{name: f}}\nspec:\n{}",
            LIST.lines().map(|line| format!("  {line}\n")).collect::<String>()
        );
        assert_eq!(parse("f", &manifest).expect("a manifest"), list);
        let request = request(&list).expect("they are right");
        let shown = shown(&Policies { revision: 3, policies: request.policies }, Format::Yaml).expect("they are JSON");
        assert_eq!(parse("f", &shown).expect("what is shown can be set"), list);
    }

    #[test]
    fn a_manifest_without_policies_removes_none_and_an_empty_list_removes_all() {
        let manifest = |spec: &str| {
            let head = "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: f}\n";
            parse("f", &format!("{head}spec: {spec}\n"))
        };
        let without = manifest("{suspend: true}").expect_err("it has no policies").to_string();
        assert!(without.starts_with("f sets no policies: ") && without.ends_with("write `policies: []`"), "{without}");
        assert!(manifest("{suspend: true, policies: []}").expect("an empty list").is_empty());
        // With an empty document after it.
        assert!(manifest("{suspend: true, policies: []}\n---").expect("an empty list").is_empty());
        assert!(manifest("{suspend: true}\n---").is_err());
        assert!(parse("f", "policies: []").expect("an empty list").is_empty());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let wrong = |text: &str| match parse("f", text).and_then(|policies| request(&policies)) {
            Ok(_) => panic!("{text} is accepted"),
            Err(error) => error.to_string(),
        };
        assert!(wrong("- a").starts_with("f is no list of policies: "), "{}", wrong("- a"));
        assert!(wrong(&LIST.replace("action: deny", "action: shout")).contains("shout"));
        let unknown = wrong(&LIST.replace("object.kind", "subject.kind"));
        assert!(unknown.starts_with("policy \"a\", rule: there is no variable \"subject\""), "{unknown}");
        let deep = format!("policies: {}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(wrong(&deep).starts_with("f is no list of policies: "));
    }

    #[test]
    fn what_is_in_force_is_told_and_shown_as_a_table() {
        let set = SetPoliciesResponse { revision: 7 };
        let json = request(&parse("f", LIST).expect("a list")).expect("they are right").policies;
        let table = shown(&Policies { revision: 7, policies: json }, Format::Table).expect("they are JSON");
        insta::assert_snapshot!([set_text(0, &set), set_text(1, &set), set_text(2, &set), table].concat(), @r"
        the fleet has no policies now
        1 policy is in force, as of revision 7
        2 policies are in force, as of revision 7
        NAME   ON           ACTION   FAILS    RULE
        a      Submission   deny     Closed   object.kind == 'x'
        ");
    }
}
