//! A load of requests over keep-alive connections, as light as it can be: on a small machine it shares the cores with
//! what it measures.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Runs before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// What one connection sends next, given the body of the last answer.
pub(super) type Next = Arc<dyn Fn(&mut Turn) -> Vec<u8> + Send + Sync>;

/// Where a connection stands.
pub(super) struct Turn {
    /// Which connection.
    pub(super) connection: usize,
    /// How many requests it has sent.
    pub(super) sent: u64,
    /// The body of its last answer.
    pub(super) answer: Vec<u8>,
}

/// What came of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Answers a second.
    pub(super) per_second: u64,
    /// Half of the answers came within this.
    pub(super) p50: Duration,
    /// 99 of 100 answers came within this.
    pub(super) p99: Duration,
    /// Answers with another status than the expected ones.
    pub(super) unexpected: u64,
}

/// Puts `connections` to work for `time`, on threads of their own.
pub(super) fn run(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    statuses: &'static [u16],
    next: &Next,
) -> io::Result<Figures> {
    let threads = connections.min(2);
    let started = Instant::now() + WARM_UP;
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let next = next.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let local = tokio::task::LocalSet::new();
                let tasks: Vec<_> = (thread..connections)
                    .step_by(threads)
                    .map(|connection| {
                        local.spawn_local(drive(address, connection, next.clone(), started, time, statuses))
                    })
                    .collect();
                runtime.block_on(local);
                let mut all = (Vec::new(), 0);
                for task in tasks {
                    let (micros, unexpected) = runtime.block_on(task).map_err(io::Error::other)??;
                    all.0.extend(micros);
                    all.1 += unexpected;
                }
                Ok::<_, io::Error>(all)
            })
        })
        .collect();
    let (mut micros, mut unexpected) = (Vec::new(), 0);
    for worker in workers {
        let (some, wrong) = worker.join().map_err(|_| io::Error::other("a load thread panicked"))??;
        micros.extend(some);
        unexpected += wrong;
    }
    micros.sort_unstable();
    let at = |share: usize| micros.get((micros.len() * share / 100).min(micros.len().saturating_sub(1))).copied();
    let quantile = |share| Duration::from_micros(at(share).unwrap_or_default());
    let count = u64::try_from(micros.len()).unwrap_or_default();
    Ok(Figures {
        per_second: count * 1000 / u64::try_from(time.as_millis()).unwrap_or(1).max(1),
        p50: quantile(50),
        p99: quantile(99),
        unexpected,
    })
}

/// Microseconds of each answer within the counted time, and how many had another status.
async fn drive(
    address: SocketAddr,
    connection: usize,
    next: Next,
    started: Instant,
    time: Duration,
    statuses: &'static [u16],
) -> io::Result<(Vec<u64>, u64)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut turn = Turn { connection, sent: 0, answer: Vec::new() };
    let (mut micros, mut unexpected, mut buffer) = (Vec::with_capacity(1 << 16), 0, Vec::with_capacity(4096));
    loop {
        let request = next(&mut turn);
        let sent = Instant::now();
        if sent >= started + time {
            return Ok((micros, unexpected));
        }
        stream.write_all(&request).await?;
        let got = answer(&mut stream, &mut buffer, &mut turn.answer).await?;
        turn.sent += 1;
        if sent >= started {
            micros.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
            unexpected += u64::from(!statuses.contains(&got));
        }
    }
}

/// Reads one answer: its status, and the body into `body`.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>, body: &mut Vec<u8>) -> io::Result<u16> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer with a length");
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end]).map_err(|_| malformed())?;
            let status = head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or_else(malformed)?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(Ok(0), str::parse).map_err(|_| malformed())?;
            let (from, to) = (end + 4, end + 4 + length);
            while buffer.len() < to {
                read(stream, buffer).await?;
            }
            body.clear();
            body.extend_from_slice(&buffer[from..to]);
            buffer.drain(..to);
            return Ok(status);
        }
        read(stream, buffer).await?;
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    if stream.read_buf(buffer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// A `POST` with a JSON body.
pub(super) fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
