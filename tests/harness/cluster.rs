//! One embedded PostgreSQL for the whole test process, and in it a database for each test.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Row as _, ValueRef as _};
use tollgate::store;
use tollgate::store::embedded::Embedded;

use super::Scratch;
use super::guests::repository;

/// Migrated once; each test's database is a copy.
const TEMPLATE: &str = "tollgate_template";

struct Cluster {
    options: PgConnectOptions,
    /// Ends with the process.
    _server: Embedded,
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    blocking(|| async {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let server = Embedded::start(&dir, &path).await.expect("an embedded PostgreSQL");
        let options = server.connect_options().database("postgres");
        // What an earlier run has left.
        let old = rows(&options, "SELECT datname FROM pg_database WHERE datname LIKE 'tollgate\\_%'").await;
        for database in old {
            run(&options, &format!("DROP DATABASE {} WITH (FORCE)", database["datname"])).await;
        }
        run(&options, &format!("CREATE DATABASE {TEMPLATE}")).await;
        store::migrate(&options.clone().database(TEMPLATE)).await.expect("the migrations");
        Cluster { options, _server: server }
    })
});

/// One row, as `psql` would show it: names and texts.
pub type Row = BTreeMap<String, String>;

/// A database that is dropped with its last user.
#[derive(Clone)]
pub struct Database(Arc<Named>);

struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        // A failed test's stays for its reader, until the next run.
        if !std::thread::panicking() {
            let drop = format!("DROP DATABASE {} WITH (FORCE)", self.0);
            blocking(|| run(&CLUSTER.options, &drop));
        }
    }
}

impl Database {
    /// At this version.
    pub async fn migrated() -> Self {
        Self::copy_of(TEMPLATE).await
    }

    /// With nothing in it.
    pub async fn empty() -> Self {
        Self::copy_of("template0").await
    }

    /// As the version before this migration, `0008`, had it.
    pub async fn before(migration: &str) -> Self {
        let database = Self::empty().await;
        let mut earlier: Vec<_> = fs::read_dir(repository().join("migrations"))
            .expect("the migrations")
            .map(|file| file.expect("a file").path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_str().is_some_and(|name| name < migration)))
            .collect();
        earlier.sort();
        let folder = Scratch::new();
        for path in &earlier {
            fs::copy(path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        let mut connection = database.options().connect().await.expect("a connection");
        let schema = "CREATE SCHEMA copilot_internal; SET search_path = copilot_internal";
        sqlx::raw_sql(schema).execute(&mut connection).await.expect("a schema");
        let migrator = sqlx::migrate::Migrator::new(folder.path()).await.expect("the migrations");
        migrator.run(&mut connection).await.expect("the earlier version");
        connection.close().await.expect("a closed connection");
        database.run(include_str!("../../host/src/store/application_logs.sql")).await;
        database
    }

    async fn copy_of(template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        super::choose_cryptography();
        let name = format!("tollgate_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        run(&CLUSTER.options, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        Self(Arc::new(Named(name)))
    }

    pub fn options(&self) -> PgConnectOptions {
        CLUSTER.options.clone().database(&self.0.0)
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        let socket = CLUSTER.options.get_socket().expect("a socket").to_str().expect("a text").replace('/', "%2F");
        let user = CLUSTER.options.get_username();
        // The server asks for no password; the gate has one to hide all the same.
        format!("postgres://{user}:{}@{socket}/{}", super::CANARY, self.0.0)
    }

    /// Runs statements as they stand.
    pub async fn run(&self, sql: &str) {
        run(&self.options(), sql).await;
    }

    /// Runs statements that must fail; the database's words.
    pub async fn refuses(&self, sql: &str) -> String {
        let mut connection = self.options().connect().await.expect("a connection");
        let refused = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
        refused.expect_err("a refusal").to_string()
    }

    /// The rows of a query as it stands.
    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        rows(&self.options(), sql).await
    }

    /// The one value of a query.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        assert_eq!((rows.len(), rows.first().map(Row::len)), (1, Some(1)), "{sql}: {rows:?}");
        rows.into_iter().flatten().map(|(_, value)| value).collect()
    }

    /// Gives every override an end that no host can read, which the table takes from nobody.
    pub async fn holds_what_cannot_be_read(&self) {
        let constraint = "cost_quotas_override_ends_before_the_year_10000";
        self.run(&format!("ALTER TABLE copilot_internal.cost_quotas DROP CONSTRAINT {constraint}")).await;
        let unreadable =
            "UPDATE copilot_internal.cost_quotas SET override_limit_usd = 500, override_until = 'infinity'";
        self.run(unreadable).await;
    }

    /// A quota, `tenant acme-corp llm day`, in its current window.
    pub async fn quota(&self, key: &str, limit: &str, spend: &str) {
        let key: Vec<String> = key.split(' ').map(|word| format!("'{word}'")).collect();
        self.run(&format!(
            "INSERT INTO copilot_internal.cost_quotas (scope, scope_id, resource_type, period, limit_usd, current_spend_usd)
             VALUES ({}, {limit}, {spend})",
            key.join(", ")
        ))
        .await;
    }
}

async fn run(options: &PgConnectOptions, sql: &str) {
    rows(options, sql).await;
}

async fn rows(options: &PgConnectOptions, sql: &str) -> Vec<Row> {
    let mut connection = options.clone().disable_statement_logging().connect().await.expect("a connection");
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("a closed connection");
    let text = |row: &sqlx::postgres::PgRow, column: &sqlx::postgres::PgColumn| {
        let value = row.try_get_raw(column.ordinal()).expect("a column");
        let text = if value.is_null() { "null" } else { value.as_str().expect("a text") };
        (column.name().to_owned(), text.to_owned())
    };
    rows.iter().map(|row| row.columns().iter().map(|column| text(row, column)).collect()).collect()
}

/// Runs a future to its end on a thread of its own, wherever the caller is.
fn blocking<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(work())
        };
        scope.spawn(run).join().expect("no panic on the thread")
    })
}
