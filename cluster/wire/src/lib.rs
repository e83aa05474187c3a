//! swarmkit's and our own gRPC: messages, conversion, dial and accept.
