//! Bounds of connections and messages.

use std::time::Duration;

/// The largest message that is taken from a manager: an assignment set may bring
/// many secrets at once.
pub const CLIENT_MESSAGE_LIMIT: usize = 64 * 1024 * 1024;

/// The largest message that is taken from a node: a full batch of task reports or
/// log lines stays far below.
pub const SERVER_MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// The largest message on the calls that need no certificate: a certificate request
/// has about 500 bytes, the rest is room for other clients' keys and encodings.
pub const JOIN_MESSAGE_LIMIT: usize = 32 * 1024;

/// Time for TLS handshake and HTTP/2 preface together.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Time for a connection's first byte: diallers send it as soon as they are connected.
pub const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(1);

/// Connections that wait to be taken, as many as Linux grants by default
/// (`net.core.somaxconn`). For one beyond the kernel drops what the caller sent, who tries again
/// after a second: a fleet that joins or comes back at once is not to.
pub const LISTEN_BACKLOG: u32 = 4096;

/// Handshakes at once; for one beyond, the oldest of the address that holds most
/// gives way. A fleet that joins or comes back does so at once, and one costs about
/// 20 KiB. A process that may have few descriptors uses a quarter of them.
pub const HANDSHAKES: usize = 2048;

/// The same, however few descriptors this process may have.
pub const LEAST_HANDSHAKES: usize = 256;

/// Connections at once that presented no certificate, or that of a removed node.
/// Whoever holds most of them gives way to others; where nobody holds more than others,
/// one beyond waits its turn.
pub const ANONYMOUS_CONNECTIONS: usize = 256;

/// Connections without a certificate from one address that have no call under way,
/// those within [`ANONYMOUS_PROMPT`] of their last one not counted: joiners behind
/// one address may be many, but they do not wait.
pub const ANONYMOUS_IDLE_PER_ADDRESS: usize = 16;

/// Time for a caller without a certificate between handshake, calls and end.
pub const ANONYMOUS_PROMPT: Duration = Duration::from_secs(1);

/// How long a connection without a certificate stays open without a call.
pub const ANONYMOUS_IDLE: Duration = Duration::from_secs(30);

/// How long a connection without a certificate may last: as long as a caller may
/// ask after the certificate it was promised.
pub const ANONYMOUS_CONNECTION_LIFE: Duration = Duration::from_secs(10 * 60);

/// Connections at once of one node; the oldest gives way to a new one.
pub const CONNECTIONS_PER_NODE: usize = 16;

/// Bytes of all request headers together.
pub const HEADER_LIST_LIMIT: u32 = 16 * 1024;

/// The same on connections of managers: what they relay bears an envelope too.
pub const MANAGER_HEADER_LIST_LIMIT: u32 = 2 * HEADER_LIST_LIMIT;

/// The largest envelope of a relayed call: a chain of four certificates of 2 KiB. As
/// base64 it leaves the call's own headers their room.
pub const ENVELOPE_LIMIT: usize = 10 * 1024;

/// Streams at once of a node, over all its connections and relayed calls.
pub const STREAMS_PER_NODE: u32 = 128;

/// Streams at once of a manager's own, which are the calls of all clients of its API.
pub const STREAMS_PER_MANAGER: u32 = 4096;

/// Streams at once on a connection of a manager, relayed ones included: a node needs
/// four of them, and each counts against its own budget too.
pub const RELAYED_STREAMS: u32 = 64 * 1024;

/// Relayed calls at once of callers without a certificate, all managers together.
pub const RELAYED_ANONYMOUS_CALLS: usize = ANONYMOUS_CONNECTIONS;

/// How long a call waits for a leader to be known before it is refused: an election
/// takes about as long.
pub const LEADER_WAIT: Duration = Duration::from_millis(1500);

/// Streams at once on a connection without a certificate: a joiner makes one call
/// at a time, so this leaves room for more than it ever needs.
pub const ANONYMOUS_STREAMS: u32 = 8;

/// Time from the headers of a call without a certificate to the end of its body, which is
/// a packet or a few: as long as a handshake may take.
pub const ANONYMOUS_BODY_DEADLINE: Duration = HANDSHAKE_DEADLINE;

/// Bytes that are taken on a connection without a certificate before they are read.
pub const ANONYMOUS_WINDOW: u32 = 64 * 1024;

/// Bytes at once in calls of one node that were not yet answered, streams apart:
/// four of the largest messages.
pub const REQUEST_BYTES_PER_NODE: usize = 4 * SERVER_MESSAGE_LIMIT;

/// The same for a manager: what its clients create, and entries of the log.
pub const REQUEST_BYTES_PER_MANAGER: usize = 4 * REQUEST_BYTES_PER_NODE;

/// Bytes that are taken on a stream of a manager before they are read. Less than
/// [`MANAGER_WINDOW`], so that a stream that is not read leaves room for others.
pub const MANAGER_STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes that are taken on a connection of a manager before they are read.
pub const MANAGER_WINDOW: u32 = 64 * 1024 * 1024;

/// The largest message in a stream from a manager, which are pieces of snapshots.
pub const MANAGER_STREAM_MESSAGE_LIMIT: usize = SERVER_MESSAGE_LIMIT;

/// The largest message in a stream from a node, which are log lines: engines cut
/// them at 16 KiB.
pub const STREAM_MESSAGE_LIMIT: usize = 256 * 1024;

/// Statuses of tasks in one call: more than a node has tasks. Our agent sends 256 at once.
pub const STATUS_UPDATES: usize = 4096;

/// Ports in all statuses of one call, some 50 bytes of memory each: four for every status.
pub const STATUS_PORTS: usize = 4 * STATUS_UPDATES;

/// Streams that a peer may reset within [`RESET_WINDOW`] before its connection ends.
pub const RESETS_PER_WINDOW: u32 = 100;

/// The window of [`RESETS_PER_WINDOW`].
pub const RESET_WINDOW: Duration = Duration::from_secs(10);

/// Pause between pings on a quiet connection, and the wait for their answer.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// The wait for the answer to a ping.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Time for name lookup, TCP, TLS and the manager's first bytes when dialling.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
