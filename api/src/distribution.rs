//! Lookups of images in registries, as the CLI makes them before it creates
//! or updates a service.
//!
//! No registry is asked: engines resolve tags when they pull. The one image
//! known here is `host`, the reserved name of native tasks; its fixed
//! descriptor lets the CLI go on without its warning.

use axum::{extract::Path, response::Response};
use http::StatusCode;
use serde::Serialize;
use waxseal_cluster::plan::is_host_image;

use crate::{
    cluster::Cluster,
    error::ApiError,
    respond,
    table::{Routes, doc},
};

/// What the path of a lookup ends with; the name before it may have slashes.
const SUFFIX: &str = "/json";
/// SHA-256 of the four bytes `host`; `host` with this digest is still `host`.
const HOST_DIGEST: &str = "sha256:4740ae6347b0172c01254ff55bae5aff5199f4446e7f6d643d40185b3f475145";
/// Their number.
const HOST_BYTES: u64 = 4;
/// What clients expect to be described; there is no such manifest to pull.
const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new().get(
        "/distribution/{*image}",
        doc("What an image's name stands for, as far as the name says it").answers("Distribution"),
        inspect,
    )
}

/// `DistributionInspect`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DistributionJson {
    descriptor: DescriptorJson,
    /// None: clients make placement rules of them, and the host is of whatever
    /// platform the node is.
    platforms: [(); 0],
}

/// An OCI descriptor.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorJson {
    media_type: &'static str,
    digest: &'static str,
    size: u64,
}

async fn inspect(Path(path): Path<String>) -> Result<Response, ApiError> {
    let image = path
        .strip_suffix(SUFFIX)
        .filter(|image| !image.is_empty())
        .ok_or_else(ApiError::page_not_found)?;
    if is_host_image(image) {
        return respond::ok(&DistributionJson {
            descriptor: DescriptorJson {
                media_type: MEDIA_TYPE,
                digest: HOST_DIGEST,
                size: HOST_BYTES,
            },
            platforms: [],
        });
    }
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "image {image} was not looked up, since managers ask no registry: name it with its digest, or let each engine resolve its tag"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;

    async fn answer(path: &str) -> Result<String, ApiError> {
        let response = inspect(Path(path.to_owned())).await?;
        let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn other_images_are_not_looked_up() {
        for path in [
            "bb:1/json",
            "registry.example:5000/a/host/json",
            "host:1/json",
        ] {
            let error = answer(path).await.unwrap_err();
            assert_eq!(error.status, StatusCode::NOT_FOUND);
            assert!(
                error.message.contains(path.trim_end_matches("/json")),
                "{}",
                error.message
            );
        }
        for path in ["json", "/json", "host", "host/other"] {
            assert_eq!(
                answer(path).await.unwrap_err(),
                ApiError::page_not_found(),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn the_host_has_a_fixed_descriptor() {
        for image in ["host", "host:latest", "docker.io/library/host"] {
            assert_eq!(
                answer(&format!("{image}/json")).await.unwrap(),
                format!(
                    "{{\"Descriptor\":{{\"mediaType\":\"{MEDIA_TYPE}\",\"digest\":\"{HOST_DIGEST}\",\"size\":4}},\"Platforms\":[]}}\n"
                )
            );
        }
        assert!(is_host_image(&format!("host:latest@{HOST_DIGEST}")));
    }
}
