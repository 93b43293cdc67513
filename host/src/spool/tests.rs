mod steps;

use std::fs;

use super::book::opening::lock;
use super::frame::framed;
use super::*;

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tollgate-spool-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

async fn filled(dir: &Path, records: &[&str]) -> PathBuf {
    let (spool, _) = Spool::open(dir, 1 << 20).expect("a spool");
    for record in records {
        spool.append(record.as_bytes().to_vec()).await.expect("room");
    }
    let path = spool.path().to_owned();
    drop(spool);
    until_let_go(&path);
    path
}

/// Returns when whoever had the file has let go of it: a spool's thread ends a moment after it.
fn until_let_go(file: &Path) {
    while lock(&mut Local, file.to_owned()).expect("a file").is_none() {
        std::thread::yield_now();
    }
}

async fn texts(spool: &Spool) -> Vec<String> {
    let (records, _) = spool.read(Mark::default()).await.expect("records");
    records.into_iter().map(|record| String::from_utf8(record).expect("a text")).collect()
}

fn open(dir: &Path) -> (Spool, Found) {
    Spool::open(dir, 1 << 20).expect("a spool")
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_in_its_order() {
    let dir = dir("order");
    filled(&dir, &["one", "two", "three"]).await;
    let (spool, found) = open(&dir);
    assert_eq!(
        (found, texts(&spool).await),
        (Found { records: 3, ..Found::default() }, vec!["one".into(), "two".into(), "three".into()])
    );
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn a_torn_tail_costs_only_the_record_that_nobody_was_told_of() {
    let dir = dir("torn");
    let path = filled(&dir, &["one", "two"]).await;
    let whole = fs::read(&path).expect("a file");
    for cut in 1..framed(b"two").len() {
        fs::write(&path, &whole[..whole.len() - cut]).expect("a file");
        let (spool, found) = open(&dir);
        assert_eq!((found.records, found.damaged, found.torn), (1, 0, true), "{cut}");
        spool.append(b"three".to_vec()).await.expect("room");
        assert_eq!(texts(&spool).await, ["one", "three"], "{cut}");
        drop(spool);
        fs::remove_dir_all(&dir).expect("a folder");
        fs::create_dir_all(&dir).expect("a folder");
    }
}

#[tokio::test]
async fn a_flipped_bit_sets_its_record_aside_and_no_other() {
    let dir = dir("flipped");
    let path = filled(&dir, &["one", "two", "three"]).await;
    let whole = fs::read(&path).expect("a file");
    let second = framed(b"one").len()..framed(b"one").len() + framed(b"two").len();
    for at in second {
        fs::remove_dir_all(&dir).expect("a folder");
        fs::create_dir_all(&dir).expect("a folder");
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).expect("a file");
        let (spool, found) = open(&dir);
        assert_eq!((found.damaged, texts(&spool).await), (1, vec!["one".into(), "three".into()]), "byte {at}");
        assert!(path.with_extension("damaged").exists());
    }
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn beyond_its_limit_nothing_is_kept_and_nothing_is_lost() {
    let dir = dir("full");
    let (spool, _) = Spool::open(&dir, 3 * framed(b"one").len() as u64).expect("a spool");
    for _ in 0..3 {
        spool.append(b"one".to_vec()).await.expect("room");
    }
    assert!(matches!(spool.append(b"one".to_vec()).await, Err(SpoolError::Full)));
    assert_eq!(spool.records(), 3);
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn it_is_finished_only_when_everything_was_carried_out() {
    let dir = dir("finish");
    let (spool, _) = open(&dir);
    for record in [b"one", b"two"] {
        spool.append(record.to_vec()).await.expect("room");
    }
    let (_, both) = spool.read(Mark::default()).await.expect("records");
    spool.append(b"three".to_vec()).await.expect("room");
    assert!(!spool.finish(both, Vec::new(), || ()).await.expect("no error"));
    let (third, all) = spool.read(both).await.expect("records");
    assert_eq!(third, [b"three"]);
    assert!(spool.finish(all, Vec::new(), || ()).await.expect("no error"));
    assert!(matches!(spool.append(b"late".to_vec()).await, Err(SpoolError::NotNeeded)));
    spool.accept();
    spool.append(b"again".to_vec()).await.expect("room");
    assert_eq!(texts(&spool).await, ["again"]);
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn however_much_there_is_it_is_read_piece_by_piece() {
    let dir = dir("pieces");
    let (spool, _) = Spool::open(&dir, 4 * PIECE).expect("a spool");
    let records: Vec<Vec<u8>> = (0..=u8::MAX).map(|n| vec![n; 60_000]).collect();
    for record in &records {
        spool.append(record.clone()).await.expect("room");
    }
    let (mut all, mut pieces, mut mark) = (Vec::new(), 0, Mark::default());
    loop {
        let (piece, next) = spool.read(mark).await.expect("records");
        assert!(piece.iter().map(Vec::len).sum::<usize>() as u64 <= PIECE);
        if piece.is_empty() {
            break;
        }
        all.extend(piece);
        assert!(all.len() == records.len() || !spool.replace(next, Vec::new()).await.expect("no error"));
        (pieces, mark) = (pieces + 1, next);
    }
    assert_eq!((all == records, pieces, mark.records()), (true, 4, records.len()));
    assert!(spool.finish(mark, vec![b"waits".to_vec()], || ()).await.expect("no error"));
    assert_eq!(texts(&spool).await, ["waits"]);
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn what_was_damaged_since_it_was_opened_ends_a_read() {
    let dir = dir("rotten");
    let path = filled(&dir, &["one", "two"]).await;
    let (spool, _) = open(&dir);
    let mut bytes = fs::read(&path).expect("a file");
    for at in 0..bytes.len() {
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).expect("a file");
        let to_the_end = async {
            // What is whole may come first.
            let (_, next) = spool.read(Mark::default()).await?;
            spool.read(next).await
        };
        to_the_end.await.expect_err("a damaged record");
        bytes[at] ^= 0x10;
    }
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn two_hosts_of_one_directory_have_a_file_each_and_the_next_takes_over_what_one_left() {
    let dir = dir("two");
    let (first, _) = open(&dir);
    let (second, _) = open(&dir);
    assert_ne!(first.path(), second.path());
    second.append(b"left".to_vec()).await.expect("room");
    let path = second.path().to_owned();
    drop((first, second));
    until_let_go(&path);
    until_let_go(&dir.join("1.spool"));
    let (third, found) = open(&dir);
    assert_eq!((found.records, texts(&third).await), (1, vec!["left".to_owned()]));
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn who_has_read_takes_nothing_out_that_came_after_somebody_else_did() {
    let dir = dir("era");
    let (spool, _) = open(&dir);
    spool.append(b"one".to_vec()).await.expect("room");
    let (_, first) = spool.read(Mark::default()).await.expect("records");
    let (_, second) = spool.read(Mark::default()).await.expect("records");
    assert!(spool.finish(second, Vec::new(), || ()).await.expect("no error"));
    // As many as there were, and others.
    spool.append_always(b"two".to_vec(), MOST_WAITING).await.expect("room");
    spool.read(first).await.expect_err("another era");
    spool.replace(first, Vec::new()).await.expect_err("another era");
    spool.finish(first, Vec::new(), || ()).await.expect_err("another era");
    assert_eq!(texts(&spool).await, ["two"]);
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn what_an_outage_has_left_takes_no_room_from_what_waits_for_something_else() {
    let dir = dir("left");
    let (spool, _) = open(&dir);
    spool.accept();
    let waits = |record: &'static str| spool.append_always(record.into(), 2);
    for record in ["one", "two", "three"] {
        spool.append(record.into()).await.expect("room");
    }
    assert!(matches!(waits("not yet").await, Err(SpoolError::TooManyWait)));
    let (records, end) = spool.read(Mark::default()).await.expect("records");
    assert!(spool.finish(end, records, || ()).await.expect("no error"));
    waits("four").await.expect("room");
    waits("five").await.expect("room");
    assert!(matches!(waits("six").await, Err(SpoolError::TooManyWait)));
    // What is in the books now makes no more room than there was.
    let (records, end) = spool.read(Mark::default()).await.expect("records");
    assert!(spool.replace(end, records[3..].to_vec()).await.expect("no error"));
    assert_eq!(texts(&spool).await, ["four", "five"]);
    fs::remove_dir_all(dir).expect("a folder");
}
