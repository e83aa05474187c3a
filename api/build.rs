//! Notes the compiler, for `docker version`.

use std::{env, error::Error, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    // Another compiler has Cargo run this again by itself.
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").ok_or("Cargo names the compiler")?;
    let said = Command::new(rustc).arg("--version").output()?;
    println!(
        "cargo:rustc-env=WAXSEAL_COMPILER={}",
        String::from_utf8(said.stdout)?.trim()
    );
    Ok(())
}
