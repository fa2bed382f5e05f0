//! The example application: answers every request with its version and the name of the pod it runs in.
//! One file, standard library only, so that `rustc` alone makes a static binary of it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

const PORT: u16 = 8080;

fn main() -> std::io::Result<()> {
    let version = std::env::var("VERSION").unwrap_or_else(|_| "v1".into());
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let body = format!("This is {version} running in pod {}\n", host.trim());
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("Kubia server starting...");
    for stream in listener.incoming() {
        let (stream, body) = (stream?, body.clone());
        thread::spawn(move || answer(stream, &body));
    }
    Ok(())
}

/// Reads one request's head and answers it; a client that goes away is no error of ours.
fn answer(mut stream: TcpStream, body: &str) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reading).lines();
    let Some(Ok(request)) = lines.next() else { return };
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
    }
    println!("Received request: {request}");
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
}
