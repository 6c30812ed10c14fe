//! What a seed means: which faults, after how many decisions.

use std::fmt;

use signet_spool::Durability;

/// Producers that keep order, and audit services on the one log.
pub const PRODUCERS: usize = 2;
pub const SERVICES: usize = 2;
/// Decisions of each producer of a run; the hostile one makes fewer.
pub const DECISIONS: u64 = 1_500;
pub const HOSTILE_DECISIONS: u64 = 600;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    KillProducer(usize),
    /// SIGKILL: ingestion and sequencing are one process.
    KillService(usize),
    /// SIGKILL of both at once.
    KillServices,
    /// SIGKILL, then a restart.
    KillPostgres,
    /// Every connection of producers is cut, and none is taken for so many milliseconds.
    CutNetwork(u64),
    /// No byte is left on the disk of spools, state files and PostgreSQL for so many milliseconds.
    FillDisk(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillProducer(index) => write!(out, "kill producer {index}"),
            Self::KillService(index) => write!(out, "kill service {index}"),
            Self::KillServices => write!(out, "kill both services"),
            Self::KillPostgres => write!(out, "kill PostgreSQL"),
            Self::CutNetwork(ms) => write!(out, "cut the network for {ms} ms"),
            Self::FillDisk(ms) => write!(out, "fill the disk for {ms} ms"),
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// What happens once so many decisions were asked for, ascending.
    pub faults: Vec<(u64, Fault)>,
    pub durability: [Durability; PRODUCERS],
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let durabilities = [Durability::Disk, Durability::Disk, Durability::Sync, Durability::Memory];
        let durability = std::array::from_fn(|_| durabilities[random.usize(..durabilities.len())]);
        let total = DECISIONS * PRODUCERS as u64;
        let mut faults: Vec<(u64, Fault)> = (0..random.usize(3..=5))
            .map(|_| {
                let fault = match random.u8(..8) {
                    0 | 1 => Fault::KillProducer(random.usize(..PRODUCERS)),
                    2 | 3 => Fault::KillService(random.usize(..SERVICES)),
                    4 => Fault::KillServices,
                    5 => Fault::KillPostgres,
                    6 => Fault::CutNetwork(random.u64(50..600)),
                    _ => Fault::FillDisk(random.u64(50..400)),
                };
                (random.u64(total / 20..total * 9 / 10), fault)
            })
            .collect();
        faults.sort_by_key(|(after, _)| *after);
        Self { seed, faults, durability }
    }
}

/// Whether this user may mount: only then can a disk be full.
pub fn may_mount() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
        && std::process::Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success())
}
