//! How many bytes weights take, and how many a token reads.

use meden_kernels::matmul::Matrix;

use super::{Block, Linear, Model};

impl Model {
    /// Bytes of weights that one decoded token reads: every matrix of every layer and the output matrix, as stored.
    pub fn weight_bytes_a_token(&self) -> usize {
        self.blocks.iter().flat_map(Block::matrices).map(Matrix::data_bytes).sum::<usize>() + self.head.data_bytes()
    }
}

impl Block {
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let (a, m) = (&self.attention, &self.mlp);
        [&a.q, &a.k, &a.v, &a.o, &m.gate, &m.up, &m.down].into_iter().map(|linear| &linear.weight)
    }

    /// Bytes that the layer keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        let linear = |l: &Linear| l.weight.bytes() + l.bias.as_ref().map_or(0, |b| b.len() * 4);
        let a = &self.attention;
        let m = &self.mlp;
        let norms = self.attention_norm.len() + self.mlp_norm.len();
        [&a.q, &a.k, &a.v, &a.o, &m.gate, &m.up, &m.down].map(linear).iter().sum::<usize>() + norms * 4
    }
}
