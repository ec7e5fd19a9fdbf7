//! What was gathered for presses, in a saved session.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::press::watch::{LayerState, Moments, RecentQueries};

/// Sizes of one layer's data; the data follows the pages, little-endian, in this order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatheredHeader {
    queries: usize,
    query_floats: usize,
    count: u64,
    sums: usize,
    products: usize,
    early: usize,
    early_floats: usize,
    waiting: Vec<(String, usize, usize)>,
    named: Vec<(String, usize)>,
}

impl GatheredHeader {
    pub fn of(layer: &LayerState) -> GatheredHeader {
        GatheredHeader {
            queries: layer.queries.positions.len(),
            query_floats: layer.queries.rows.len(),
            count: layer.moments.count,
            sums: layer.moments.sum.len(),
            products: layer.moments.outer.len(),
            early: layer.moments.early.positions.len(),
            early_floats: layer.moments.early.rows.len(),
            waiting: layer.waiting.iter().map(|(name, q)| (name.clone(), q.positions.len(), q.rows.len())).collect(),
            named: layer.named.iter().map(|(name, values)| (name.clone(), values.len())).collect(),
        }
    }

    /// Read the layer back. `most` is the length of the file: nothing longer is believed.
    pub fn read(&self, file: &mut impl Read, most: u64) -> Result<LayerState, String> {
        let queries = rows_of(file, self.queries, self.query_floats, most)?;
        let sum = values::<f64>(file, self.sums, most)?;
        let outer = values::<f64>(file, self.products, most)?;
        let early = rows_of(file, self.early, self.early_floats, most)?;
        let moments = Moments { count: self.count, sum, outer, early };
        let mut state = LayerState { queries, moments, ..LayerState::default() };
        for (name, count, floats) in &self.waiting {
            state.waiting.insert(name.clone(), rows_of(file, *count, *floats, most)?);
        }
        for (name, count) in &self.named {
            state.named.insert(name.clone(), values::<f32>(file, *count, most)?);
        }
        Ok(state)
    }
}

fn rows_of(file: &mut impl Read, count: usize, floats: usize, most: u64) -> Result<RecentQueries, String> {
    let positions = values::<u32>(file, count, most)?;
    let rows = values::<f32>(file, floats, most)?;
    Ok(RecentQueries { rows, positions })
}

fn values<T: bytemuck::Pod>(file: &mut impl Read, count: usize, most: u64) -> Result<Vec<T>, String> {
    if (count as u64).saturating_mul(size_of::<T>() as u64) > most {
        return Err(format!("it claims {count} gathered numbers, more than the file holds"));
    }
    let mut values = vec![T::zeroed(); count];
    file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(values)
}

/// Write one layer, in the order of its header.
pub(super) fn write(layer: &LayerState, out: &mut impl Write) -> std::io::Result<()> {
    let write_rows = |out: &mut dyn Write, queries: &RecentQueries| {
        out.write_all(bytemuck::cast_slice(&queries.positions))?;
        out.write_all(bytemuck::cast_slice(&queries.rows))
    };
    write_rows(out, &layer.queries)?;
    out.write_all(bytemuck::cast_slice(&layer.moments.sum))?;
    out.write_all(bytemuck::cast_slice(&layer.moments.outer))?;
    write_rows(out, &layer.moments.early)?;
    for queries in layer.waiting.values() {
        write_rows(out, queries)?;
    }
    for values in layer.named.values() {
        out.write_all(bytemuck::cast_slice(values))?;
    }
    Ok(())
}
