//! Local node state and data directory; starts and stops agent and manager.
