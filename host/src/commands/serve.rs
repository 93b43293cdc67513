//! `serve` and `dev`: the gate itself.

mod told;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use chrono::TimeDelta;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::opened::{external, start_embedded};
use super::{Failure, shown};
use crate::alert::Channels;
use crate::api::App;
use crate::cli::ServeArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::gate::{Gate, Outages};
use crate::policy::build::build;
use crate::policy::{Folder, PolicyError, Watch, Workshop};
use crate::server::{self, Listener};
use crate::spool::Spool;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::telemetry;
use crate::worker::alerts::Alerting;

/// Serves with policies that are built already.
pub(super) async fn serve(args: ServeArgs) -> Result<(), Failure> {
    run(load(args)?, false).await
}

/// Builds the policies, then serves them.
pub(super) async fn dev(args: ServeArgs, sources: PathBuf) -> Result<(), Failure> {
    let config = load(args)?;
    if !sources.join("Cargo.toml").exists() {
        return Err(Failure::new(format!("no policy sources in {}", sources.display()))
            .hint("run `tollgate dev` in a checkout, or `tollgate serve --policies DIR` with built policies"));
    }
    eprintln!("Building the policies in {} …", sources.display());
    let (out, home) = (config.policies.clone(), config.surroundings.home.clone());
    let built = tokio::task::spawn_blocking(move || build(&[sources], &out, home.as_deref()))
        .await
        .map_err(|error| Failure::new(error.to_string()))??;
    let names: Vec<&str> = built.iter().map(|policy| policy.name.as_str()).collect();
    eprintln!("  policies  {} in {}", names.join(", "), shown(&config.policies));
    run(config, true).await
}

fn load(args: ServeArgs) -> Result<Config, Failure> {
    let flags = [
        ("listen", args.listen),
        ("policies", args.policies),
        ("log_level", args.log_level),
        ("store_failure", args.store_failure),
        ("data_dir", args.store.data_dir),
    ];
    let config = Config::load(args.store.config.as_deref(), &flags)?;
    config.check_listen()?;
    Ok(config)
}

async fn run(config: Config, is_dev: bool) -> Result<(), Failure> {
    let clock = Clock::System;
    let log = telemetry::to_stdout(&config.log_level, clock.clone());
    let _written_at_the_end = log.map_err(|fault| config.fault("log_level", fault))?;
    // From here on: whoever stops us stops the embedded store, too.
    let mut shutdown = Box::pin(shutdown()?);
    let external = external(&config)?;
    let embedded = if external.is_some() {
        None
    } else {
        // A new one takes a second, and one that recovers from a crash can take minutes.
        tokio::select! {
            embedded = start_embedded(&config) => Some(embedded?),
            () = &mut shutdown => return Ok(()),
        }
    };
    let served = run_on(
        &config,
        external.or(embedded.as_ref().map(Embedded::connect_options)),
        embedded.as_ref(),
        clock,
        shutdown,
        is_dev,
    )
    .await;
    let stopped = match embedded {
        Some(embedded) => embedded.stop().await.map_err(Failure::from),
        None => Ok(()),
    };
    if is_dev && served.is_ok() {
        eprintln!("Stopped.");
    }
    served.and(stopped)
}

async fn run_on(
    config: &Config,
    options: Option<sqlx::postgres::PgConnectOptions>,
    embedded: Option<&Embedded>,
    clock: Clock,
    mut shutdown: Pin<Box<impl Future<Output = ()> + Send + 'static>>,
    is_dev: bool,
) -> Result<(), Failure> {
    let options = options.ok_or_else(|| Failure::new("no store"))?;
    server::take_all_descriptors();
    let store = Store::new(options);
    let reach = async {
        store.migrate().await?;
        store.clock_difference(clock.now()).await
    };
    // It may wait for another host's migration.
    let reached = tokio::select! {
        reached = Box::pin(reach) => reached,
        () = &mut shutdown => return Ok(()),
    };
    match reached {
        Ok(ahead) if ahead.abs() > TimeDelta::seconds(1) => {
            let ahead = ahead.num_milliseconds();
            tracing::warn!(
                databaseAheadMs = ahead,
                "The database's clock differs from this host's by more than a second"
            );
        }
        Ok(_) => {}
        // Starting while it is down is no different from losing it afterwards.
        Err(error) if error.is_outage() && embedded.is_none() => {
            tracing::error!(reason = %error, mode = ?config.store_failure, "Store down");
            store.health().is_lost(&error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(embedded) = embedded {
        let age = if embedded.created() { "new" } else { "found" };
        eprintln!("  store     PostgreSQL {} in {} ({age})", embedded.version(), shown(embedded.cluster_dir()));
    }
    // It may compile for half a minute.
    let policies = tokio::select! {
        policies = open_policies(config, &clock) => policies?,
        () = &mut shutdown => return Ok(()),
    };
    let bind = |error| {
        Failure::new(format!("cannot listen on {}: {error}", config.listen)).hint(told::why_not(&config.listen, &error))
    };
    let listener = Listener::bind(&config.listen).await.map_err(bind)?;
    let address = listener.address(&config.listen).map_err(bind)?;
    let outages = Outages::new(config.store_failure, open_spool(config)?);
    let gate = Gate::start(store.clone(), policies.clone(), config.enforcement, clock.clone(), outages);
    let kind = if embedded.is_some() { "embedded PostgreSQL" } else { "PostgreSQL" };
    let greeting = told::initialized(store.clone(), config.enforcement, kind);
    let greeting = if store.health().is_down() {
        Some(tokio::spawn(greeting))
    } else {
        greeting.await;
        None
    };
    eprintln!("  gate      {address}");
    if is_dev {
        eprintln!("{}", told::first_steps(&address));
    }
    let watching = watch(&policies, &clock)?;
    let app = Arc::new(App { gate, store: store.clone(), policies, clock, access: config.access.clone() });
    let channels = Channels::open(&config.alerts.settings).map_err(Failure::new)?;
    let alerting = Arc::new(Alerting { channels, enforcement: config.enforcement, extras: config.alerts.extras });
    let served = server::serve(listener, app, alerting, config.decisions_keep_days, shutdown).await;
    watching.abort();
    if let Some(greeting) = greeting {
        greeting.abort();
    }
    store.close().await;
    served.map_err(|error| Failure::new(format!("the listener broke: {error}")))
}

/// Where costs are kept while the store cannot be reached.
fn open_spool(config: &Config) -> Result<Spool, Failure> {
    let dir = config.data_dir.join("spool");
    let opened = Spool::open(&dir, config.spool_mib << 20);
    let (spool, found) = opened.map_err(|error| {
        Failure::new(format!("cannot write the spool in {}: {error}", shown(&dir)))
            .hint("costs are kept there while the store cannot be reached; choose another place with --data-dir")
    })?;
    if found.records > 0 {
        tracing::warn!(records = found.records, "An earlier outage has left records that are not in the books yet");
    }
    if found.damaged > 0 {
        let beside = spool.path().with_extension("damaged");
        tracing::error!(damaged = found.damaged, file = %beside.display(), "Records of the spool are damaged");
    }
    Ok(spool)
}

async fn open_policies(config: &Config, clock: &Clock) -> Result<Arc<Folder>, Failure> {
    let (dir, now) = (config.policies.clone(), clock.now());
    let workshop = Workshop::of(config.surroundings.program.clone(), &config.data_dir);
    let folder = tokio::task::spawn_blocking(move || Folder::open(dir, workshop, now))
        .await
        .map_err(|error| Failure::new(error.to_string()))?
        .map_err(|error: PolicyError| {
            Failure::from(error)
                .hint(format!("build some with `tollgate policy build policies --out {}`", shown(&config.policies)))
        })?;
    Ok(Arc::new(folder))
}

/// Watches the policy folder, and looks there at once on SIGHUP.
fn watch(policies: &Arc<Folder>, clock: &Clock) -> Result<JoinHandle<()>, Failure> {
    let watch = Watch::start(policies.clone(), clock.clone())
        .map_err(|error| Failure::new(format!("cannot watch the policy folder: {error}")))?;
    let mut hangups =
        signal(SignalKind::hangup()).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    Ok(tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            watch.look();
        }
    }))
}

/// Ready when the process is asked to stop.
fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("Stopping");
    })
}
