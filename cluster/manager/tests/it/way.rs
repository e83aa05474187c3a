//! A way to a manager that can fall silent, as when a network forgets a connection.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Passes connections on to a port.
#[derive(Debug)]
pub(crate) struct Way {
    address: SocketAddr,
    silenced: watch::Sender<u32>,
}

impl Way {
    pub(crate) async fn to(port: u16) -> Way {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silenced, silent) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut silent = silent.clone();
                silent.mark_unchanged();
                tokio::spawn(async move {
                    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
                    let Ok(mut far) = far else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        // Neither passed on nor ended.
                        _ = silent.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Way { address, silenced }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing more goes over what is connected now; who dials anew gets through.
    pub(crate) fn fall_silent(&self) {
        self.silenced.send_modify(|count| *count += 1);
    }
}
