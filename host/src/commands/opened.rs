//! The store of a command: what the configuration names, or the embedded one that is in the data directory.

use sqlx::postgres::PgConnectOptions;

use super::{Failure, shown};
use crate::cli::StoreArgs;
use crate::config::Config;
use crate::store::Store;
use crate::store::embedded::{self, Embedded};

pub(super) fn configured(args: &StoreArgs) -> Result<Config, Failure> {
    Ok(Config::load(args.config.as_deref(), &[("data_dir", args.data_dir.clone())])?)
}

/// A store for a command, and the embedded server where the command had to start it.
pub(super) struct OpenStore {
    pub(super) store: Store,
    pub(super) started: Option<Embedded>,
}

impl OpenStore {
    /// The store that is there. None is created: in the wrong directory all would seem to be gone, or done.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        let Some((options, started)) = place(config).await? else {
            return Err(Failure::new(format!("no store in {} yet", shown(&config.data_dir))).hint(
                "`tollgate dev`, `serve` and `migrate` create one; or name another place with --data-dir, or set DATABASE_URL",
            ));
        };
        Self::at(options, started).await
    }

    /// The same, or a new one, for what a first gate is made ready with. It says so: no gate may ever look there.
    pub(super) async fn open_or_create(config: &Config) -> Result<Self, Failure> {
        if let Some((options, started)) = place(config).await? {
            return Self::at(options, started).await;
        }
        let created = start_embedded(config).await?;
        eprintln!("Created a store, an embedded PostgreSQL in {}", shown(created.cluster_dir()));
        Self::at(created.connect_options(), Some(created)).await
    }

    async fn at(options: PgConnectOptions, started: Option<Embedded>) -> Result<Self, Failure> {
        match Store::open(options).await {
            Ok(store) => Ok(Self { store, started }),
            Err(error) => {
                if let Some(started) = started {
                    started.stop().await?;
                }
                Err(error.into())
            }
        }
    }

    pub(super) async fn close(self) -> Result<(), Failure> {
        self.store.close().await;
        if let Some(started) = self.started {
            started.stop().await?;
        }
        Ok(())
    }
}

/// `DATABASE_URL`; else the embedded server of a gate that runs; else one that this command starts, on the cluster that is
/// there. `None` where none is.
pub(super) async fn place(config: &Config) -> Result<Option<(PgConnectOptions, Option<Embedded>)>, Failure> {
    if let Some(options) = external(config)? {
        return Ok(Some((options, None)));
    }
    if let Some(options) = embedded::running(&config.data_dir)? {
        return Ok(Some((options, None)));
    }
    if !embedded::exists(&config.data_dir)? {
        return Ok(None);
    }
    let started = start_embedded(config).await?;
    Ok(Some((started.connect_options(), Some(started))))
}

pub(super) fn external(config: &Config) -> Result<Option<PgConnectOptions>, Failure> {
    let Some(url) = config.database_url.as_deref() else { return Ok(None) };
    // The driver takes any scheme, and would look for PostgreSQL there.
    let is_ours = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    let parsed = if is_ours { url.parse().ok() } else { None };
    // The address holds a password: an error must not repeat it.
    parsed.map(Some).ok_or_else(|| {
        Failure::from(config.fault("database_url", "no address of a PostgreSQL database"))
            .hint("it looks like postgres://user:password@host:5432/database")
    })
}

pub(super) async fn start_embedded(config: &Config) -> Result<Embedded, Failure> {
    Ok(Embedded::start(&config.data_dir, &config.surroundings.search_path).await?)
}
