//! Standard input and output as the two ends of a connection, for ssh's `ProxyCommand`.
//!
//! Two threads with blocking calls, one for each direction: neither waits for the other. Not tokio, for two reasons:
//! standard input and output can be regular files, which epoll refuses; and tokio needs descriptors in non-blocking mode,
//! while `O_NONBLOCK` belongs to the open file, not to the descriptor. Other processes, such as the shell, have the same
//! file open, and their reads and writes would fail with `EAGAIN`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::client::say::reason;

/// Bytes moved at once.
const CHUNK: usize = 64 * 1024;

/// Standard input and output as files of their own, without the standard library's buffers. Standard output itself
/// becomes `/dev/null`, so that closing the file is what its reader sees as the end.
pub(crate) fn standard_ends() -> io::Result<(File, File)> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    Ok((input, output))
}

/// Which end of it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    /// Standard input or output.
    #[error("standard input or output cannot be used ({})", reason(.0))]
    StandardEnds(io::Error),
    /// The connection.
    #[error("the connection broke ({})", reason(.0))]
    Connection(io::Error),
}

/// Copies both ways until both are done. The end of `input` half-closes the connection, and where the other side
/// half-closes it, `output` is closed.
///
/// A connection that is reset, or an `output` that nobody reads, ends it all at once. A closed `output` is no error:
/// ssh ends like this. Nor is a server that closes before it has read everything.
pub(crate) fn relay(stream: &TcpStream, input: File, output: File) -> Result<(), RelayError> {
    let towards = stream.try_clone().map_err(RelayError::Connection)?;
    let (tell, told) = mpsc::channel();
    // Not joined: it may hang in a read of the terminal when the connection is long gone.
    std::thread::spawn(move || match copy(input, &towards) {
        Ok(()) => drop(towards.shutdown(Shutdown::Write)),
        Err(why) => {
            let _ = tell.send(why);
            // So that the other way ends too.
            let _ = towards.shutdown(Shutdown::Both);
        }
    });
    match copy(stream, output) {
        Err(Broken::To(why)) if why.kind() == ErrorKind::BrokenPipe => return Ok(()),
        Err(Broken::To(why)) => return Err(RelayError::StandardEnds(why)),
        Err(Broken::From(why)) => return Err(RelayError::Connection(why)),
        Ok(()) => {}
    }
    // The server sends nothing more, but may still read: wait until our input ends too, or the server closes.
    wait_for(stream, PollFlags::empty()).map_err(RelayError::Connection)?;
    // The kernel reports a reset once, to the first call on the socket. If that was the other thread, the read here
    // ended without an error, and the other thread sends it. Otherwise SO_ERROR still has it.
    let why = match stream.take_error().map_err(RelayError::Connection)? {
        Some(why) => Broken::To(why),
        None => match told.recv() {
            Ok(why) => why,
            Err(mpsc::RecvError) => return Ok(()),
        },
    };
    match why {
        Broken::From(why) => Err(RelayError::StandardEnds(why)),
        Broken::To(why) if why.kind() == ErrorKind::BrokenPipe => Ok(()),
        Broken::To(why) => Err(RelayError::Connection(why)),
    }
}

/// Which end a copy could not go on with.
enum Broken {
    From(io::Error),
    To(io::Error),
}

/// Copies each piece as it comes. Consumes both ends, which closes them if they are owned.
#[expect(
    clippy::indexing_slicing,
    reason = "nobody reads more than there is room for, or writes more than there is"
)]
fn copy(mut from: impl Read + AsFd, mut to: impl Write + AsFd) -> Result<(), Broken> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(why) => {
                wait_or_fail(why, &from, PollFlags::POLLIN).map_err(Broken::From)?;
                continue;
            }
        };
        let mut left = &chunk[..len];
        while !left.is_empty() {
            match to.write(left) {
                Ok(len) => left = &left[len..],
                Err(why) => wait_or_fail(why, &to, PollFlags::POLLOUT).map_err(Broken::To)?,
            }
        }
    }
}

/// The parent process may have left a descriptor in non-blocking mode: then wait.
fn wait_or_fail(why: io::Error, fd: &impl AsFd, flags: PollFlags) -> io::Result<()> {
    match why.kind() {
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::WouldBlock => wait_for(fd, flags),
        _ => Err(why),
    }
}

/// Waits for `flags`, an error or a hang-up.
fn wait_for(fd: &impl AsFd, flags: PollFlags) -> io::Result<()> {
    let mut fds = [PollFd::new(fd.as_fd(), flags)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    struct Relayed {
        /// The far end of the connection.
        server: TcpStream,
        /// Write here what the relay reads.
        input: File,
        /// Read here what the relay writes.
        output: File,
        relay: thread::JoinHandle<Result<(), RelayError>>,
    }

    fn relayed() -> Relayed {
        let (relay_input, input) = nix::unistd::pipe().unwrap();
        Relayed { input: input.into(), ..relayed_from(relay_input.into()) }
    }

    /// With an input of its own; the one returned leads nowhere.
    fn relayed_from(relay_input: File) -> Relayed {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (output, relay_output) = nix::unistd::pipe().unwrap();
        let relay = thread::spawn(move || relay(&client, relay_input, relay_output.into()));
        let input = OpenOptions::new().write(true).open("/dev/null").unwrap();
        Relayed { server, input, output: output.into(), relay }
    }

    fn read_to_end(mut from: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_server_that_is_told_the_end_can_still_answer() {
        let Relayed { mut server, mut input, output, relay } = relayed();
        input.write_all(b"question").unwrap();
        drop(input);
        assert_eq!(read_to_end(&server), b"question");
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(read_to_end(output), b"answer");
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn a_server_that_has_said_all_can_still_be_told_more() {
        let Relayed { mut server, mut input, output, relay } = relayed();
        server.write_all(b"greeting").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(output), b"greeting");
        input.write_all(b"more").unwrap();
        drop(input);
        assert_eq!(read_to_end(&server), b"more");
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn both_ways_at_once_do_not_wait_for_each_other() {
        let Relayed { server, mut input, output, relay } = relayed();
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let (there, back) = (bytes.clone(), bytes.clone());
        let mut server_writes = server.try_clone().unwrap();
        let feed = thread::spawn(move || input.write_all(&there).unwrap());
        let answer = thread::spawn(move || {
            server_writes.write_all(&back).unwrap();
            server_writes.shutdown(Shutdown::Write).unwrap();
        });
        // Nobody reads here until all is written there: a relay with one loop for both ways would stop.
        let at_server = thread::spawn(move || read_to_end(server));
        feed.join().unwrap();
        assert_eq!(at_server.join().unwrap(), bytes);
        assert_eq!(read_to_end(output), bytes);
        answer.join().unwrap();
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn a_reader_that_has_gone_ends_it_without_an_error() {
        let Relayed { mut server, input, output, relay } = relayed();
        drop(output);
        server.write_all(b"to nobody").unwrap();
        relay.join().unwrap().unwrap();
        drop(input);
    }

    /// What `relay` returned: the error of the connection.
    fn lost(relay: thread::JoinHandle<Result<(), RelayError>>) -> io::Error {
        match relay.join().unwrap() {
            Err(RelayError::Connection(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn reset(server: TcpStream) {
        nix::sys::socket::setsockopt(
            &server,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger { l_onoff: 1, l_linger: 0 },
        )
        .unwrap();
        drop(server);
    }

    #[test]
    fn a_reset_is_an_error_even_while_the_input_is_silent() {
        let Relayed { server, input, output, relay } = relayed();
        reset(server);
        assert_eq!(lost(relay).kind(), ErrorKind::ConnectionReset);
        drop((input, output));
    }

    #[test]
    fn a_reset_in_the_middle_of_an_upload_is_an_error_whichever_way_it_is_told() {
        // Either thread may get the error.
        for _ in 0..50 {
            let Relayed { mut server, mut input, output, relay } = relayed();
            let feed = thread::spawn(move || while input.write_all(&[b'x'; 4096]).is_ok() {});
            for _ in 0..300 {
                server.read_exact(&mut [0; 4096]).unwrap();
            }
            reset(server);
            assert_eq!(lost(relay).kind(), ErrorKind::ConnectionReset);
            feed.join().unwrap();
            drop(output);
        }
    }

    #[test]
    fn an_input_that_cannot_be_read_is_not_taken_for_one_that_ended() {
        let Relayed { server, input, output, relay } = relayed_from(File::open("/").unwrap());
        assert!(matches!(relay.join().unwrap(), Err(RelayError::StandardEnds(_))));
        drop((server, input, output));
    }
}
