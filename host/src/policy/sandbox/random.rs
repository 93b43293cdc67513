//! Randomness that follows from the request: the same request, the same bytes, on every host and in every version.

use sha2::{Digest, Sha256};
use uuid::Uuid;
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};

use super::Refused;

/// At once.
pub(super) const MOST_BYTES: u64 = 64 << 10;

/// SHA-256 of the request's id and a counter, block by block.
pub(super) struct Randomness {
    id: Uuid,
    blocks: u64,
    /// What is left of the last block.
    left: Vec<u8>,
}

impl Randomness {
    pub(super) fn of(id: Uuid) -> Self {
        Self { id, blocks: 0, left: Vec::new() }
    }

    fn bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        let within = usize::try_from(count).ok().filter(|_| count <= MOST_BYTES);
        let count = within.ok_or(Refused::Random(count))?;
        while self.left.len() < count {
            let block = Sha256::new_with_prefix(self.id.as_bytes()).chain_update(self.blocks.to_le_bytes()).finalize();
            self.left.extend_from_slice(&block);
            self.blocks += 1;
        }
        Ok(self.left.drain(..count).collect())
    }

    fn number(&mut self) -> wasmtime::Result<u64> {
        let bytes = self.bytes(8)?;
        Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

impl random::Host for Randomness {
    fn get_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        self.bytes(count)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.number()
    }
}

impl insecure::Host for Randomness {
    fn get_insecure_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        self.bytes(count)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.number()
    }
}

impl insecure_seed::Host for Randomness {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.number()?, self.number()?))
    }
}
