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
            waiting: layer.waiting.iter().map(|(name, q)| (name.clone(), q.positions.len(), q.rows.len())).collect(),
            named: layer.named.iter().map(|(name, values)| (name.clone(), values.len())).collect(),
        }
    }

    /// Read the layer back. `most` is the length of the file: nothing longer is believed.
    pub fn read(&self, file: &mut impl Read, most: u64) -> Result<LayerState, String> {
        let positions = values::<u32>(file, self.queries, most)?;
        let rows = values::<f32>(file, self.query_floats, most)?;
        let sum = values::<f64>(file, self.sums, most)?;
        let outer = values::<f64>(file, self.products, most)?;
        let mut state = LayerState {
            queries: RecentQueries { rows, positions },
            moments: Moments { count: self.count, sum, outer },
            ..LayerState::default()
        };
        for (name, count, floats) in &self.waiting {
            let positions = values::<u32>(file, *count, most)?;
            let rows = values::<f32>(file, *floats, most)?;
            state.waiting.insert(name.clone(), RecentQueries { rows, positions });
        }
        for (name, count) in &self.named {
            state.named.insert(name.clone(), values::<f32>(file, *count, most)?);
        }
        Ok(state)
    }
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
    out.write_all(bytemuck::cast_slice(&layer.queries.positions))?;
    out.write_all(bytemuck::cast_slice(&layer.queries.rows))?;
    out.write_all(bytemuck::cast_slice(&layer.moments.sum))?;
    out.write_all(bytemuck::cast_slice(&layer.moments.outer))?;
    for queries in layer.waiting.values() {
        out.write_all(bytemuck::cast_slice(&queries.positions))?;
        out.write_all(bytemuck::cast_slice(&queries.rows))?;
    }
    for values in layer.named.values() {
        out.write_all(bytemuck::cast_slice(values))?;
    }
    Ok(())
}
