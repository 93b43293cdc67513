//! What can break.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KilledHost,
    RefusedForAll,
    RefusedForOne,
    SilentForAll,
    SilentForOne,
    LostReplies,
    SlowForAll,
    ReadOnly,
    NoMoreConnections,
    StoppedDatabase,
    LostPrimary,
    FullDisk,
    ClockAhead,
    ClockBehind,
    ClocksInOutage,
}

impl Fault {
    pub const ALL: [Self; 15] = [
        Self::KilledHost,
        Self::RefusedForAll,
        Self::RefusedForOne,
        Self::SilentForAll,
        Self::SilentForOne,
        Self::LostReplies,
        Self::SlowForAll,
        Self::ReadOnly,
        Self::NoMoreConnections,
        Self::StoppedDatabase,
        Self::LostPrimary,
        Self::FullDisk,
        Self::ClockAhead,
        Self::ClockBehind,
        Self::ClocksInOutage,
    ];

    pub const fn needs_clocks(self) -> bool {
        matches!(self, Self::ClockAhead | Self::ClockBehind | Self::ClocksInOutage)
    }

    pub const fn needs_small_disk(self) -> bool {
        matches!(self, Self::FullDisk)
    }

    pub const fn what(self) -> &'static str {
        match self {
            Self::KilledHost => "a host is killed (SIGKILL) and started again",
            Self::RefusedForAll => "the database refuses both hosts",
            Self::RefusedForOne => "the database refuses one host",
            Self::SilentForAll => "the database is silent to both hosts",
            Self::SilentForOne => "the database is silent to one host",
            Self::LostReplies => "statements are carried out, and their replies are lost",
            Self::SlowForAll => "every reply of the database comes a tenth of a second later",
            Self::ReadOnly => "the database takes no writes",
            Self::NoMoreConnections => "the database has no more connections",
            Self::StoppedDatabase => "the database is stopped at once (SIGQUIT) and started again",
            Self::LostPrimary => "the primary is killed for good, and its synchronous standby promoted",
            Self::FullDisk => "the database refuses both hosts, and the disk of one is full",
            Self::ClockAhead => "a host's clock jumps ahead by hours, and back",
            Self::ClockBehind => "a host's clock jumps back by hours, and ahead",
            Self::ClocksInOutage => "the database refuses both hosts, and their clocks jump apart meanwhile",
        }
    }
}
