//! The openraft log, vote and snapshots on disk, every record sealed.
