//! Who keeps his place, and who does not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

/// Whoever calls is accepted in his turn.
struct Calls(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Calls {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        (self.0.recv().await.expect("a caller"), ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A listener with so many places, and how to call it.
fn with_places(all: usize) -> (Places<Calls>, impl Fn() -> DuplexStream) {
    let (call, calls) = mpsc::unbounded_channel();
    let caller = move || {
        let (theirs, ours) = duplex(64);
        call.send(ours).expect("a listener");
        theirs
    };
    (Places { listener: Calls(calls), free: Arc::new(Semaphore::new(all)), all }, caller)
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_who_says_much_and_asks_nothing_gives_his_place_up_and_who_is_answered_keeps_it() {
    let (mut places, call) = with_places(20);
    let mut theirs = Vec::new();
    for _ in 0..20 {
        theirs.push(call());
        let (mut connection, ()) = places.accept().await;
        tokio::spawn(async move {
            // A letter is no question, and a mark is one.
            while let Ok(byte) = connection.read_u8().await {
                if byte == b'?' {
                    connection.write_u8(b'!').await.expect("a caller");
                }
            }
        });
    }
    let speaks = |mut connection: DuplexStream, byte: u8| {
        tokio::spawn(async move {
            while connection.write_u8(byte).await.is_ok() {
                sleep(Duration::from_secs(5)).await;
            }
        })
    };
    let asks = speaks(theirs.pop().expect("a caller"), b'?');
    let _drip: Vec<_> = theirs.into_iter().map(|caller| speaks(caller, b'a')).collect();
    let _late = call();
    timeout(Duration::from_secs(51), places.accept()).await.expect("a place");
    assert!(!asks.is_finished(), "he has lost his place");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_what_he_is_answered_gives_his_place_up() {
    let (mut places, call) = with_places(20);
    let _theirs = call();
    let (mut connection, ()) = places.accept().await;
    let over = timeout(Duration::from_secs(311), connection.write_all(&[0; 1_000])).await.expect("an end");
    assert_eq!(over.expect_err("no room").kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_comes_late_is_answered() {
    let (mut places, call) = with_places(20);
    let mut theirs = call();
    let (mut connection, ()) = places.accept().await;
    let asks = async {
        sleep(Duration::from_secs(296)).await;
        theirs.write_u8(b'?').await.expect("a place");
        theirs.read_u8().await.expect("an answer")
    };
    let answers = async {
        connection.read_u8().await.expect("a question");
        // While it is answered, it is looked whether the caller is still there.
        let gone = timeout(Duration::from_secs(30), connection.read_u8()).await;
        assert!(gone.is_err(), "{gone:?}");
        connection.write_u8(b'!').await.expect("a caller");
    };
    assert_eq!(tokio::join!(asks, answers).0, b'!');
}

#[tokio::test(start_paused = true)]
async fn where_there_is_room_a_connection_may_be_silent_for_minutes_and_not_for_ever() {
    let (mut places, call) = with_places(20);
    let _theirs = call();
    let (mut connection, ()) = places.accept().await;
    let silent = timeout(Duration::from_secs(299), connection.read_u8()).await;
    assert!(silent.is_err(), "{silent:?}");
    let over = timeout(Duration::from_secs(12), connection.read_u8()).await.expect("an end");
    assert_eq!(over.expect_err("no byte").kind(), io::ErrorKind::TimedOut);
}
