//! `textgen inspect`

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write, stdout},
    path::Path,
    process::ExitCode,
};

use textgen_artifact::{
    CHAT_TEMPLATE_FILE, DECODER_FILE, DType, Device, ENCODER_FILE, Manifest, NORMALIZER_FILE, TOKENIZER_FILE,
    WEIGHTS_FILE, WeightFormat,
};

pub fn run(dir: &Path) -> anyhow::Result<ExitCode> {
    let manifest = Manifest::read(dir)?;
    let mut out = BufWriter::new(stdout().lock());
    let geometry = &manifest.geometry;
    writeln!(out, "family           {}", manifest.family)?;
    writeln!(out, "written by       {}", manifest.producer)?;
    writeln!(out, "device           {}", device_name(manifest.device))?;
    writeln!(
        out,
        "layers           {} encoder, {} decoder",
        geometry.encoder_layers, geometry.decoder_layers
    )?;
    writeln!(out, "d_model          {}", geometry.d_model)?;
    writeln!(
        out,
        "cache heads      {} self, {} cross, {} wide",
        geometry.self_kv_heads, geometry.cross_kv_heads, geometry.head_dim
    )?;
    if geometry.state_width > 0 {
        writeln!(out, "recurrent state  {} wide", geometry.state_width)?;
    }
    writeln!(out, "vocabulary       {}", geometry.vocab_size)?;
    if let Some(trimmed) = &manifest.trimmed {
        let corpus = trimmed.corpus.iter().map(|file| format!("texts of {file}"));
        let kept: Vec<String> = trimmed.scripts.iter().cloned().chain(corpus).collect();
        writeln!(out, "trimmed from     {}, to {}", trimmed.original_vocab_size, kept.join(", "))?;
    }
    let limit =
        |tokens: Option<usize>| tokens.map_or("no limit of its own".to_owned(), |n| format!("{n} tokens"));
    if manifest.is_decoder_only() {
        writeln!(out, "longest context  {}", limit(geometry.max_target_tokens))?;
    } else {
        writeln!(out, "longest source   {}", limit(geometry.max_source_tokens))?;
        writeln!(out, "longest target   {}", limit(geometry.max_target_tokens))?;
    }

    writeln!(out, "\nfiles")?;
    let normalizer = manifest.tokenizer.normalizer.then_some(NORMALIZER_FILE);
    let encoder = (!manifest.is_decoder_only()).then_some(ENCODER_FILE);
    let template = manifest.chat.is_some().then_some(CHAT_TEMPLATE_FILE);
    let files = [DECODER_FILE, WEIGHTS_FILE, TOKENIZER_FILE].into_iter();
    for file in encoder.into_iter().chain(files).chain(normalizer).chain(template) {
        match std::fs::metadata(dir.join(file)) {
            Ok(metadata) => writeln!(out, "  {file:<16} {:>14} bytes", metadata.len())?,
            Err(error) => writeln!(out, "  {file:<16} {error}")?,
        }
    }

    writeln!(out, "\nprecision plan")?;
    let mut formats: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for entry in &manifest.precision_plan {
        let (tensors, weights) = formats.entry(format_name(entry.format)).or_default();
        *tensors += 1;
        *weights += entry.shape.iter().product::<usize>();
    }
    for (format, (tensors, weights)) in formats {
        writeln!(out, "  {format:<14} {tensors:>4} tensors {weights:>14} weights")?;
    }
    for entry in &manifest.precision_plan {
        writeln!(out, "  {:<14} {:?} {}", format_name(entry.format), entry.shape, entry.name)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn device_name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(spec) if spec.caches == DType::BF16 => "cuda, caches in bf16",
        Device::Cuda(_) => "cuda, caches in f16",
    }
}

fn format_name(format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::F32 => "f32",
        WeightFormat::F16 => "f16",
        WeightFormat::Bf16 => "bf16",
        WeightFormat::Int8Column => "int8 column",
        WeightFormat::Int8Row => "int8 row",
        WeightFormat::Int8Outlier => "int8 outlier",
        WeightFormat::Int4Block => "int4 block",
        WeightFormat::Int4Weight { .. } => "int4 weight",
        WeightFormat::Int8Weight { .. } => "int8 weight",
    }
}
