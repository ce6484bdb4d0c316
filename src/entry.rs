//! The functions that Triton looks up in the plugin. Each runs in the guard, wraps the host's pointers and calls
//! [`backend`](crate::backend); nothing else happens here.

// The names must be exported, and the pointers come from the host: there is no safe way to say either.
#![allow(unsafe_code, non_snake_case)]

use std::{slice, sync::Arc};

use crate::{
    backend::{BackendState, InstanceState, ModelState},
    triton::{Attributes, Backend, HoldsState, Instance, Model, accept, guard, sys},
};

type HostError = *mut sys::TRITONSERVER_Error;

/// The library was loaded.
///
/// # Safety
/// `backend` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_Initialize(backend: *mut sys::TRITONBACKEND_Backend) -> HostError {
    guard::call("TRITONBACKEND_Initialize", || {
        // SAFETY: promised by the caller.
        let backend = unsafe { Backend::from_raw(backend) };
        backend.put_state(Arc::new(BackendState::new(&backend)?))
    })
}

/// The server shuts down. Called also when initialisation failed.
///
/// # Safety
/// `backend` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_Finalize(backend: *mut sys::TRITONBACKEND_Backend) -> HostError {
    guard::call("TRITONBACKEND_Finalize", || {
        // SAFETY: promised by the caller.
        drop(unsafe { Backend::from_raw(backend) }.take_state());
        Ok(())
    })
}

/// The server asks what it should know before it places a model that says nothing of its instances.
///
/// # Safety
/// `attributes` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_GetBackendAttribute(
    _backend: *mut sys::TRITONBACKEND_Backend,
    attributes: *mut sys::TRITONBACKEND_BackendAttribute,
) -> HostError {
    guard::call("TRITONBACKEND_GetBackendAttribute", || {
        // SAFETY: promised by the caller.
        unsafe { Attributes::from_raw(attributes) }.prefer_cpu()
    })
}

/// A model is being loaded.
///
/// # Safety
/// `model` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInitialize(model: *mut sys::TRITONBACKEND_Model) -> HostError {
    guard::call("TRITONBACKEND_ModelInitialize", || {
        // SAFETY: promised by the caller.
        let model = unsafe { Model::from_raw(model) };
        model.put_state(Arc::new(ModelState::new(&model)?))
    })
}

/// A model is gone. Called also when initialisation failed.
///
/// # Safety
/// `model` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelFinalize(model: *mut sys::TRITONBACKEND_Model) -> HostError {
    guard::call("TRITONBACKEND_ModelFinalize", || {
        // SAFETY: promised by the caller.
        drop(unsafe { Model::from_raw(model) }.take_state());
        Ok(())
    })
}

/// An instance of a model is being created.
///
/// # Safety
/// `instance` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceInitialize(
    instance: *mut sys::TRITONBACKEND_ModelInstance,
) -> HostError {
    guard::call("TRITONBACKEND_ModelInstanceInitialize", || {
        // SAFETY: promised by the caller.
        let instance = unsafe { Instance::from_raw(instance) };
        instance.put_state(Arc::new(InstanceState::new(&instance)?))
    })
}

/// An instance is gone; its last request has been answered. Called also when initialisation failed.
///
/// # Safety
/// `instance` is valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceFinalize(
    instance: *mut sys::TRITONBACKEND_ModelInstance,
) -> HostError {
    guard::call("TRITONBACKEND_ModelInstanceFinalize", || {
        // SAFETY: promised by the caller.
        drop(unsafe { Instance::from_raw(instance) }.take_state());
        Ok(())
    })
}

/// Requests for an instance. From here the backend owns them, so null is returned whatever happens.
///
/// # Safety
/// `instance` is valid for the call, `requests` holds `count` requests, and they are given away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceExecute(
    instance: *mut sys::TRITONBACKEND_ModelInstance,
    requests: *mut *mut sys::TRITONBACKEND_Request,
    count: u32,
) -> HostError {
    guard::execute(|| {
        // SAFETY: promised by the caller; the array itself stays the host's, and each request is taken once.
        let (instance, requests) = unsafe {
            let requests = slice::from_raw_parts(requests, count as usize);
            (Instance::from_raw(instance), requests.iter().filter_map(|&raw| accept(raw)).collect())
        };
        match instance.state::<InstanceState>() {
            Ok(state) => state.execute(&instance, requests),
            // Dropped, each request answers an error.
            Err(error) => log::error!("requests for an instance without a state: {error}"),
        }
    })
}

// The server calls these by name, so nothing else would notice a wrong signature.
const _: sys::BackendFn = Some(TRITONBACKEND_Initialize);
const _: sys::BackendFn = Some(TRITONBACKEND_Finalize);
const _: sys::AttributeFn = Some(TRITONBACKEND_GetBackendAttribute);
const _: sys::ModelFn = Some(TRITONBACKEND_ModelInitialize);
const _: sys::ModelFn = Some(TRITONBACKEND_ModelFinalize);
const _: sys::InstanceFn = Some(TRITONBACKEND_ModelInstanceInitialize);
const _: sys::InstanceFn = Some(TRITONBACKEND_ModelInstanceFinalize);
const _: sys::ExecuteFn = Some(TRITONBACKEND_ModelInstanceExecute);
