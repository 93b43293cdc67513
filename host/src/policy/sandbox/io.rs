//! Streams and pollables that never wait: each operation is tried once, and one that is not over then is a failure.
//!
//! The crate's own run on the host's runtime, where they would block a thread of it for as long as the guest likes, or
//! panic, since guests run on one.

use std::pin::pin;

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::poll_noop;
use wasmtime_wasi_io::bindings::wasi::io::poll::{Host as Poll, HostPollable as Pollable};
use wasmtime_wasi_io::bindings::wasi::io::streams::{
    Host as Streams, HostInputStream as Input, HostOutputStream as Output,
};

use super::Refused;

/// Where streams and pollables are kept.
pub(super) struct Io<'a>(pub(super) &'a mut ResourceTable);

impl HasData for Io<'static> {
    type Data<'a> = Io<'a>;
}

fn at_once<T>(operation: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    poll_noop(pin!(operation)).unwrap_or_else(|| Err(Refused::Wait.into()))
}

fn streamed_at_once<T>(operation: impl Future<Output = StreamResult<T>>) -> StreamResult<T> {
    poll_noop(pin!(operation)).unwrap_or_else(|| Err(StreamError::Trap(Refused::Wait.into())))
}

impl poll::Host for Io<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        at_once(Poll::poll(self.0, pollables))
    }
}

impl poll::HostPollable for Io<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        at_once(Pollable::ready(self.0, pollable))
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        at_once(Pollable::block(self.0, pollable))
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        Pollable::drop(self.0, pollable)
    }
}

impl streams::Host for Io<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> wasmtime::Result<streams::StreamError> {
        Ok(Streams::convert_stream_error(self.0, error)?.into())
    }
}

impl streams::HostOutputStream for Io<'_> {
    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        at_once(Output::drop(self.0, stream))
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        Output::check_write(self.0, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        Output::write(self.0, stream, bytes)
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        streamed_at_once(Output::blocking_write_and_flush(self.0, stream, bytes))
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<DynOutputStream>, count: u64) -> StreamResult<()> {
        streamed_at_once(Output::blocking_write_zeroes_and_flush(self.0, stream, count))
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        Output::subscribe(self.0, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, count: u64) -> StreamResult<()> {
        Output::write_zeroes(self.0, stream, count)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        Output::flush(self.0, stream)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        streamed_at_once(Output::blocking_flush(self.0, stream))
    }

    fn splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        count: u64,
    ) -> StreamResult<u64> {
        Output::splice(self.0, to, from, count)
    }

    fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        count: u64,
    ) -> StreamResult<u64> {
        streamed_at_once(Output::blocking_splice(self.0, to, from, count))
    }
}

impl streams::HostInputStream for Io<'_> {
    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        at_once(Input::drop(self.0, stream))
    }

    fn read(&mut self, stream: Resource<DynInputStream>, count: u64) -> StreamResult<Vec<u8>> {
        Input::read(self.0, stream, count)
    }

    fn blocking_read(&mut self, stream: Resource<DynInputStream>, count: u64) -> StreamResult<Vec<u8>> {
        streamed_at_once(Input::blocking_read(self.0, stream, count))
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, count: u64) -> StreamResult<u64> {
        Input::skip(self.0, stream, count)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, count: u64) -> StreamResult<u64> {
        streamed_at_once(Input::blocking_skip(self.0, stream, count))
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        Input::subscribe(self.0, stream)
    }
}
