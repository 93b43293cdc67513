//! Tollgate: the gate in front of your spending.
//!
//! The rooms, from the ground up; `ARCHITECTURE.md` has the map.

// words
pub mod causes;
pub mod clock;
mod contained;
pub mod decimal;
pub mod decision;
pub mod metrics;
pub mod money;
pub mod nearest;
pub mod origin;
pub mod period;
pub mod quota;
// work rooms: they never import each other
pub mod alert;
pub mod policy;
pub mod spool;
pub mod store;
// the hallway
pub mod gate;
// what happens without a request
pub mod worker;
// the doors
pub mod api;
pub mod cli;
pub mod commands;
pub mod config;
pub mod server;
pub mod telemetry;
pub mod tiers;
