//! Contract: every server function that the plugin declares or needs is one that a real server exports. One that is
//! missing would fail the load of the plugin, because the dynamic linker binds all of them at once.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use object::{
    Object, ObjectSymbol,
    elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64},
    read::elf::{Dyn, FileHeader},
};

const HEADER: &str = include_str!("../src/triton/api.h");

/// What the server looks up in the plugin.
const EXPORTS: [&str; 8] = [
    "TRITONBACKEND_Finalize",
    "TRITONBACKEND_GetBackendAttribute",
    "TRITONBACKEND_Initialize",
    "TRITONBACKEND_ModelFinalize",
    "TRITONBACKEND_ModelInitialize",
    "TRITONBACKEND_ModelInstanceExecute",
    "TRITONBACKEND_ModelInstanceFinalize",
    "TRITONBACKEND_ModelInstanceInitialize",
];

#[test]
fn the_server_exports_every_declared_function() {
    let declared = declared_functions();
    assert!(declared.len() > 50, "only {} functions were found in api.h", declared.len());
    let exported = server_exports();
    let missing: Vec<_> = declared.difference(&exported).collect();
    assert!(missing.is_empty(), "api.h declares functions that the server does not export: {missing:?}");
}

#[test]
fn the_plugin_exports_its_entry_points_and_needs_only_what_is_declared() {
    let path = plugin();
    let data = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = object::File::parse(&*data).unwrap();
    let names = |defined: bool| -> BTreeSet<String> {
        file.dynamic_symbols()
            .filter(|symbol| symbol.is_undefined() != defined)
            .filter_map(|symbol| symbol.name().ok())
            .filter(|name| name.starts_with("TRITON"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(names(true), EXPORTS.map(str::to_owned).into());
    let undeclared: Vec<_> = names(false).difference(&declared_functions()).cloned().collect();
    assert!(undeclared.is_empty(), "{undeclared:?}");
}

/// The functions of api.h: names of the server's that are followed by a parenthesis.
fn declared_functions() -> BTreeSet<String> {
    HEADER
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '('))
        .filter_map(|word| word.split_once('('))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("TRITONSERVER_") || name.starts_with("TRITONBACKEND_"))
        .map(str::to_owned)
        .collect()
}

/// The functions of the server and of the libraries it needs.
fn server_exports() -> BTreeSet<String> {
    let server = env::var_os("TRITONSERVER").map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "TRITONSERVER is not set: give it the path of a tritonserver program, for example that of the pip \
             package nvidia-pytriton, …/pytriton/tritonserver/bin/tritonserver"
        )
    });
    let mut exported = BTreeSet::new();
    for library in libraries(&server) {
        let data = fs::read(&library).unwrap();
        let file = object::File::parse(&*data).unwrap();
        exported.extend(
            file.dynamic_symbols()
                .filter(|symbol| symbol.is_definition())
                .filter_map(|symbol| symbol.name().ok())
                .map(str::to_owned),
        );
    }
    exported
}

/// The program itself and its `libtritonserver`, whose name may carry a hash, found as the dynamic linker finds it.
fn libraries(server: &Path) -> Vec<PathBuf> {
    let data = fs::read(server).unwrap_or_else(|error| panic!("TRITONSERVER={}: {error}", server.display()));
    let header = FileHeader64::<object::Endianness>::parse(&*data).unwrap();
    let endian = header.endian().unwrap();
    let sections = header.sections(endian, &*data).unwrap();
    let (entries, link) = sections.dynamic(endian, &*data).unwrap().expect("a dynamic program");
    let strings = sections.strings(endian, &*data, link).unwrap();
    let text = |tag: u32| -> Vec<String> {
        entries
            .iter()
            .filter(|entry| entry.tag32(endian) == Some(tag))
            .map(|entry| String::from_utf8_lossy(entry.string(endian, strings).unwrap()).into_owned())
            .collect()
    };
    let origin = server.canonicalize().unwrap();
    let origin = origin.parent().unwrap().to_str().unwrap();
    let folders: Vec<PathBuf> = [DT_RPATH, DT_RUNPATH]
        .into_iter()
        .flat_map(text)
        .flat_map(|path| {
            path.split(':').map(|folder| folder.replace("$ORIGIN", origin).into()).collect::<Vec<_>>()
        })
        .collect();
    let mut found = vec![server.to_owned()];
    for name in text(DT_NEEDED).into_iter().filter(|name| name.starts_with("libtritonserver")) {
        let path = folders.iter().map(|folder| folder.join(&name)).find(|path| path.is_file());
        found.push(path.unwrap_or_else(|| panic!("{name} was not found in {folders:?}")));
    }
    found
}

/// The plugin as cargo built it for this test.
fn plugin() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent().unwrap().join("libtriton_textgen.so")
}
