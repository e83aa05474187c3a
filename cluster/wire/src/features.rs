//! What members of our own say of themselves, beside the calls a stock engine knows.

use tonic::{Request, Status, metadata::MetadataValue};

use crate::text::peer_text;

pub use waxseal_cluster::FEATURE_LEVEL;

/// What this binary can do that a stock engine cannot, by name.
pub const FEATURES: &[&str] = &["native-tasks", FEATURE_MANAGER];

/// The feature of a binary that can be one of several managers.
pub const FEATURE_MANAGER: &str = "manager";

/// Metadata of the join call: the features of a member of ours, parted by commas. A
/// stock engine sends none.
const FEATURES_METADATA: &str = "waxseal-features";

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
}
