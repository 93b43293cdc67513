//! Tollgate from the outside: HTTP, SQL, the command line and its logs, against a real PostgreSQL.
//!
//! Each test has a host on port 0, a database of its own and a clock that it sets; see [`harness`].

mod harness;

mod access;
mod admin;
mod adoption;
mod again;
mod alert_channels;
mod alerts;
mod authoring;
mod authz;
mod breaker;
mod canary;
mod check;
mod clients;
mod command_line;
mod concurrency;
mod costs;
mod crash;
mod decisions;
mod denial;
mod deploy;
mod dialects;
mod doctor;
mod enforcement;
mod explain;
mod explore;
mod faults;
mod hostile;
mod input;
mod languages;
mod layers;
mod locks;
mod logs;
mod metrics;
mod model;
mod openapi;
mod operations;
mod operator;
mod outages;
mod outlook;
mod policies;
mod policy_bench;
mod power;
mod reference;
mod reservations;
mod retry_after;
mod routes;
mod scopes;
mod storms;
mod thresholds;
mod tiers;
mod wasi;
mod watching;
mod windows;
