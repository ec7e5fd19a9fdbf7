//! Saved sessions: one checksummed file, bound to the model and the policy that made it.
//!
//! Layout: magic, header length (u64), header (JSON), then for each layer and head its positions (u32), norms (f32),
//! columns (f32) and raw pages, all little-endian in the order of the header; at the end the SHA-256 of everything
//! before it. Written to a temporary name and renamed, so a half-written file never stands under the final name.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use meden_files::AtomicFile;
use meden_files::hash::Hash;
use meden_kernels::attention::PageLayout;
use serde::{Deserialize, Serialize};

use super::gathered::{self, GatheredHeader};
use super::interrupted::Interrupted;
use super::{Session, SessionOptions};
use crate::cache::head::{Column, HeadCache};
use crate::error::EngineError;
use crate::model::Model;
use crate::press::plan::Counters;
use crate::press::watch::LayerState;
use crate::read::{ReadStats, Reader};

const MAGIC: &[u8; 8] = b"MEDENKV1";
const CHECKSUM: usize = 32;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    model: String,
    options: SessionOptions,
    history: Vec<u32>,
    prefilled: bool,
    long_rope: Option<bool>,
    own_eviction: Option<usize>,
    #[serde(default)]
    interrupted: Interrupted,
    counters: Counters,
    heads: Vec<HeadHeader>,
    /// What decoded tokens have read; absent without a read policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read: Option<ReadStats>,
    #[serde(default)]
    acted: Vec<usize>,
    #[serde(default)]
    gathered: Vec<GatheredHeader>,
    /// Layers whose older keys lost channels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    narrow: Vec<NarrowHeader>,
    #[serde(default)]
    note: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct HeadHeader {
    slots: usize,
    pages: usize,
    columns: Vec<String>,
    /// First slot of each page, and their number, for keys by channel; empty for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    starts: Vec<u32>,
    /// Slots whose keys are beside the open page.
    #[serde(default, skip_serializing_if = "is_zero")]
    open: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl HeadHeader {
    /// Do pages and slots fit together?
    fn fits(&self, layout: &PageLayout) -> bool {
        if !layout.key_type().is_by_channel() {
            return self.pages == layout.pages_for(self.slots) && self.starts.is_empty() && self.open == 0;
        }
        let sound = |w: &[u32]| w[0] < w[1] && (w[1] - w[0]) as usize <= layout.tokens();
        let newest = self.starts.windows(2).last().map_or(0, |w| w[1].saturating_sub(w[0]) as usize);
        self.starts.len() == self.pages + usize::from(!self.starts.is_empty())
            && self.starts.first().is_none_or(|&first| first == 0)
            && self.starts.last().copied().unwrap_or(0) as usize == self.slots
            && self.starts.windows(2).all(sound)
            && (self.open == 0 || (self.open == newest && self.open < layout.tokens()))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NarrowHeader {
    layer: usize,
    /// What the keys of each head keep.
    channels: Vec<Vec<u32>>,
    /// Slots of each head.
    slots: Vec<usize>,
}

fn refuse(path: &Path, why: impl Into<String>) -> EngineError {
    EngineError::Snapshot { path: path.display().to_string(), why: why.into() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn save(session: &Session, path: &Path, note: &serde_json::Value) -> Result<(), EngineError> {
    let io = |error: std::io::Error| refuse(path, format!("cannot be written: {error}"));
    if session.plan.as_ref().is_some_and(|plan| plan.is_foreign()) {
        return Err(refuse(path, "a session whose press the program brought itself cannot be saved: nothing names it"));
    }
    let heads = session.cache.layers().iter().flat_map(|l| l.heads());
    let narrow = session.cache.layers().iter().filter_map(|l| l.narrow()).flat_map(|n| n.heads());
    let plan = session.plan.as_ref();
    let header = Header {
        model: hex(session.model.fingerprint()),
        options: session.options.clone(),
        history: session.history.clone(),
        prefilled: session.prefilled,
        long_rope: session.long_rope,
        own_eviction: session.own_eviction,
        interrupted: session.interrupted,
        counters: plan.map_or_else(Counters::default, |p| p.counters.clone()),
        acted: plan.map_or_else(Vec::new, |p| p.acted().to_vec()),
        gathered: session.watch.layers().iter().map(GatheredHeader::of).collect(),
        heads: heads
            .clone()
            .map(|h| HeadHeader {
                slots: h.len(),
                pages: h.pages().len(),
                columns: h.columns().iter().map(|c| c.name.to_string()).collect(),
                starts: h.starts().to_vec(),
                open: h.open_keys().len() / h.layout().key_dim().max(1),
            })
            .collect(),
        read: session.reader.as_ref().map(Reader::stats),
        narrow: narrow_headers(session),
        note: note.clone(),
    };
    let json = serde_json::to_vec(&header).map_err(|error| refuse(path, error.to_string()))?;
    let mut file = AtomicFile::create(path)?;
    write(&mut file, &json, heads.chain(narrow), session.watch.layers()).map_err(io)?;
    Ok(file.commit()?)
}

fn narrow_headers(session: &Session) -> Vec<NarrowHeader> {
    let layers = session.cache.layers().iter().enumerate();
    let of_layer = layers.filter_map(|(layer, cache)| {
        let narrow = cache.narrow()?;
        let slots = narrow.heads().iter().map(HeadCache::len).collect();
        Some(NarrowHeader { layer, channels: narrow.channels().to_vec(), slots })
    });
    of_layer.collect()
}

/// Older tokens with narrow keys: they follow the whole heads, in the order of the header.
fn restore_narrow(
    session: &mut Session,
    headers: &[NarrowHeader],
    file: &mut impl Read,
    path: &Path,
) -> Result<(), EngineError> {
    let (seen, config) = (session.history.len(), session.model.config());
    let (layers, heads, dim) = (config.layers, config.kv_heads, config.head_dim);
    let mut next = 0;
    for header in headers {
        let lists = &header.channels;
        let width = lists.first().map_or(0, Vec::len);
        let sound = |list: &Vec<u32>| {
            list.len() == width && list.windows(2).all(|w| w[0] < w[1]) && list.iter().all(|&c| (c as usize) < dim)
        };
        let fits = (next..layers).contains(&header.layer) && lists.len() == heads && header.slots.len() == heads;
        if !fits || width == 0 || !lists.iter().all(sound) {
            return Err(refuse(path, format!("narrow keys of layer {} do not fit the model", header.layer)));
        }
        next = header.layer + 1;
        let cache = session.cache.layer_mut(header.layer);
        let first: Vec<Option<u32>> = cache.heads().iter().map(|h| h.positions().first().copied()).collect();
        let Some(narrow) = cache.open_narrow(lists.clone()) else {
            return Err(refuse(path, "narrow keys of a layer without heads"));
        };
        for ((head, &slots), first) in narrow.heads_mut().iter_mut().zip(&header.slots).zip(first) {
            let pages = head.layout().pages_for(slots);
            let entry = HeadHeader { slots, pages, columns: Vec::new(), starts: Vec::new(), open: 0 };
            let limit = first.map_or(seen, |p| p as usize);
            restore_head(head, &entry, limit, file, path)?;
        }
    }
    Ok(())
}

/// Fill a head; its positions lie below `limit`.
fn restore_head(
    head: &mut HeadCache,
    entry: &HeadHeader,
    limit: usize,
    file: &mut impl Read,
    path: &Path,
) -> Result<(), EngineError> {
    let io = |error: std::io::Error| refuse(path, format!("cannot be read: {error}"));
    let layout = head.layout();
    if entry.slots > limit || !entry.fits(&layout) {
        return Err(refuse(path, format!("{} slots on {} pages do not fit", entry.slots, entry.pages)));
    }
    let mut positions = vec![0u32; entry.slots];
    file.read_exact(bytemuck::cast_slice_mut(&mut positions)).map_err(io)?;
    if positions.windows(2).any(|w| w[0] >= w[1]) || positions.last().is_some_and(|&p| p as usize >= limit) {
        return Err(refuse(path, "positions are not increasing"));
    }
    let mut norms = vec![0f32; entry.slots];
    file.read_exact(bytemuck::cast_slice_mut(&mut norms)).map_err(io)?;
    let columns = read_columns(entry, file, path)?;
    let mut open = vec![half::f16::ZERO; entry.open * layout.key_dim()];
    file.read_exact(bytemuck::cast_slice_mut(&mut open)).map_err(io)?;
    let mut pages = vec![0u8; entry.pages * layout.page_bytes()];
    file.read_exact(&mut pages).map_err(io)?;
    head.load(&pages, positions, norms, columns);
    if layout.key_type().is_by_channel() {
        head.load_by_channel(entry.starts.clone(), open);
    }
    Ok(())
}

fn write<'a>(
    file: &mut AtomicFile,
    json: &[u8],
    heads: impl Iterator<Item = &'a HeadCache>,
    gathered: &[LayerState],
) -> std::io::Result<()> {
    let mut out = Hashing { out: file, hash: Hash::sha256() };
    out.write_all(MAGIC)?;
    out.write_all(&(json.len() as u64).to_le_bytes())?;
    out.write_all(json)?;
    for head in heads {
        out.write_all(bytemuck::cast_slice(head.positions()))?;
        out.write_all(bytemuck::cast_slice(head.norms()))?;
        for column in head.columns() {
            out.write_all(bytemuck::cast_slice(&column.values))?;
        }
        out.write_all(bytemuck::cast_slice(head.open_keys()))?;
        for page in head.pages() {
            out.write_all(page)?;
        }
    }
    for layer in gathered {
        gathered::write(layer, &mut out)?;
    }
    let sum = out.hash.bytes();
    out.out.write_all(&sum)
}

struct Hashing<W: Write> {
    out: W,
    hash: Hash,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

pub(super) fn restore(model: Arc<Model>, path: &Path) -> Result<(Session, serde_json::Value), EngineError> {
    let io = |error: std::io::Error| refuse(path, format!("cannot be read: {error}"));
    check_sum(path)?;
    let mut file = std::io::BufReader::new(std::fs::File::open(path).map_err(io)?);
    let length = file.get_ref().metadata().map_err(io)?.len();
    let mut start = [0u8; 16];
    file.read_exact(&mut start).map_err(io)?;
    let json_len = u64::from_le_bytes(start[8..].try_into().map_err(|_| refuse(path, "too short"))?);
    if json_len > length {
        return Err(refuse(path, format!("its header claims {json_len} bytes of a file of {length}")));
    }
    let mut json = vec![0u8; json_len as usize];
    file.read_exact(&mut json).map_err(io)?;
    let header: Header = serde_json::from_slice(&json).map_err(|error| refuse(path, format!("header: {error}")))?;
    if header.model != hex(model.fingerprint()) {
        return Err(refuse(path, "it was saved with another model; load that model, or start a new session"));
    }
    let mut session = Session::new(model, header.options)?;
    session.history = header.history;
    session.prefilled = header.prefilled;
    session.long_rope = header.long_rope;
    session.own_eviction = header.own_eviction;
    if let (Some(reader), Some(stats)) = (session.reader.as_mut(), header.read) {
        reader.set_stats(stats);
    }
    session.interrupted = header.interrupted;
    if header.counters.moved_down > session.history.len() {
        return Err(refuse(path, "its positions were moved further down than tokens were seen"));
    }
    if let Some(plan) = session.plan.as_mut() {
        plan.counters = header.counters;
        plan.restore_acted(&header.acted);
    }
    let vocab = session.model.config().vocab;
    if session.history.iter().any(|&id| id as usize >= vocab) {
        return Err(refuse(path, "its history holds ids outside the vocabulary"));
    }
    let seen = session.history.len();
    let expected = session.cache.layers().iter().map(|l| l.heads().len()).sum::<usize>();
    if header.heads.len() != expected {
        return Err(refuse(path, format!("it holds {} heads, the model has {expected}", header.heads.len())));
    }
    let mut entries = header.heads.iter();
    for layer in 0..session.model.config().layers {
        for head in session.cache.layer_mut(layer).heads_mut() {
            let Some(entry) = entries.next() else { return Err(refuse(path, "a head is missing")) };
            restore_head(head, entry, seen, &mut file, path)?;
        }
    }
    restore_narrow(&mut session, &header.narrow, &mut file, path)?;
    if !header.gathered.is_empty() && header.gathered.len() != session.model.config().layers {
        return Err(refuse(path, "what was gathered for the press is of another number of layers"));
    }
    for (state, entry) in session.watch.layers_mut().iter_mut().zip(&header.gathered) {
        *state = entry.read(&mut file, length).map_err(|why| refuse(path, why))?;
    }
    if session.prefilled {
        session.forget_what_no_press_will_read();
    }
    Ok((session, header.note))
}

fn read_columns(entry: &HeadHeader, file: &mut impl Read, path: &Path) -> Result<Vec<Column>, EngineError> {
    let mut columns = Vec::with_capacity(entry.columns.len());
    for name in &entry.columns {
        let mut values = vec![0f32; entry.slots];
        file.read_exact(bytemuck::cast_slice_mut(&mut values))
            .map_err(|error| refuse(path, format!("cannot be read: {error}")))?;
        columns.push(Column { name: name.clone().into(), values });
    }
    Ok(columns)
}

/// The whole file is hashed before anything of it is believed.
fn check_sum(path: &Path) -> Result<(), EngineError> {
    let io = |error: std::io::Error| refuse(path, format!("cannot be read: {error}"));
    let mut file = std::fs::File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length < (MAGIC.len() + 8 + CHECKSUM) as u64 {
        return Err(refuse(path, "it is too short to be a saved session"));
    }
    let mut left = length - CHECKSUM as u64;
    let mut hash = Hash::sha256();
    let mut buffer = vec![0u8; 1 << 16];
    let mut first = true;
    while left > 0 {
        let take = buffer.len().min(left as usize);
        file.read_exact(&mut buffer[..take]).map_err(io)?;
        if first && !buffer.starts_with(MAGIC) {
            return Err(refuse(path, "it is not a saved session of this version (its first bytes are others)"));
        }
        first = false;
        hash.update(&buffer[..take]);
        left -= take as u64;
    }
    let mut sum = [0u8; CHECKSUM];
    file.read_exact(&mut sum).map_err(io)?;
    if hash.bytes() != sum {
        return Err(refuse(path, "its checksum is wrong: the file is damaged; save the session again"));
    }
    Ok(())
}
