//! Compiles the objects' schema; protox needs no protoc on the build machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["command.proto", "objects.proto"], ["proto"])?;
    // Their Debug is written by hand in `redact.rs`: they hold keys or payloads.
    let secretive = [
        "SecretSpec",
        "ConfigSpec",
        "ContainerSpec.PullOptions",
        "CaConfig",
        "JoinTokens",
        "RootRotation",
        "RootCa",
        "UnlockKeyRecord",
        "Driver",
        "ContainerSpec",
        "StateSnapshot",
        "Command",
        "Command.op",
    ];
    prost_build::Config::new()
        .btree_map(["."])
        .extern_path(
            ".waxseal.objects.v1.PortStatus",
            "crate::port_status::PortStatus",
        )
        .skip_debug(secretive.map(|name| format!("waxseal.objects.v1.{name}")))
        .compile_fds(files)?;
    Ok(())
}
