//! A proxy that can cut every connection that goes through it, also between a COMMIT and its answer.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// Passes connections on to a port of this machine.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Vec<TcpStream>>,
    /// How many answers to COMMIT are still to be lost, and how many were.
    to_lose: AtomicUsize,
    lost: AtomicUsize,
}

/// What Postgres is sent to commit a transaction: a simple query.
const COMMIT: &[u8] = b"COMMIT\0";

impl Proxy {
    /// Listens on a free port.
    pub fn to(target: u16) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let shared: Arc<Shared> = Arc::default();
        let kept = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody there: the client sees its connection closed, as it would without us.
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                join(client, server, &kept);
            }
        });
        Ok(Self { port, shared })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection; answers how many.
    pub fn cut(&self) -> usize {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let cut: Vec<TcpStream> = std::mem::take(&mut *open);
        cut.iter().filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count()
    }

    /// Passes the next COMMITs on, so that they are done, and cuts the connection instead of passing on their answers.
    pub fn lose_commits(&self, count: usize) {
        self.shared.to_lose.store(count, Ordering::SeqCst);
    }

    /// How many answers to COMMIT were lost so far.
    pub fn commits_lost(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Whether the answer to what is sent here is to be lost.
    fn loses(&self, sent: &[u8]) -> bool {
        sent.windows(COMMIT.len()).any(|part| part == COMMIT)
            && self.to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

fn join(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(from_client), Ok(from_server), Ok(kept)) = (client.try_clone(), server.try_clone(), client.try_clone())
    else {
        return;
    };
    shared.open.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    let doomed = Arc::new(AtomicBool::new(false));
    let (for_answers, for_questions) = ((doomed.clone(), shared.clone()), shared.clone());
    let dooms = move |sent: &[u8]| {
        if for_questions.loses(sent) {
            doomed.store(true, Ordering::SeqCst);
        }
        true
    };
    let passes = move |_: &[u8]| {
        let lost = for_answers.0.load(Ordering::SeqCst);
        for_answers.1.lost.fetch_add(usize::from(lost), Ordering::SeqCst);
        !lost
    };
    thread::spawn(move || pump(from_client, server, dooms));
    thread::spawn(move || pump(from_server, client, passes));
}

/// Passes on what comes, as long as it may.
fn pump(mut from: TcpStream, mut to: TcpStream, mut may: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || !may(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
