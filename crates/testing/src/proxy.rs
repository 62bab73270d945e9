//! A proxy that can cut every connection that goes through it.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Passes connections on to a port of this machine.
pub struct Proxy {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// Listens on a free port.
    pub fn to(target: u16) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let kept = open.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody there: the client sees its connection closed, as it would without us.
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                join(client, server, &kept);
            }
        });
        Ok(Self { port, open })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection; answers how many.
    pub fn cut(&self) -> usize {
        let cut: Vec<TcpStream> = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        cut.iter().filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count()
    }
}

fn join(client: TcpStream, server: TcpStream, open: &Mutex<Vec<TcpStream>>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(from_client), Ok(from_server), Ok(kept)) = (client.try_clone(), server.try_clone(), client.try_clone())
    else {
        return;
    };
    open.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    thread::spawn(move || pump(from_client, server));
    thread::spawn(move || pump(from_server, client));
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
