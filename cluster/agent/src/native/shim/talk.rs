//! What the shim and its child say to each other until the task's program runs.
//!
//! A pair of sockets that keep message borders. The child speaks in JSON, the shim answers each
//! message that waits for it with one byte. The child's end is closed by the program's start.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// The longest message; what is longer is cut by its sender.
const MAX_MESSAGE_BYTES: usize = 32 << 10;

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The kernel refuses a fresh `/proc`: try without a pid namespace. Ends the child.
    ProcRefused,
    /// The specification cannot be carried out. Ends the child.
    Rejected(String),
    /// Something failed. Ends the child.
    Failed(String),
    /// What to know about the view. With a descriptor of the files' directory if their pages must
    /// be locked; waits.
    View { notes: Vec<String> },
    /// The program is about to be started, by the process that sends this; waits.
    Armed,
}

/// A message with what came along.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) descriptor: Option<OwnedFd>,
    /// The sender, in this process's numbering.
    pub(super) pid: Option<u32>,
}

/// The shim's and the child's end.
pub(super) fn pair() -> io::Result<(ShimEnd, ChildEnd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_passcred(&ours, true)?;
    Ok((ShimEnd(ours), ChildEnd(theirs)))
}

#[derive(Debug)]
pub(super) struct ShimEnd(OwnedFd);

impl ShimEnd {
    /// The child's next message; `None` when its end is closed.
    pub(super) fn receive(&self) -> io::Result<Option<Received>> {
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::io::retry_on_intr(|| recvmsg(&self.0, &mut parts, &mut control, flags))?;
        let (mut descriptor, mut pid) = (None, None);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(mut rights) => descriptor = rights.next(),
                RecvAncillaryMessage::ScmCredentials(sender) => {
                    pid = Some(sender.pid.as_raw_nonzero().get().cast_unsigned());
                }
                _ => {}
            }
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes[..got.bytes])?;
        Ok(Some(Received {
            message,
            descriptor,
            pid,
        }))
    }

    /// Lets the child go on.
    pub(super) fn go_on(&self) -> io::Result<()> {
        rustix::net::send(&self.0, b"g", SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct ChildEnd(OwnedFd);

impl ChildEnd {
    /// Says something that needs no answer. Nothing can be done when the shim is gone.
    pub(super) fn say(&self, message: &Message) {
        let _ = self.send(message, None);
    }

    /// Says something and waits until the shim lets it go on.
    ///
    /// # Errors
    /// When the shim is gone.
    pub(super) fn ask(
        &self,
        message: &Message,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        self.send(message, descriptor)?;
        let mut answer = [0; 1];
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.0, &mut answer, RecvFlags::empty())
        })?;
        if got.0 == 1 {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn send(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        sendmsg(
            self.0.as_fd(),
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}
