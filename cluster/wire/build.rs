//! Compiles the services; protox needs no protoc on the build machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=../proto");
    let files = protox::compile(
        [
            "ca.proto",
            "dispatcher.proto",
            "log_broker.proto",
            "waxseal.proto",
            "control.proto",
            "relay.proto",
            "raft.proto",
            "return.proto",
        ],
        ["proto", "../proto"],
    )?;
    // Their Debug is written by hand in `redact.rs`: they hold tokens, keys or
    // what tasks print.
    let secretive = ["IssueNodeCertificateRequest", "EncryptionKey", "LogMessage"];
    let ours = ["RaftEntry", "SnapshotRequest", "ProposeRequest"];
    let secretive = secretive
        .map(|name| format!("docker.swarmkit.v1.{name}"))
        .into_iter()
        .chain(ours.map(|name| format!("waxseal.v1.{name}")));
    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]).skip_debug(secretive);
    tonic_prost_build::configure()
        .codec_path("crate::codec::FrugalCodec")
        .extern_path(".waxseal.objects.v1", "::waxseal_cluster::objects")
        .extern_path(
            ".docker.swarmkit.v1.UpdateTaskStatusRequest",
            "crate::updates::UpdateTaskStatusRequest",
        )
        .compile_fds_with_config(files, config)?;
    Ok(())
}
