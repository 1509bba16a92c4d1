//! The bytes of one file: as programs see them now, and as a crash would leave them.

use std::collections::BTreeMap;

use super::{SECTOR, SplitMix};

type Sector = Box<[u8; SECTOR]>;

/// A file. Sectors that are absent hold zeros.
#[derive(Default)]
pub(super) struct File {
    len: u64,
    durable_len: u64,
    sectors: BTreeMap<u64, Sector>,
    /// Sectors written since the last sync, with the content that is still on the disk.
    unsynced: BTreeMap<u64, Option<Sector>>,
    /// Likewise for sectors whose sync failed: the system considers them written, so no later sync repeats them.
    forgotten: BTreeMap<u64, Option<Sector>>,
    /// How often the content was changed.
    changes: u64,
}

impl File {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        self.changes += 1;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (number, within) = (at / SECTOR as u64, (at % SECTOR as u64) as usize);
            let n = rest.len().min(SECTOR - within);
            self.touch(number);
            let sector = self.sectors.entry(number).or_insert_with(|| Box::new([0; SECTOR]));
            sector[within..within + n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            at += n as u64;
        }
        self.len = self.len.max(at);
    }

    /// Remembers the on-disk content of a sector that is about to change.
    fn touch(&mut self, number: u64) {
        let on_disk = self.forgotten.remove(&number).unwrap_or_else(|| self.sectors.get(&number).cloned());
        self.unsynced.entry(number).or_insert(on_disk);
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        let mut content = vec![0; end.saturating_sub(offset) as usize];
        if content.is_empty() {
            return content;
        }
        let size = SECTOR as u64;
        for (number, sector) in self.sectors.range(offset / size..end.div_ceil(size)) {
            let start = number * size;
            let (from, to) = (start.max(offset), (start + size).min(end));
            content[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&sector[(from - start) as usize..(to - start) as usize]);
        }
        content
    }

    /// Extends the file with zeros.
    pub(super) fn extend(&mut self, len: u64) {
        self.changes += 1;
        self.len = self.len.max(len);
    }

    /// Truncates the file. Only tests and crashes do this; the program never does.
    pub(super) fn cut(&mut self, len: u64) {
        self.changes += 1;
        self.len = self.len.min(len);
        let size = SECTOR as u64;
        self.sectors.split_off(&self.len.div_ceil(size));
        let kept = (self.len % size) as usize;
        if kept > 0
            && let Some(last) = self.sectors.get_mut(&(self.len / size))
        {
            last[kept..].fill(0);
        }
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_len = self.len;
    }

    pub(super) fn fail_sync(&mut self) {
        for (number, on_disk) in std::mem::take(&mut self.unsynced) {
            self.forgotten.entry(number).or_insert(on_disk);
        }
    }

    /// Simulates a power failure: synced data survives, and any subset of the rest.
    pub(super) fn crash(&mut self, random: &mut SplitMix) {
        self.changes += 1;
        for (number, on_disk) in std::mem::take(&mut self.forgotten) {
            self.restore(number, on_disk);
        }
        for (number, on_disk) in std::mem::take(&mut self.unsynced) {
            if random.coin() {
                self.restore(number, on_disk);
            }
        }
        if self.len > self.durable_len {
            let gained = random.below(self.len - self.durable_len + 1);
            self.cut(self.durable_len + gained);
        }
        self.durable_len = self.len;
    }

    fn restore(&mut self, number: u64, on_disk: Option<Sector>) {
        match on_disk {
            Some(sector) => self.sectors.insert(number, sector),
            None => self.sectors.remove(&number),
        };
    }
}
