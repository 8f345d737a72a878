//! One file's bytes, twice: as a running process sees them, and as they are on the medium.
//!
//! Pages are shared slices without the zero sectors at their end: a page that was never written
//! takes no memory, and a sync moves references. The unit that a crash keeps or loses is the
//! sector.

use std::borrow::Cow;

use bytes::Bytes;
use sampan_base::Rng;
use sampan_storage::testing::Chooser;

/// The unit of memory and of most writes.
pub const PAGE_BYTES: u64 = 4_096;
/// The unit that a power loss keeps or loses.
pub const SECTOR_BYTES: u64 = 512;
const SECTORS_PER_PAGE: u64 = PAGE_BYTES / SECTOR_BYTES;

static ZERO_PAGE: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// One page. What a slice is short of is zeros. Bit `i` of a mask is sector `i`.
#[derive(Clone, Default, Debug)]
struct Page {
    now: Bytes,
    durable: Bytes,
    /// Written and not synced.
    unsynced: u8,
    /// A failed sync marked them clean although they never reached the medium: readable until the
    /// power goes, and no later sync writes them ("Can Applications Recover from fsync
    /// Failures?", ATC'20).
    dropped: u8,
    /// Reading them fails until they are written again.
    unreadable: u8,
}

impl Page {
    /// The sectors that a power loss may keep or lose, and that differ by it.
    fn open_sectors(&self) -> u8 {
        let (now, durable) = (whole(&self.now), whole(&self.durable));
        let differs = |sector: &u64| {
            let range = (sector * SECTOR_BYTES) as usize..((sector + 1) * SECTOR_BYTES) as usize;
            self.unsynced >> sector & 1 == 1 && now[range.clone()] != durable[range]
        };
        (0..SECTORS_PER_PAGE).filter(differs).fold(0, |mask, sector| mask | 1 << sector)
    }
}

/// A file without its name.
#[derive(Clone, Default, Debug)]
pub(crate) struct Inode {
    len: u64,
    durable_len: u64,
    pages: Vec<Page>,
    /// Pages with unsynced sectors, each once.
    dirty: Vec<u32>,
}

/// How much of what was not synced outlives a power loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// Nothing: the medium as the last syncs left it.
    None,
    /// Everything: as after the death of a process.
    All,
    /// Each sector and each change of a name by a coin that shows heads `permille` times in 1000.
    Some {
        /// Of 1000.
        permille: u64,
    },
}

impl Survival {
    pub(crate) fn keeps(self, rng: &mut Rng) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some { permille } => rng.permille(permille),
        }
    }
}

/// A page with the zeros at its end.
fn whole(page: &Bytes) -> Cow<'_, [u8]> {
    if page.is_empty() {
        return Cow::Borrowed(&ZERO_PAGE);
    }
    let mut page = Cow::Borrowed(&**page);
    if (page.len() as u64) < PAGE_BYTES {
        page.to_mut().resize(PAGE_BYTES as usize, 0);
    }
    page
}

/// A whole page without the zero sectors at its end, but for the first one. A copy if that saves
/// memory: most batches fill little of their last page, and a run writes many.
fn short(page: Bytes) -> Bytes {
    let is_zero = |sector: &&[u8]| **sector == ZERO_PAGE[..sector.len()];
    let sectors = page.rchunks(SECTOR_BYTES as usize).take(SECTORS_PER_PAGE as usize - 1);
    let zeros = sectors.take_while(is_zero).count();
    let used = page.len() - zeros * SECTOR_BYTES as usize;
    if zeros == 0 { page } else { Bytes::copy_from_slice(&page[..used]) }
}

/// The sectors of one page that `[from, to)` touches, as a mask. Offsets within the page.
fn sectors(from: u64, to: u64) -> u8 {
    let (first, end) = (from / SECTOR_BYTES, to.div_ceil(SECTOR_BYTES));
    (((1_u16 << end) - 1) & !((1_u16 << first) - 1)) as u8
}

/// `base` with the sectors of `mask` taken from `other`.
fn merge(base: &Bytes, other: &Bytes, mask: u8) -> Bytes {
    if mask == 0 {
        return base.clone();
    }
    if mask == u8::MAX {
        return other.clone();
    }
    let (mut page, other) = (whole(base).into_owned(), whole(other));
    for sector in (0..SECTORS_PER_PAGE).filter(|sector| mask >> sector & 1 == 1) {
        let range = (sector * SECTOR_BYTES) as usize..((sector + 1) * SECTOR_BYTES) as usize;
        page[range.clone()].copy_from_slice(&other[range]);
    }
    Bytes::from(page)
}

impl Inode {
    /// A file of zeros that nothing on the medium knows of yet.
    pub(crate) fn zeros(len: u64) -> Self {
        Self { len, ..Self::default() }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Writes; extends the file if it must.
    pub(crate) fn write(&mut self, offset: u64, bytes: &Bytes) {
        let end = offset + bytes.len() as u64;
        self.len = self.len.max(end);
        let mut at = offset;
        while at < end {
            let number = at / PAGE_BYTES;
            let (from, to) = (at % PAGE_BYTES, (end - number * PAGE_BYTES).min(PAGE_BYTES));
            let part = bytes.slice((at - offset) as usize..(at - offset + to - from) as usize);
            let page = self.page_to_change(number as u32, sectors(from, to));
            page.unreadable &= !sectors(from, to);
            if to - from == PAGE_BYTES {
                page.now = short(part);
            } else {
                let mut content = whole(&page.now).into_owned();
                content[from as usize..to as usize].copy_from_slice(&part);
                page.now = Bytes::from(content);
            }
            at = (number + 1) * PAGE_BYTES;
        }
    }

    /// A page whose sectors of `mask` are about to change.
    fn page_to_change(&mut self, number: u32, mask: u8) -> &mut Page {
        if self.pages.len() <= number as usize {
            self.pages.resize_with(number as usize + 1, Page::default);
        }
        let page = &mut self.pages[number as usize];
        if page.unsynced == 0 {
            self.dirty.push(number);
        }
        page.unsynced |= mask;
        page.dropped &= !mask;
        page
    }

    /// Empties the file and fills it with `len` zeros.
    pub(crate) fn refill(&mut self, len: u64) {
        self.len = len;
        for number in 0..self.pages.len() {
            let page = &self.pages[number];
            if !page.now.is_empty() || !page.durable.is_empty() {
                let page = self.page_to_change(number as u32, u8::MAX);
                page.now = Bytes::new();
                page.unreadable = 0;
            }
        }
    }

    /// Cuts the file off.
    pub(crate) fn cut(&mut self, len: u64) {
        self.len = len;
        let first = len.div_ceil(PAGE_BYTES);
        for number in first..self.pages.len() as u64 {
            let page = self.page_to_change(number as u32, u8::MAX);
            page.now = Bytes::new();
            page.unreadable = 0;
        }
        let (number, end) = (len / PAGE_BYTES, len % PAGE_BYTES);
        if end > 0 && number < self.pages.len() as u64 {
            let page = self.page_to_change(number as u32, sectors(end, PAGE_BYTES));
            let mut content = whole(&page.now).into_owned();
            content[end as usize..].fill(0);
            page.now = short(content.into());
        }
    }

    /// Up to `len` bytes at `offset`; `None` if a sector cannot be read.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Option<Bytes> {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return Some(Bytes::new());
        }
        let (first, last) = (offset / PAGE_BYTES, (end - 1) / PAGE_BYTES);
        if first == last {
            let (from, to) = (offset % PAGE_BYTES, end - first * PAGE_BYTES);
            let Some(page) = self.pages.get(first as usize) else {
                return Some(Bytes::from_static(&ZERO_PAGE[from as usize..to as usize]));
            };
            if page.unreadable & sectors(from, to) != 0 {
                return None;
            }
            let range = from as usize..to as usize;
            return Some(if page.now.is_empty() {
                Bytes::from_static(&ZERO_PAGE[range])
            } else if range.end <= page.now.len() {
                page.now.slice(range)
            } else {
                Bytes::copy_from_slice(&whole(&page.now)[range])
            });
        }
        let mut out = Vec::with_capacity((end - offset) as usize);
        for number in first..=last {
            let base = number * PAGE_BYTES;
            let (from, to) = (offset.max(base) - base, (end - base).min(PAGE_BYTES));
            let page = self.pages.get(number as usize);
            if page.is_some_and(|page| page.unreadable & sectors(from, to) != 0) {
                return None;
            }
            let content = page.map(|page| &*page.now).unwrap_or_default();
            let (from, to) = (from as usize, to as usize);
            out.extend_from_slice(content.get(from..content.len().min(to)).unwrap_or_default());
            out.resize((base + to as u64 - offset) as usize, 0);
        }
        Some(Bytes::from(out))
    }

    /// Makes the medium equal to what is seen, but for sectors that an earlier sync dropped.
    pub(crate) fn sync(&mut self) {
        for number in self.dirty.drain(..) {
            let page = &mut self.pages[number as usize];
            page.durable = merge(&page.now, &page.durable, page.dropped);
            page.unsynced = 0;
        }
        self.durable_len = self.len;
    }

    /// A sync that failed: what was unsynced counts as clean from now on, and is not on the medium.
    /// Returns the number of sectors.
    pub(crate) fn drop_unsynced(&mut self) -> u64 {
        let mut sectors = 0;
        for number in self.dirty.drain(..) {
            let page = &mut self.pages[number as usize];
            sectors += u64::from(page.unsynced.count_ones());
            page.dropped |= page.unsynced;
            page.unsynced = 0;
        }
        sectors
    }

    /// The power goes: of what was not synced some survives. Returns the numbers of sectors kept
    /// and lost.
    pub(crate) fn lose_power(&mut self, survival: Survival, rng: &mut Rng) -> (u64, u64) {
        let (mut kept, mut lost) = (0, 0);
        if self.len != self.durable_len {
            self.len = self.surviving_len(survival, rng);
        }
        self.durable_len = self.len;
        for page in &mut self.pages {
            if page.unsynced | page.dropped == 0 {
                continue;
            }
            let mut stale = page.dropped;
            for sector in (0..SECTORS_PER_PAGE).filter(|sector| page.unsynced >> sector & 1 == 1) {
                if survival.keeps(rng) {
                    kept += 1;
                } else {
                    stale |= 1 << sector;
                    lost += 1;
                }
            }
            lost += u64::from(page.dropped.count_ones());
            page.durable = merge(&page.now, &page.durable, stale);
            page.now = page.durable.clone();
            (page.unsynced, page.dropped) = (0, 0);
        }
        self.dirty.clear();
        self.forget_beyond_end();
        (kept, lost)
    }

    /// The power goes; a chooser says what survives, by one question for the length and one for
    /// each sector, where the answer makes a difference.
    pub(crate) fn lose_power_choosing(&mut self, chooser: &mut dyn Chooser) {
        let lengths = self.possible_lengths();
        if lengths.len() > 1 {
            self.len = lengths[chooser.choose(lengths.len())];
        }
        self.durable_len = self.len;
        for page in &mut self.pages {
            if page.unsynced | page.dropped == 0 {
                continue;
            }
            let open = page.open_sectors();
            let kept = |sector: &u64| open >> sector & 1 == 1 && chooser.choose(2) == 1;
            let kept =
                (0..SECTORS_PER_PAGE).filter(kept).fold(0, |mask, sector| mask | 1 << sector);
            page.durable = merge(&page.durable, &page.now, kept);
            page.now = page.durable.clone();
            (page.unsynced, page.dropped) = (0, 0);
        }
        self.dirty.clear();
        self.forget_beyond_end();
    }

    /// In how many ways a power loss may leave the file: the product of the answers that
    /// [`Inode::lose_power_choosing`] asks for.
    pub(crate) fn ways_to_lose_power(&self) -> u64 {
        let sectors: u32 = self.pages.iter().map(|page| page.open_sectors().count_ones()).sum();
        let sectors = 1_u64.checked_shl(sectors).unwrap_or(u64::MAX);
        sectors.saturating_mul(self.possible_lengths().len() as u64)
    }

    /// An unsynced length is the old one, one between, or the new one.
    fn possible_lengths(&self) -> Vec<u64> {
        let (low, high) = (self.len.min(self.durable_len), self.len.max(self.durable_len));
        let between = low + (high - low) / SECTOR_BYTES / 2 * SECTOR_BYTES;
        let mut lengths = vec![self.durable_len, between, self.len];
        lengths.dedup();
        lengths
    }

    /// An unsynced length is the old one, the new one, or between.
    fn surviving_len(&self, survival: Survival, rng: &mut Rng) -> u64 {
        match survival {
            Survival::None => self.durable_len,
            Survival::All => self.len,
            Survival::Some { .. } => {
                let (low, high) = (self.len.min(self.durable_len), self.len.max(self.durable_len));
                match rng.below(4) {
                    0 => low,
                    1 => low + (high - low) / SECTOR_BYTES / 2 * SECTOR_BYTES,
                    _ if survival.keeps(rng) => self.len,
                    _ => self.durable_len,
                }
            }
        }
    }

    /// Bytes after the end are zeros, should the file ever grow again.
    fn forget_beyond_end(&mut self) {
        self.pages.truncate(self.len.div_ceil(PAGE_BYTES) as usize);
        let inside = self.len % PAGE_BYTES;
        if let Some(page) = self.pages.get_mut((self.len / PAGE_BYTES) as usize)
            && inside != 0
            && !page.now.is_empty()
        {
            let mut content = whole(&page.now).into_owned();
            content[inside as usize..].fill(0);
            page.now = Bytes::from(content);
            page.durable = page.now.clone();
        }
    }

    /// The numbers of the pages that hold anything.
    pub(crate) fn written_pages(&self) -> Vec<u64> {
        let pages = self.pages.iter().enumerate();
        let pages = pages.filter(|(_, page)| !page.now.is_empty() || !page.durable.is_empty());
        let last = self.len.div_ceil(PAGE_BYTES);
        pages.map(|(number, _)| number as u64).filter(|number| *number < last).collect()
    }

    /// Flips a bit, both on the medium and in memory.
    pub(crate) fn flip_bit(&mut self, offset: u64, bit: u32) {
        let (number, at) = ((offset / PAGE_BYTES) as usize, (offset % PAGE_BYTES) as usize);
        if self.pages.len() <= number {
            self.pages.resize_with(number + 1, Page::default);
        }
        let page = &mut self.pages[number];
        for image in [&mut page.now, &mut page.durable] {
            let mut content = whole(image).into_owned();
            content[at] ^= 1 << bit;
            *image = Bytes::from(content);
        }
    }

    /// Puts other bytes in place of what is stored, both on the medium and in memory. Panics if
    /// they reach beyond the end.
    pub(crate) fn alter(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.len, "{offset} is beyond the end");
        for (at, &byte) in (offset..).zip(bytes) {
            let (number, at) = ((at / PAGE_BYTES) as usize, (at % PAGE_BYTES) as usize);
            if self.pages.len() <= number {
                self.pages.resize_with(number + 1, Page::default);
            }
            let page = &mut self.pages[number];
            for image in [&mut page.now, &mut page.durable] {
                let mut content = whole(image).into_owned();
                content[at] = byte;
                *image = Bytes::from(content);
            }
        }
    }

    /// Makes the sector at `offset` unreadable until it is written again.
    pub(crate) fn make_unreadable(&mut self, offset: u64) {
        let number = (offset / PAGE_BYTES) as usize;
        if self.pages.len() <= number {
            self.pages.resize_with(number + 1, Page::default);
        }
        let from = offset % PAGE_BYTES;
        self.pages[number].unreadable |= sectors(from, from + 1);
    }

    /// Makes every sector readable again.
    pub(crate) fn make_readable(&mut self) {
        for page in &mut self.pages {
            page.unreadable = 0;
        }
    }

    /// Has a sync nothing to do?
    pub(crate) fn is_clean(&self) -> bool {
        self.len == self.durable_len && self.dirty.is_empty()
    }

    /// Is everything that is seen on the medium too?
    pub(crate) fn is_durable(&self) -> bool {
        self.is_clean() && self.pages.iter().all(|page| page.dropped == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(fill: u8, len: usize) -> Bytes {
        Bytes::from(vec![fill; len])
    }

    fn content(inode: &Inode) -> Vec<u8> {
        inode.read(0, u64::MAX).unwrap().to_vec()
    }

    #[test]
    fn what_is_written_anywhere_is_read_back() {
        let mut rng = Rng::seeded(1);
        let mut inode = Inode::zeros(10_000);
        let mut model = vec![0_u8; 10_000];
        for round in 0..500_u64 {
            let (at, len) = (rng.below(20_000), rng.below(9_000) as usize);
            let fill = (round % 251) as u8;
            inode.write(at, &bytes(fill, len));
            let end = at as usize + len;
            if model.len() < end {
                model.resize(end, 0);
            }
            model[at as usize..end].fill(fill);
            let (from, count) = (rng.below(25_000), rng.below(9_000));
            let end = (from + count).min(model.len() as u64);
            let want = if from < end { &model[from as usize..end as usize] } else { &[] };
            assert_eq!(inode.read(from, count).unwrap(), want);
        }
    }

    #[test]
    fn a_power_loss_keeps_what_was_synced_and_any_of_the_rest_by_sectors() {
        let (mut kept_some, mut lost_some) = (false, false);
        for seed in 0..50 {
            let mut rng = Rng::seeded(seed);
            let mut inode = Inode::zeros(0);
            inode.write(0, &bytes(1, 8_192));
            inode.sync();
            inode.write(1_024, &bytes(2, 4_096));
            let (kept, lost) = inode.lose_power(Survival::Some { permille: 500 }, &mut rng);
            assert_eq!(kept + lost, 8);
            (kept_some, lost_some) = (kept_some || kept > 0, lost_some || lost > 0);
            let after = content(&inode);
            assert_eq!((&after[..1_024], &after[5_120..]), (&[1; 1_024][..], &[1; 3_072][..]));
            for sector in after[1_024..5_120].chunks(512) {
                assert!(sector == [1; 512] || sector == [2; 512]);
            }
            assert!(inode.is_durable());
        }
        assert!(kept_some && lost_some);
    }

    #[test]
    fn an_unsynced_length_may_be_lost() {
        let lengths: std::collections::BTreeSet<u64> = (0..200)
            .map(|seed| {
                let mut inode = Inode::zeros(0);
                inode.write(0, &bytes(1, 512));
                inode.sync();
                inode.write(512, &bytes(2, 7_000));
                inode.lose_power(Survival::Some { permille: 500 }, &mut Rng::seeded(seed));
                inode.len()
            })
            .collect();
        assert!(lengths.contains(&512) && lengths.contains(&7_512), "{lengths:?}");
    }

    #[test]
    fn what_a_failed_sync_dropped_is_seen_until_the_power_goes() {
        let mut inode = Inode::zeros(4_096);
        inode.sync();
        inode.write(0, &bytes(7, 512));
        assert_eq!(inode.drop_unsynced(), 1);
        inode.sync();
        assert_eq!(content(&inode)[0], 7);
        assert!(!inode.is_durable());
        inode.lose_power(Survival::Some { permille: 1_000 }, &mut Rng::seeded(1));
        assert_eq!(content(&inode)[0], 0);
    }

    #[test]
    fn a_refilled_file_is_zero_and_its_old_bytes_may_come_back_until_synced() {
        let mut inode = Inode::zeros(0);
        inode.write(0, &bytes(9, 4_096));
        inode.sync();
        inode.refill(8_192);
        assert_eq!(content(&inode), vec![0; 8_192]);
        let mut crashed = inode.clone();
        crashed.lose_power(Survival::None, &mut Rng::seeded(1));
        assert_eq!(content(&crashed), vec![9; 4_096]);
        inode.sync();
        inode.lose_power(Survival::None, &mut Rng::seeded(1));
        assert_eq!(content(&inode), vec![0; 8_192]);
    }

    #[test]
    fn a_bad_sector_cannot_be_read_until_it_is_written() {
        let mut inode = Inode::zeros(4_096);
        inode.make_unreadable(600);
        assert!(inode.read(0, 512).is_some() && inode.read(0, 513).is_none());
        inode.write(512, &bytes(1, 512));
        assert!(inode.read(0, 4_096).is_some());
    }
}
