//! Compiling in a child: what is kept, and what a file may cost.

use std::fs;
use std::time::Duration;

use tollgate::policy::Workshop;
use tollgate::policy::compile::CompileLimits;

use super::{digest, error, of_the_tests};
use crate::harness::{Scratch, guests};

/// How often the program that compiles was started.
fn counting(data: &Scratch) -> (Workshop, impl Fn() -> usize) {
    use std::os::unix::fs::PermissionsExt as _;
    let (program, count) = (data.join("counting"), data.join("count"));
    let script = format!("#!/bin/sh\necho x >> {}\nexec {} \"$@\"\n", count.display(), env!("CARGO_BIN_EXE_tollgate"));
    fs::write(&program, script).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let workshop = Workshop {
        program: Some(program),
        compiled: Some(data.join("compiled")),
        last_good: Some(data.join("last-good")),
        ..Workshop::default()
    };
    (workshop, move || fs::read_to_string(&count).map_or(0, |text| text.lines().count()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compiled_is_kept_and_what_was_altered_is_compiled_again() {
    let (files, data) = (guests::own_folder(), Scratch::new());
    let open = || {
        let (workshop, count) = counting(&data);
        drop(guests::open_with(files.path().to_owned(), workshop));
        count()
    };
    assert_eq!([open(), open()], [1, 1]);
    for entry in fs::read_dir(data.join("compiled")).expect("a folder").flatten() {
        let mut code = fs::read(entry.path()).expect("a file");
        let middle = code.len() / 2;
        code[middle] ^= 1;
        fs::write(entry.path(), code).expect("a file");
    }
    assert_eq!([open(), open()], [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_will_not_compile_is_compiled_once_and_logged_once() {
    let (files, data) = (guests::own_folder(), Scratch::new());
    let (workshop, count) = counting(&data);
    let folder = guests::open_with(files.path().to_owned(), workshop);
    let before = count();
    let broken = &of_the_tests("hostile")[..9_000];
    files.write("odd.wasm", broken);
    for _ in 0..5 {
        let generation = folder.reload(crate::harness::instant(crate::harness::NOON)).expect("a folder");
        assert!(error(&generation, "odd").is_some_and(|error| error.starts_with("does not compile")));
    }
    assert_eq!(count(), before + 1);
}

/// A component with one function of `size` bytes: additions, one after the other.
fn bomb(size: usize) -> Vec<u8> {
    fn leb(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).expect("seven bits"));
        bytes
    }
    let section = |id: u8, content: &[u8]| [&[id][..], &leb(content.len()), content].concat();
    // (func (param i32) (result i32) local.get 0 (local.get 0 i32.add)… end)
    let mut code = vec![0, 0x20, 0];
    code.extend([0x20, 0, 0x6a].repeat(size / 3));
    code.push(0x0b);
    let function = [&[1][..], &leb(code.len()), &code].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x01\x60\x01\x7f\x01\x7f"),
        section(3, b"\x01\0"),
        section(10, &function),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_bomb_ends_in_the_child_with_a_sentence_and_the_host_goes_on() {
    let files = guests::own_folder();
    let tight = |memory_mib, cpu_seconds, wall| Workshop {
        limits: CompileLimits { memory_mib, cpu_seconds, wall },
        ..guests::workshop()
    };
    files.write("odd.wasm", bomb(3 << 20));
    let patient = Duration::from_mins(2);
    for (workshop, wanted) in [
        (tight(4_096, 1, patient), "takes more than 1 s of processor time to compile; make it smaller"),
        (tight(300, 60, patient), "takes more than 300 MiB of memory to compile; make it smaller"),
        (tight(4_096, 60, Duration::from_millis(300)), "not compiled within 300 ms"),
    ] {
        // Compiled before, so that the limits are there for the bomb alone.
        drop(guests::open(guests::SHIPPED.clone()));
        let folder = guests::open_with(files.path().to_owned(), workshop);
        assert_eq!(error(&folder.generation(), "odd").as_deref(), Some(wanted));
        assert!(digest(&folder.generation(), "standard").is_some());
    }
}
