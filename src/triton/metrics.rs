//! Custom metrics on the server's metrics port.
//!
//! A server built without metrics answers UNSUPPORTED: families and metrics are then empty and swallow what
//! they are told. A metric holds its family, so that the host deletes metrics first.

use std::{ptr, sync::Arc};

use super::{
    error::{check, report},
    strings::to_host,
    sys,
};
use crate::error::{ErrorKind, Result};

struct Family(*mut sys::TRITONSERVER_MetricFamily);

// SAFETY: the server guards its registry and its metrics itself.
unsafe impl Send for Family {}
// SAFETY: as above.
unsafe impl Sync for Family {}

impl Family {
    fn new(kind: sys::TRITONSERVER_MetricKind, name: &str, description: &str) -> Result<Option<Arc<Self>>> {
        let (name, description) = (to_host(name), to_host(description));
        let mut raw = ptr::null_mut();
        // SAFETY: both strings are copied during the call.
        let made = check(unsafe {
            sys::TRITONSERVER_MetricFamilyNew(&mut raw, kind, name.as_ptr(), description.as_ptr())
        });
        supported(made.map(|()| Arc::new(Self(raw))))
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // SAFETY: every metric of it holds it, so none is left.
        report("a metric family cannot be deleted", unsafe { sys::TRITONSERVER_MetricFamilyDelete(self.0) });
    }
}

struct Metric {
    raw: *mut sys::TRITONSERVER_Metric,
    /// Outlives the metric.
    _family: Arc<Family>,
}

// SAFETY: the server's metrics are atomics or guarded by locks of their own.
unsafe impl Send for Metric {}
// SAFETY: as above.
unsafe impl Sync for Metric {}

impl Metric {
    /// `buckets` are the upper bounds of a histogram's; none for the other kinds.
    fn new(
        family: &Option<Arc<Family>>,
        labels: &[(&str, &str)],
        buckets: Option<&[f64]>,
    ) -> Result<Option<Self>> {
        let Some(family) = family else { return Ok(None) };
        let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(name, value)).collect();
        let mut pointers: Vec<*const sys::TRITONSERVER_Parameter> =
            labels.iter().map(|label| label.0.cast_const()).collect();
        let arguments = buckets.map(MetricArguments::histogram).transpose()?;
        let mut raw = ptr::null_mut();
        let count = pointers.len() as u64;
        // SAFETY: family, labels and arguments live for the call, which copies them.
        let made = check(unsafe {
            match &arguments {
                None => sys::TRITONSERVER_MetricNew(&mut raw, family.0, pointers.as_mut_ptr(), count),
                Some(arguments) => sys::TRITONSERVER_MetricNewWithArgs(
                    &mut raw,
                    family.0,
                    pointers.as_mut_ptr(),
                    count,
                    arguments.0,
                ),
            }
        });
        supported(made.map(|()| Self { raw, _family: family.clone() }))
    }

    fn increment(&self, value: f64) {
        // SAFETY: the metric is valid while self lives.
        report("a metric cannot be counted", unsafe { sys::TRITONSERVER_MetricIncrement(self.raw, value) });
    }

    fn observe(&self, value: f64) {
        // SAFETY: the metric is valid while self lives.
        report("a metric cannot be observed", unsafe { sys::TRITONSERVER_MetricObserve(self.raw, value) });
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        // SAFETY: owned, and its family still lives.
        report("a metric cannot be deleted", unsafe { sys::TRITONSERVER_MetricDelete(self.raw) });
    }
}

/// A label, while a metric is being made.
struct Label(*mut sys::TRITONSERVER_Parameter);

impl Label {
    fn new(name: &str, value: &str) -> Self {
        let (name, value) = (to_host(name), to_host(value));
        // SAFETY: both strings are copied during the call; a string parameter takes its characters.
        Self(unsafe {
            sys::TRITONSERVER_ParameterNew(
                name.as_ptr(),
                sys::TRITONSERVER_ParameterType::TRITONSERVER_PARAMETER_STRING,
                value.as_ptr().cast(),
            )
        })
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        // SAFETY: made in `new`, deleted once.
        unsafe { sys::TRITONSERVER_ParameterDelete(self.0) }
    }
}

/// Arguments of a metric, while it is being made.
struct MetricArguments(*mut sys::TRITONSERVER_MetricArgs);

impl MetricArguments {
    fn histogram(buckets: &[f64]) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the arguments are ours to delete.
        check(unsafe { sys::TRITONSERVER_MetricArgsNew(&mut raw) })?;
        let arguments = Self(raw);
        // SAFETY: the buckets are copied during the call.
        check(unsafe {
            sys::TRITONSERVER_MetricArgsSetHistogram(raw, buckets.as_ptr(), buckets.len() as u64)
        })?;
        Ok(arguments)
    }
}

impl Drop for MetricArguments {
    fn drop(&mut self) {
        // SAFETY: made in `histogram`, deleted once.
        report("metric arguments cannot be deleted", unsafe { sys::TRITONSERVER_MetricArgsDelete(self.0) });
    }
}

/// None where the server has no metrics.
fn supported<T>(made: Result<T>) -> Result<Option<T>> {
    match made {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// Counters of one name.
pub struct CounterFamily(Option<Arc<Family>>);
/// A number that only grows.
pub struct Counter(Option<Metric>);
/// Gauges of one name.
pub struct GaugeFamily(Option<Arc<Family>>);
/// A number that grows and shrinks. The same labels give the same gauge, so that several owners add up.
pub struct Gauge(Option<Metric>);
/// Histograms of one name and one set of buckets.
pub struct HistogramFamily(Option<Arc<Family>>, &'static [f64]);
/// A distribution.
pub struct Histogram(Option<Metric>);

impl CounterFamily {
    /// Registers the name.
    pub fn new(name: &str, description: &str) -> Result<Self> {
        Family::new(sys::TRITONSERVER_MetricKind::TRITONSERVER_METRIC_KIND_COUNTER, name, description)
            .map(Self)
    }

    /// The counter with these labels.
    pub fn with(&self, labels: &[(&str, &str)]) -> Result<Counter> {
        Metric::new(&self.0, labels, None).map(Counter)
    }
}

impl Counter {
    /// Adds `value`, which is not negative.
    pub fn add(&self, value: f64) {
        if let Some(metric) = &self.0 {
            metric.increment(value);
        }
    }
}

impl GaugeFamily {
    /// Registers the name.
    pub fn new(name: &str, description: &str) -> Result<Self> {
        Family::new(sys::TRITONSERVER_MetricKind::TRITONSERVER_METRIC_KIND_GAUGE, name, description).map(Self)
    }

    /// The gauge with these labels.
    pub fn with(&self, labels: &[(&str, &str)]) -> Result<Gauge> {
        Metric::new(&self.0, labels, None).map(Gauge)
    }
}

impl Gauge {
    /// Adds `value`, which may be negative.
    pub fn add(&self, value: f64) {
        if let Some(metric) = &self.0 {
            metric.increment(value);
        }
    }
}

impl HistogramFamily {
    /// Registers the name. `buckets` are upper bounds in ascending order; the server adds infinity.
    pub fn new(name: &str, description: &str, buckets: &'static [f64]) -> Result<Self> {
        let kind = sys::TRITONSERVER_MetricKind::TRITONSERVER_METRIC_KIND_HISTOGRAM;
        Ok(Self(Family::new(kind, name, description)?, buckets))
    }

    /// The histogram with these labels.
    pub fn with(&self, labels: &[(&str, &str)]) -> Result<Histogram> {
        Metric::new(&self.0, labels, Some(self.1)).map(Histogram)
    }
}

impl Histogram {
    /// Counts one value.
    pub fn observe(&self, value: f64) {
        if let Some(metric) = &self.0 {
            metric.observe(value);
        }
    }
}
