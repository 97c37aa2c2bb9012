// SPDX-License-Identifier: MIT
// What Rust's standard library does with files: std::fs probes statx() with NULL at the first metadata().
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};

fn main() {
    println!("{:?}", fs::metadata("/nonexistent").map(|_| ()).err());
    println!("{:?}", fs::metadata("/etc/passwd").map(|m| m.is_file()));
    let mut file = fs::OpenOptions::new().create(true).read(true).write(true).open("x").unwrap();
    file.write_all(b"some bytes").unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    println!("{} {}", text, fs::copy("x", "y").unwrap());
    println!("{}", fs::read_dir(".").unwrap().count());
    println!("{:?}", fs::canonicalize("x").unwrap().file_name());
    let child = std::process::Command::new("echo").arg("child").output().unwrap();
    println!("{:?}", child);
    std::thread::spawn(|| println!("thread")).join().unwrap();
}
