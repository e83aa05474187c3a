//! What members of our own say of themselves, beside the calls a stock engine knows.

use time::OffsetDateTime;
use tonic::{Request, Status, metadata::MetadataValue};

use crate::text::peer_text;

pub use waxseal_cluster::FEATURE_LEVEL;

const NANOS_PER_MILLI: i128 = 1_000_000;

/// What this binary can do that a stock engine cannot, by name.
pub const FEATURES: &[&str] = &["native-tasks", FEATURE_MANAGER];

/// The feature of a binary that can be one of several managers.
pub const FEATURE_MANAGER: &str = "manager";

/// Metadata of the join call: the features of a member of ours, parted by commas. A
/// stock engine sends none.
const FEATURES_METADATA: &str = "waxseal-features";

/// Metadata of a session's call: the caller's clock, milliseconds since 1970. A stock engine
/// sends none.
const TIME_METADATA: &str = "waxseal-time";

/// How many features are looked at.
const FEATURE_LIMIT: usize = 64;

/// Marks a request as that of a member of ours.
pub fn announce_features<T>(request: &mut Request<T>) {
    // The names are our own and fit a header.
    if let Ok(value) = MetadataValue::try_from(FEATURES.join(",")) {
        request.metadata_mut().insert(FEATURES_METADATA, value);
    }
}

/// The features that the caller announced; `None` for a stock engine.
///
/// Self-asserted: good for telling what a caller can do, not for what it may do.
///
/// # Errors
/// `InvalidArgument` if the announcement is not text.
pub fn announced_features<T>(request: &Request<T>) -> Result<Option<Vec<String>>, Status> {
    let Some(value) = request.metadata().get(FEATURES_METADATA) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Status::invalid_argument("the announced features are not text"))?;
    let features = text
        .split(',')
        .filter(|name| !name.is_empty())
        .take(FEATURE_LIMIT);
    Ok(Some(features.map(peer_text).collect()))
}

/// Tells the manager this node's time.
pub fn announce_time<T>(request: &mut Request<T>, now: OffsetDateTime) {
    let millis = now.unix_timestamp_nanos() / NANOS_PER_MILLI;
    if let Ok(value) = MetadataValue::try_from(millis.to_string()) {
        request.metadata_mut().insert(TIME_METADATA, value);
    }
}

/// The caller's time, if it told it; what is no time is none.
pub fn announced_time<T>(request: &Request<T>) -> Option<OffsetDateTime> {
    let value = request.metadata().get(TIME_METADATA)?.to_str().ok()?;
    let millis: i64 = value.parse().ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * NANOS_PER_MILLI).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_engine_announces_nothing() {
        assert_eq!(announced_features(&Request::new(())).unwrap(), None);
    }

    #[test]
    fn what_is_announced_is_found() {
        let mut request = Request::new(());
        announce_features(&mut request);
        let found = announced_features(&request).unwrap().unwrap();
        assert_eq!(found, FEATURES);
    }

    #[test]
    fn a_time_is_found_and_what_is_none_is_not() {
        let mut request = Request::new(());
        assert_eq!(announced_time(&request), None);
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        announce_time(&mut request, now);
        assert_eq!(announced_time(&request), Some(now));
        for wrong in ["", "soon", "99999999999999999999", "9223372036854775807"] {
            let value = MetadataValue::try_from(wrong).unwrap();
            request.metadata_mut().insert(TIME_METADATA, value);
            assert_eq!(announced_time(&request), None, "{wrong}");
        }
    }
}
