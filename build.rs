//! Binds the declarations of Triton's backend API; nothing else.

use std::{env, panic, path::PathBuf};

const HEADER: &str = "src/triton/api.h";

fn main() {
    println!("cargo:rerun-if-changed={HEADER}");
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");

    // The process that loads the plugin resolves the server's functions; a test program of this package has no
    // such process and never calls them.
    println!("cargo:rustc-link-arg=-Wl,--unresolved-symbols=ignore-all");

    // bindgen panics when it cannot load libclang; the reason below says more than its backtrace.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let libclang = panic::catch_unwind(bindgen::clang_version);
    panic::set_hook(hook);
    if libclang.is_err() {
        fail(
            "libclang was not found, and binding Triton's API needs it: install it (Debian, Ubuntu: \
             `apt install libclang-dev`; anywhere: `pip install libclang`) or set LIBCLANG_PATH to the folder \
             that holds libclang.so",
        );
    }
    let bindings = bindgen::builder()
        .header(HEADER)
        .allowlist_file(format!(".*{HEADER}"))
        // The server's enumerations may grow, and a Rust enum must not hold a value it does not know.
        .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
        .prepend_enum_name(false)
        .derive_debug(true)
        .layout_tests(false)
        .generate()
        .unwrap_or_else(|error| fail(&format!("{HEADER} cannot be bound: {error}")));
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set: run cargo")));
    let file = out.join("triton_api.rs");
    bindings
        .write_to_file(&file)
        .unwrap_or_else(|error| fail(&format!("{} cannot be written: {error}", file.display())));
}

fn fail(message: &str) -> ! {
    println!("cargo:warning={message}");
    std::process::exit(1)
}
