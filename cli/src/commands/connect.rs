//! Finds the fleet that the command line selects, and creates a client of it.

use robeing_client::{FleetClient, Settings};
use robeing_proto::v1::Consistency;

use super::credentials::{self, CredentialError};
use crate::{
    args::{Connection, Reading, Target},
    dev::registry::{self, RunningFleet},
    error::CliError,
    kubernetes::{self, Access, Resource},
    render::note,
};

/// The endpoint if no other is given.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8080";

/// Creates a client of the selected fleet. On Kubernetes, coordinators that are not ready are used only if stale
/// answers are allowed (`--local`), and `access` decides whose token is requested.
pub(super) async fn client(
    connection: &Connection,
    reading: Option<&Reading>,
    access: Access,
) -> Result<FleetClient, CliError> {
    Ok(reach(connection, reading, access).await?.0)
}

/// As [`client`], and also returns the `RobeingCluster` if the fleet is on Kubernetes.
pub(super) async fn reach(
    connection: &Connection,
    reading: Option<&Reading>,
    access: Access,
) -> Result<(FleetClient, Option<Resource>), CliError> {
    let settings = settings(connection);
    let endpoints = match connection.target() {
        Target::Kubernetes(place) => {
            let any = reading.is_some_and(|reading| reading.local);
            let found = kubernetes::find(&place, access, any, settings).await?;
            return Ok((found.client, Some(found.resource)));
        }
        Target::Endpoints(endpoints) => endpoints,
        Target::Dev(name) => return dev_client(&named(registry::running(), &name)?, settings),
        Target::Unsaid => match newest(registry::running()) {
            Some(fleet) => return dev_client(&fleet, settings),
            None => vec![DEFAULT_ENDPOINT.into()],
        },
    };
    let security = credentials::security(connection, &endpoints)?;
    Ok((FleetClient::new(&endpoints, Settings { security, ..settings })?, None))
}

/// Returns the URL of the object store of the fleet of `robeing dev` that is selected, if it is one. [`reach`] reports it if
/// several could be meant.
pub(super) fn object_store_of_dev(connection: &Connection) -> Option<String> {
    let running = registry::running().into_iter();
    let fleet = match connection.target() {
        Target::Dev(name) => running.filter(|fleet| fleet.name == name).max_by_key(|fleet| fleet.started_unix_ms),
        Target::Unsaid => running.max_by_key(|fleet| fleet.started_unix_ms),
        Target::Kubernetes(_) | Target::Endpoints(_) => None,
    };
    fleet?.object_store
}

/// Creates a client of a fleet of `robeing dev`.
fn dev_client(fleet: &RunningFleet, settings: Settings) -> Result<(FleetClient, Option<Resource>), CliError> {
    let security = fleet.security().map_err(CredentialError::from)?;
    Ok((FleetClient::new(&fleet.endpoints, Settings { security, ..settings })?, None))
}

fn settings(connection: &Connection) -> Settings {
    Settings { request_timeout: connection.request_timeout, ..Settings::default() }
}

/// Returns the `RobeingCluster` of a fleet whose coordinators can't be reached, or `None` if that can't be read either.
pub(super) async fn resource(connection: &Connection) -> Option<Resource> {
    let Target::Kubernetes(place) = connection.target() else { return None };
    kubernetes::resource(&place, &settings(connection)).await.ok()
}

/// Returns the fleet with that name. A name that several fleets have is refused, because the user means one particular
/// fleet.
fn named(mut fleets: Vec<RunningFleet>, name: &str) -> Result<RunningFleet, CliError> {
    fleets.sort_by_key(|fleet| fleet.started_unix_ms);
    let named: Vec<&RunningFleet> = fleets.iter().rev().filter(|fleet| fleet.name == name).collect();
    match named[..] {
        [fleet] => Ok(fleet.clone()),
        [] => Err(CliError::NoDevFleet {
            name: name.into(),
            searched: registry::searched(),
            others: fleets.into_iter().map(|fleet| fleet.name).collect(),
        }),
        _ => Err(CliError::SeveralDevFleets { name: name.into(), fleets: named.into_iter().map(described).collect() }),
    }
}

/// Returns the newest fleet, if any.
fn newest(mut fleets: Vec<RunningFleet>) -> Option<RunningFleet> {
    fleets.sort_by_key(|fleet| fleet.started_unix_ms);
    let newest = fleets.pop()?;
    if !fleets.is_empty() {
        note(&which_of_several(&newest, &fleets));
    }
    Some(newest)
}

/// Describes a fleet by what distinguishes it from another one of the same name.
fn described(fleet: &RunningFleet) -> String {
    format!("{}   (process {}, data in {})", fleet.endpoints.join(","), fleet.pid, fleet.data.display())
}

/// Returns a note on which fleet was selected by default, and how to select another.
fn which_of_several(newest: &RunningFleet, others: &[RunningFleet]) -> String {
    let by = if others.iter().any(|other| other.name == newest.name) { "--endpoint" } else { "--fleet or --endpoint" };
    let others: String =
        others.iter().rev().map(|other| format!("\n  {} at {}", other.name, other.endpoints.join(","))).collect();
    format!(
        "note: using fleet {} at {}, the newest of the fleets that `robeing dev` runs; choose another with {by}:{others}",
        newest.name,
        newest.endpoints.join(",")
    )
}

/// Returns how fresh answers must be.
pub(super) fn consistency(reading: &Reading) -> Consistency {
    if reading.local { Consistency::Local } else { Consistency::Linearizable }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(name: &str, started_unix_ms: u64) -> RunningFleet {
        RunningFleet {
            name: name.into(),
            pid: 1,
            started_unix_ms,
            endpoints: vec![format!("http://127.0.0.1:{started_unix_ms}")],
            data: "/tmp".into(),
            identity: None,
            attachable: vec![],
            object_store: None,
        }
    }

    #[test]
    fn without_a_running_fleet_there_is_no_newest() {
        assert_eq!(newest(vec![]), None);
    }

    #[test]
    fn the_newest_fleet_is_meant_unless_one_is_named() {
        let fleets = || vec![fleet("a", 3), fleet("b", 9), fleet("a", 5)];
        assert_eq!(newest(fleets()).expect("some run").endpoints, ["http://127.0.0.1:9"]);
        assert_eq!(named(fleets(), "b").expect("one has the name").endpoints, ["http://127.0.0.1:9"]);
        let error = named(fleets(), "c").expect_err("none has the name");
        let error = error.to_string();
        assert!(error.starts_with("no running `robeing dev` fleet is named \"c\" (searched /"), "{error}");
        assert!(error.ends_with("; running: a, a, b; --endpoint reaches any fleet"), "{error}");
    }

    #[test]
    fn a_name_that_two_fleets_have_is_refused_with_their_endpoints() {
        let fleets = vec![fleet("a", 3), fleet("b", 9), fleet("a", 5)];
        let error = named(fleets, "a").expect_err("two have the name");
        assert_eq!(error.exit(), crate::exit::Exit::Usage);
        insta::assert_snapshot!(error, @r#"
        2 running `robeing dev` fleets are named "a"; choose one with --endpoint:
          --endpoint http://127.0.0.1:5   (process 1, data in /tmp)
          --endpoint http://127.0.0.1:3   (process 1, data in /tmp)
        "#);
    }

    #[test]
    fn where_none_is_named_the_choice_is_told() {
        insta::assert_snapshot!(which_of_several(&fleet("a", 9), &[fleet("b", 3), fleet("a", 5)]), @"
        note: using fleet a at http://127.0.0.1:9, the newest of the fleets that `robeing dev` runs; choose another with --endpoint:
          a at http://127.0.0.1:5
          b at http://127.0.0.1:3
        ");
        let told = which_of_several(&fleet("a", 9), &[fleet("b", 3)]);
        assert!(told.contains("choose another with --fleet or --endpoint:\n  b at"), "{told}");
    }
}
