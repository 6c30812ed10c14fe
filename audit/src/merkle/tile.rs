//! Tiles: 256 hashes of one level, and their paths (C2SP tlog-tiles).

use std::fmt::Write as _;

/// Hashes of a full tile.
pub const TILE_WIDTH: u64 = 256;

/// A tile: hash `i` of it is the root of the `256^level` leaves that begin at `(index * 256 + i) * 256^level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0 holds leaf hashes.
    pub level: u8,
    /// From the left.
    pub index: u64,
}

/// How many complete hashes level `level` of tiles has in a tree of `size` leaves.
#[must_use]
pub fn tiles_of(size: u64, level: u8) -> u64 {
    size.checked_shr(u32::from(level) * 8).unwrap_or(0)
}

/// What a path under `/tile/` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TilePath {
    /// A level of hashes, or `None` for entries.
    pub level: Option<u8>,
    /// From the left.
    pub index: u64,
    /// 1 to 256 hashes or entries.
    pub width: u64,
}

impl TilePath {
    /// Parses what follows `/tile/`: `<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]`, in the one form the specification has.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = match level {
            "entries" => None,
            digits => Some(decimal(digits).filter(|level| *level < 64)?),
        };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, decimal::<u64>(width).filter(|width| (1..TILE_WIDTH).contains(width))?),
            None => (rest, TILE_WIDTH),
        };
        let mut index = 0u64;
        let groups: Vec<&str> = number.split('/').collect();
        let (last, leading) = groups.split_last()?;
        for (place, group) in
            leading.iter().copied().map(|group| group.strip_prefix('x')).chain([Some(*last)]).enumerate()
        {
            let group = group.filter(|group| group.len() == 3 && group.bytes().all(|byte| byte.is_ascii_digit()))?;
            let value: u64 = group.parse().ok()?;
            if place == 0 && value == 0 && !leading.is_empty() {
                return None;
            }
            index = index.checked_mul(1_000)?.checked_add(value)?;
        }
        Some(Self { level, index, width })
    }
}

/// A decimal without sign or leading zeros.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

impl std::fmt::Display for TilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.level {
            Some(level) => write!(f, "{level}/")?,
            None => f.write_str("entries/")?,
        }
        let mut groups = String::new();
        let mut index = self.index;
        let mut parts = vec![index % 1_000];
        while index >= 1_000 {
            index /= 1_000;
            parts.push(index % 1_000);
        }
        for (place, part) in parts.iter().enumerate().rev() {
            let separator = if place == 0 { "" } else { "/" };
            let mark = if place == 0 { "" } else { "x" };
            write!(groups, "{mark}{part:03}{separator}")?;
        }
        f.write_str(&groups)?;
        if self.width < TILE_WIDTH {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}
