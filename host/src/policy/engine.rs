//! The engine: compiles policies and runs them, each decision in a fresh instance, within limits of
//! time, memory and size of answer that the guest cannot lift.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{
    Config, Engine as Wasmtime, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store,
    WasmBacktraceDetails,
};

use super::anatomy::Anatomy;
use super::bindings::{self, Description, PolicyPre};
use super::compile::Compiler;
pub use super::failure::PolicyError;
use super::failure::{NO_DECIDER, classify, unfit};
use super::imports;
use super::limits::{
    self, Guard, LARGEST_ANSWER, LARGEST_MEMORY_MIB, LARGEST_STACK, LARGEST_TABLE, MOST_HANDLES, TICK,
};
pub use super::limits::{Limits, Wasi};
use super::sandbox::{Moment, Sandbox};
use crate::decision::{Facts, Verdict};

/// Instances that can be alive at once: one for each batch in flight, and those under test.
const MOST_INSTANCES: u32 = 32;
/// Modules in one component: Python's has 38.
const MOST_CORE_INSTANCES: u32 = 64;

/// Compiles and runs policies. One per process.
pub struct Engine {
    wasmtime: Arc<Wasmtime>,
}

/// A compiled policy, checked against the world; any number of threads can run it at once.
pub struct Compiled {
    pub(super) pre: PolicyPre<Guard>,
    pub(super) limits: Limits,
    digest: Arc<str>,
}

impl Engine {
    /// An engine, and the thread whose ticks interrupt guests; it ends with the engine.
    ///
    /// # Errors
    /// The machine does not give the address space that the pool of memories needs.
    pub fn new() -> Result<Self, PolicyError> {
        Self::of(&config())
    }

    /// An engine that counts instructions, which no policy serves from: counting makes its code slower.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub(super) fn counting() -> Result<Self, PolicyError> {
        let mut config = config();
        config.consume_fuel(true);
        Self::of(&config)
    }

    fn of(config: &Config) -> Result<Self, PolicyError> {
        let load = |error: wasmtime::Error| PolicyError::Load(format!("{error:#}"));
        let wasmtime = Arc::new(Wasmtime::new(config).map_err(load)?);
        let ticked: Weak<Wasmtime> = Arc::downgrade(&wasmtime);
        std::thread::Builder::new()
            .name("policy-ticks".into())
            .spawn(move || {
                while let Some(engine) = ticked.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(|error| PolicyError::Load(format!("no thread for the policies' clock: {error}")))?;
        Ok(Self { wasmtime })
    }

    /// Compiles a component in this process and checks that it exports the world and imports nothing.
    ///
    /// # Errors
    /// [`PolicyError::Load`] with a sentence that an author can act on.
    pub fn compile(&self, bytes: &[u8], limits: Limits) -> Result<Compiled, PolicyError> {
        self.compile_by(&Compiler::default(), bytes, limits)
    }

    /// As [`Engine::compile`], where and as `workshop` does it.
    ///
    /// # Errors
    /// As [`Engine::compile`]; [`PolicyError::Unready`] where it could not be done now.
    pub fn compile_by(&self, workshop: &Compiler, bytes: &[u8], limits: Limits) -> Result<Compiled, PolicyError> {
        fits(bytes, limits)?;
        self.link(&self.component(workshop, bytes)?, bytes, limits)
    }

    /// What a component is made of, and what [`Engine::compile`] says of it; compiled once for both.
    pub(super) fn inspect(
        &self,
        workshop: &Compiler,
        bytes: &[u8],
        limits: Limits,
    ) -> (Result<Anatomy, PolicyError>, Result<Compiled, PolicyError>) {
        match self.component(workshop, bytes) {
            Ok(component) => {
                let compiled = fits(bytes, limits).and_then(|()| self.link(&component, bytes, limits));
                (Ok(Anatomy::of(&component, bytes)), compiled)
            }
            Err(error) => (Err(error.clone()), Err(error)),
        }
    }

    fn component(&self, workshop: &Compiler, bytes: &[u8]) -> Result<Component, PolicyError> {
        let load = PolicyError::Load;
        match bytes.get(..8) {
            Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => {}
            Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {
                return Err(load(
                    "a core module, not a component; `tollgate policy build` makes a component of a crate".to_owned(),
                ));
            }
            _ => return Err(load("not a WebAssembly component".to_owned())),
        }
        workshop.component(&self.wasmtime, bytes)
    }

    fn link(&self, component: &Component, bytes: &[u8], limits: Limits) -> Result<Compiled, PolicyError> {
        let pre = PolicyPre::new(imports::link(&self.wasmtime, component, limits.wasi)?)
            .map_err(|error| PolicyError::Load(format!("{NO_DECIDER}: {error:#}")))?;
        Ok(Compiled { pre, limits, digest: digest(bytes).into() })
    }
}

/// Whether a file is no larger than its operator accepts.
fn fits(bytes: &[u8], limits: Limits) -> Result<(), PolicyError> {
    let largest = limits.max_size_mib as usize * (1 << 20);
    if bytes.len() <= largest {
        return Ok(());
    }
    Err(PolicyError::Load(format!(
        "{} bytes, more than the {} MiB that a policy may have (max_size_mib)",
        bytes.len(),
        limits.max_size_mib
    )))
}

/// `sha256:` and 64 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)))
}

/// Two digits for each byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

impl Compiled {
    /// Of the component's bytes.
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// What the policy says of itself.
    ///
    /// # Errors
    /// The guest failed.
    pub fn describe(&self) -> Result<Description, PolicyError> {
        self.session().call(Moment::default(), |policy, store| policy.tollgate_policy_decider().call_describe(store))
    }

    /// The policy's own opinion of its settings.
    ///
    /// # Errors
    /// [`PolicyError::Load`] with all that is wrong with them, or the guest failed.
    pub fn validate_settings(&self, settings: &[(String, String)]) -> Result<(), PolicyError> {
        let pairs = bindings::pairs(settings);
        self.session()
            .call(Moment::default(), |policy, store| {
                policy.tollgate_policy_decider().call_validate_settings(store, &pairs)
            })?
            .map_err(|faults| PolicyError::Load(faults.join("; ")))
    }

    /// An instance for decisions of one tenant within one batch, never for two.
    pub(super) fn session(&self) -> Session<'_> {
        Session { compiled: self, instance: None }
    }

    /// One decision, in an instance that has seen nothing else and is gone afterwards.
    ///
    /// # Errors
    /// The guest failed, or its answer is no verdict on these facts.
    pub fn decide(&self, facts: &Facts, settings: &[(String, String)]) -> Result<Verdict, PolicyError> {
        self.session().decide(facts, settings)
    }

    pub(super) fn store(&self, moment: Moment) -> Store<Guard> {
        let sandbox = match self.limits.wasi {
            Wasi::Deny => None,
            Wasi::Sandbox => Some(Box::new(Sandbox::new(moment, &self.digest))),
        };
        let mut store = Store::new(self.pre.engine(), Guard::new(self.limits, sandbox));
        store.limiter(|guard| guard);
        store.epoch_deadline_callback(|context| Ok(context.data().at_deadline()));
        store.set_hostcall_fuel(LARGEST_ANSWER);
        store.set_max_component_handles(MOST_HANDLES);
        store
    }
}

/// An instance that answers several calls; after one that fails it is replaced.
pub(super) struct Session<'a> {
    compiled: &'a Compiled,
    instance: Option<(bindings::Policy, Store<Guard>)>,
}

impl Session<'_> {
    /// As [`Compiled::decide`], in this session's instance.
    pub(super) fn decide(&mut self, facts: &Facts, settings: &[(String, String)]) -> Result<Verdict, PolicyError> {
        let settings = bindings::pairs(settings);
        let moment = Moment { at: facts.request.at, id: facts.request.id };
        let answer = bindings::with_facts(facts, &settings, |facts| {
            self.call(moment, |policy, store| policy.tollgate_policy_decider().call_decide(store, facts))
        })?;
        bindings::verdict(answer, facts).map_err(PolicyError::BadAnswer)
    }

    fn call<T>(
        &mut self,
        moment: Moment,
        run: impl FnOnce(&bindings::Policy, &mut Store<Guard>) -> wasmtime::Result<T>,
    ) -> Result<T, PolicyError> {
        let limits = self.compiled.limits;
        let deadline = limits::ticks(limits.timeout);
        let instance = self.instance.take();
        // A panic below is a fault of the engine, not of the guest; the request must not die of it.
        let called = catch_unwind(AssertUnwindSafe(|| {
            let (policy, mut store) = if let Some((policy, mut store)) = instance {
                store.data_mut().begin();
                store.set_epoch_deadline(deadline);
                (policy, store)
            } else {
                let mut store = self.compiled.store(moment);
                // Before the instance exists: start functions are guest code too.
                store.set_epoch_deadline(deadline);
                let policy = self.compiled.pre.instantiate(&mut store).map_err(|error| unfit(&error, limits))?;
                (policy, store)
            };
            let answer = run(&policy, &mut store).map_err(|error| classify(&error, limits))?;
            Ok((answer, (policy, store)))
        }));
        let (answer, instance) = called.unwrap_or_else(|_| Err(PolicyError::Trap("the engine panicked".to_owned())))?;
        // A sandbox is of one request: its clock and its randomness would be those of an earlier one.
        self.instance = (limits.wasi == Wasi::Deny).then_some(instance);
        Ok(answer)
    }
}

/// An engine that compiles for [`Engine`]'s, and runs nothing: it reserves no memory for instances.
pub(super) fn compiling_engine() -> wasmtime::Result<Wasmtime> {
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Wasmtime::new(&config)
}

fn config() -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(MOST_INSTANCES)
        .total_core_instances(MOST_INSTANCES * MOST_CORE_INSTANCES)
        .total_memories(MOST_INSTANCES * 2)
        .total_tables(MOST_INSTANCES * 4)
        .max_core_instances_per_component(MOST_CORE_INSTANCES)
        .max_memories_per_component(4)
        .max_tables_per_component(8)
        .table_elements(LARGEST_TABLE)
        .max_memory_size(LARGEST_MEMORY_MIB as usize * (1 << 20))
        // A small guest's one page and its table are wiped by hand, which is cheaper than giving them back to the system.
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(16 << 10)
        .max_unused_warm_slots(MOST_INSTANCES);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .epoch_interruption(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .max_wasm_stack(LARGEST_STACK)
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false);
    config
}
