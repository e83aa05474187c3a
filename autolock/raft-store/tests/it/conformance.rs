//! openraft's own tests of a store, on a real directory, sealed.

use openraft::testing::{StoreBuilder, Suite};
use openraft::{AnyError, StorageError, StorageIOError};
use tempfile::TempDir;
use waxseal_raft_store::{LogLimits, StoreOptions, open};

use crate::support::{Log, StateMachine, TypeConfig, options};

struct Builder {
    limits: fn(LogLimits) -> LogLimits,
}

impl StoreBuilder<TypeConfig, Log, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().map_err(|err| StorageIOError::write(AnyError::new(&err)))?;
        let options = options(dir.path(), 1, &[]);
        let options = StoreOptions {
            limits: (self.limits)(options.limits),
            ..options
        };
        let opened = open(options).map_err(|err| StorageIOError::read(AnyError::new(&err)))?;
        Ok((dir, opened.log, StateMachine::new(opened.snapshots)))
    }
}

#[test]
fn openraft_suite_with_usual_segments() {
    Suite::test_all(Builder {
        limits: |_| LogLimits::default(),
    })
    .unwrap();
}

/// Without a cache every read goes to the disk.
#[test]
fn openraft_suite_without_cache() {
    let limits = |limits| LogLimits {
        cache_bytes: 0,
        ..limits
    };
    Suite::test_all(Builder { limits }).unwrap();
}
