//! Generates the messages and the client of Triton's gRPC service.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const INTERFACE: &str = "proto/inference.proto";
    println!("cargo:rerun-if-changed={INTERFACE}");
    let descriptors = protox::compile([INTERFACE], ["proto"])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
