//! The reserved image name of native tasks.

/// Whether an image reference means "run on the host": `host`, with any tag or digest, also under
/// `docker.io/library/` as the docker CLI rewrites it.
pub fn is_native_image(image: &str) -> bool {
    let name = [
        "docker.io/library/",
        "index.docker.io/library/",
        "docker.io/",
        "library/",
    ]
    .into_iter()
    .find_map(|prefix| image.strip_prefix(prefix))
    .unwrap_or(image);
    let name = name.split_once('@').map_or(name, |(name, _digest)| name);
    let name = name.split_once(':').map_or(name, |(name, _tag)| name);
    name == "host"
}

#[cfg(test)]
mod tests {
    use super::is_native_image;

    #[test]
    fn other_images_are_not_native() {
        for image in [
            "",
            "nginx",
            "hostile",
            "me/host",
            "registry:5000/host",
            "Host",
            "host/x",
        ] {
            assert!(!is_native_image(image), "{image}");
        }
    }

    #[test]
    fn the_cli_spellings_are_native() {
        for image in [
            "host",
            "host:latest",
            "library/host",
            "docker.io/library/host:latest",
            "host:latest@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ] {
            assert!(is_native_image(image), "{image}");
        }
    }
}
