//! `robeing audit`.

use std::{
    io::{self, Write},
    time::Duration,
};

use robeing_client::{ClientError, FleetClient};
use robeing_proto::v1::{AuditRecord, ListAuditRecordsRequest};
use tokio::time::{MissedTickBehavior, interval};

use super::connect::client;
use crate::{
    args::{AuditArgs, Connection, Format},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{Document, audit_line, audit_table, note, write_line},
};

/// Number of records in a page: as many as a fleet returns at once.
const PAGE: u32 = 1_000;
/// How often further records are asked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn list(args: AuditArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    let mut log = Log { client, after: args.after };
    let format = args.output.output;
    if format == Format::Table && !args.follow {
        let mut records = Vec::new();
        log.read(|page| {
            records.extend(page);
            Ok(())
        })
        .await?;
        io::stdout().lock().write_all(audit_table(&records).as_bytes())?;
        return Ok(Exit::Success);
    }
    let mut ticks = interval(FOLLOW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        log.read(|page| print(&mut io::stdout().lock(), format, &page)).await?;
        if !args.follow {
            return Ok(Exit::Success);
        }
    }
}

/// The audit log of a fleet, from a record on.
struct Log {
    client: FleetClient,
    /// The number of the last record that was read.
    after: u64,
}

impl Log {
    /// Reads all records that there are, page by page.
    async fn read(&mut self, mut take: impl FnMut(Vec<AuditRecord>) -> Result<(), CliError>) -> Result<(), CliError> {
        loop {
            let page = self.page().await?;
            let Some(last) = page.last().map(|record| record.seq) else { return Ok(()) };
            // The numbers only grow, so the loop ends.
            if last <= self.after {
                return Ok(());
            }
            self.after = last;
            let is_last = page.len() < PAGE as usize;
            take(page)?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn page(&self) -> Result<Vec<AuditRecord>, ClientError> {
        let request = ListAuditRecordsRequest { after_seq: self.after, page_size: PAGE };
        let page = self.client.list_audit_records(request).await?;
        if let Some(gap) = gap(self.after, page.first_seq) {
            note(&gap);
        }
        Ok(page.records)
    }
}

/// Returns a note on records that were asked for and are no longer kept. `first` is the oldest that is kept, 0 if there
/// is none.
fn gap(after: u64, first: u64) -> Option<String> {
    // After 0 means all that are kept.
    let is_gap = after > 0 && first > after.saturating_add(1);
    is_gap.then(|| format!("note: the records {} to {} are no longer kept", after + 1, first - 1))
}

fn print(out: &mut dyn Write, format: Format, records: &[AuditRecord]) -> Result<(), CliError> {
    for record in records {
        match format {
            Format::Table => out.write_all(audit_line(record).as_bytes())?,
            Format::Json | Format::Yaml => write_line(out, format, &Document::of(record)?)?,
        }
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use robeing_client::stub::{AUDIT_RECORDS, Manners, stub};

    use super::*;

    #[tokio::test]
    async fn all_pages_are_read_from_the_record_after_the_given_one() {
        let running = stub(&[Manners::default()]).await;
        for after in [0, 7, AUDIT_RECORDS - 1, AUDIT_RECORDS, AUDIT_RECORDS + 1] {
            let mut log = Log { client: running.client(), after };
            let mut numbers = Vec::new();
            let read = log.read(|page| {
                numbers.extend(page.iter().map(|record| record.seq));
                Ok(())
            });
            read.await.expect("the stub answers");
            assert_eq!(numbers, (after + 1..=AUDIT_RECORDS).collect::<Vec<_>>());
            assert_eq!(log.after, after.max(numbers.last().copied().unwrap_or_default()));
        }
    }

    #[test]
    fn records_that_were_dropped_are_told() {
        assert_eq!(gap(3, 7).as_deref(), Some("note: the records 4 to 6 are no longer kept"));
        for (after, first) in [(0, 7), (3, 4), (3, 1), (3, 0), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
            assert_eq!(gap(after, first), None, "{after} {first}");
        }
    }

    #[test]
    fn in_json_each_record_is_a_line() {
        let records = [1, 2].map(|seq| AuditRecord { seq, detail: "a\nb".into(), ..AuditRecord::default() });
        let mut out = Vec::new();
        print(&mut out, Format::Json, &records).expect("memory takes it");
        let text = String::from_utf8(out).expect("it is text");
        assert_eq!(text, "{\"seq\":\"1\",\"detail\":\"a\\nb\"}\n{\"seq\":\"2\",\"detail\":\"a\\nb\"}\n");
    }
}
