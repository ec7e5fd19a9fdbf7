//! Mean and covariance of each query head before rotation, the first 4 tokens of a sequence left out
//! (arXiv 2510.00636; the covariance is divided by n - 1, as in the published files).

use std::sync::Arc;

use super::{Tensor, Texts};
use crate::error::EngineError;
use crate::press::Press;
use crate::press::score::expected_attention::ExpectedAttention;
use crate::press::watch::Moments;

pub(super) fn run(texts: &mut Texts<'_, '_>) -> Result<Vec<Tensor>, EngineError> {
    let c = texts.model.config().clone();
    let watch: Arc<dyn Press> = Arc::new(ExpectedAttention::default());
    let mut layers = vec![Moments::default(); c.layers];
    texts.read(&[watch], |session, _| {
        for (all, one) in layers.iter_mut().zip(session.gathered()) {
            all.add(&one.moments);
        }
        Ok(())
    })?;
    let dim = c.head_dim;
    let (mut mean, mut covariance) = (Vec::new(), Vec::new());
    for moments in &layers {
        // sliding layers are not watched: no press acts there, and their numbers are zero
        let known = moments.count > 1;
        let unbiased = moments.count as f64 / (moments.count as f64 - 1.0);
        for q_head in 0..c.q_heads {
            if !known {
                mean.resize(mean.len() + dim, 0.0);
                covariance.resize(covariance.len() + dim * dim, 0.0);
                continue;
            }
            mean.extend(moments.mean(q_head, dim).iter().map(|&x| x as f32));
            covariance.extend(moments.covariance(q_head, dim).iter().map(|&x| (x * unbiased) as f32));
        }
    }
    Ok(vec![
        Tensor { name: "query_mean".into(), shape: vec![c.layers, c.q_heads, dim], values: mean },
        Tensor { name: "query_cov".into(), shape: vec![c.layers, c.q_heads, dim, dim], values: covariance },
    ])
}
