use super::*;
use meden_stats::Rng;

fn problem(seed: u64, rows: usize, width: usize) -> (Design, Vec<bool>) {
    let mut rng = Rng::new(seed, 0);
    let columns: Vec<f64> = (0..rows * width).map(|_| rng.normal()).collect();
    let design = Design::from_columns(columns, rows).unwrap();
    let labels = (0..rows).map(|r| 2.0 * design.column(0)[r] - design.column(1)[r] + rng.normal() > 0.3).collect();
    (design, labels)
}

#[test]
fn the_optimality_conditions_hold_and_nothing_near_is_better() {
    let (x, labels) = problem(1, 200, 12);
    for lambda in [0.0, 1e-3, 0.05] {
        let solver = L1Logistic { lambda, ..L1Logistic::default() };
        let fit = solver.fit(&x, &labels, None).unwrap();
        let value = |w: &[f64], b: f64| {
            let mut state = State::new(&solver, &x, &labels, vec![1.0 / 200.0; 200]);
            state.w = [w, &[b]].concat();
            for row in 0..200 {
                state.z[row] = b + (0..12).map(|j| w[j] * x.column(j)[row]).sum::<f64>();
            }
            state.loss(&state.z) + state.penalty(&state.w)
        };
        assert!((value(&fit.weight, fit.bias) - fit.objective).abs() < 1e-12);
        let mut rng = Rng::new(2, 0);
        for _ in 0..200 {
            let near: Vec<f64> = fit.weight.iter().map(|w| w + 1e-3 * rng.normal()).collect();
            assert!(value(&near, fit.bias + 1e-3 * rng.normal()) >= fit.objective - 1e-13);
        }
    }
}

#[test]
fn a_large_penalty_leaves_nothing_and_a_small_one_leaves_few() {
    let (x, labels) = problem(3, 300, 20);
    let fit = |lambda| L1Logistic { lambda, ..L1Logistic::default() }.fit(&x, &labels, None).unwrap();
    let none = fit(10.0);
    assert!(none.weight.iter().all(|w| *w == 0.0) && none.bias == 0.0);
    let count = |f: &Fit| f.weight.iter().filter(|w| **w != 0.0).count();
    let (sparse, dense) = (fit(0.05), fit(1e-5));
    assert!(count(&sparse) >= 2 && count(&sparse) < count(&dense));
    assert!(sparse.weight[0] > 0.0 && sparse.weight[1] < 0.0);
}

#[test]
fn a_weight_of_two_is_a_row_that_stands_there_twice_and_scale_does_not_matter() {
    let (x, labels) = problem(5, 60, 4);
    let weights: Vec<f64> = (0..60).map(|r| (r % 3) as f64).collect();
    let rows: Vec<usize> = (0..60).flat_map(|r| std::iter::repeat_n(r, r % 3)).collect();
    let columns = (0..4).flat_map(|j| rows.iter().map(move |&r| (j, r))).map(|(j, r)| x.column(j)[r]).collect();
    let twice = Design::from_columns(columns, rows.len()).unwrap();
    let repeated: Vec<bool> = rows.iter().map(|&r| labels[r]).collect();
    let solver = L1Logistic { lambda: 0.01, ..L1Logistic::default() };
    let weighted = solver.fit(&x, &labels, Some(&weights)).unwrap();
    let plain = solver.fit(&twice, &repeated, None).unwrap();
    assert!(weighted.weight.iter().zip(&plain.weight).all(|(a, b)| (a - b).abs() < 1e-6));
    let larger: Vec<f64> = weights.iter().map(|w| 8.0 * w).collect();
    assert_eq!(solver.fit(&x, &labels, Some(&larger)).unwrap(), weighted);
}

#[test]
fn separable_rows_have_a_finite_answer_under_a_penalty() {
    let x = Design::from_columns(vec![-2.0, -1.0, 1.0, 2.0], 4).unwrap();
    let labels = [false, false, true, true];
    let fit = L1Logistic::default().fit(&x, &labels, None).unwrap();
    assert!(fit.weight[0] > 3.0 && fit.weight[0] < 20.0 && fit.bias.abs() < 1e-6, "{fit:?}");
    let free = L1Logistic { lambda: 0.0, ..L1Logistic::default() }.fit(&x, &labels, None);
    // without a penalty the weights grow until the gradient is as small as was asked for
    assert!(free.is_ok_and(|f| f.weight[0] > fit.weight[0]));
}

#[test]
fn columns_that_are_much_alike_are_solved_too() {
    // one strong common factor, as in activations of one token in early layers
    let (rows, width) = (400, 60);
    let mut rng = Rng::new(11, 0);
    let common: Vec<f64> = (0..rows).map(|_| rng.normal()).collect();
    let columns: Vec<f64> =
        (0..width).flat_map(|_| common.iter().map(|c| c + 0.01 * rng.normal()).collect::<Vec<f64>>()).collect();
    let design = Design::from_columns(columns, rows).unwrap();
    let labels: Vec<bool> =
        (0..rows).map(|r| 40.0 * (design.column(0)[r] - design.column(1)[r]) + rng.normal() > 0.0).collect();
    for lambda in [1e-3, 3e-4, 1e-5] {
        let solver = L1Logistic { lambda, tolerance: 1e-7, ..L1Logistic::default() };
        let fit = solver.fit(&design, &labels, None).unwrap();
        assert!(fit.steps < 60, "{lambda}: {} steps", fit.steps);
    }
}

#[test]
fn rough_second_derivatives_lead_to_the_same_minimum() {
    let (x, labels) = problem(13, 2500, 120);
    let solver = L1Logistic { lambda: 3e-4, tolerance: 1e-7, ..L1Logistic::default() };
    let rough = solver.fit(&x, &labels, None).unwrap();
    let mut state = State::new(&solver, &x, &labels, vec![1.0 / 2500.0; 2500]);
    for _ in 0..50 {
        let gradient = state.gradient();
        let violation = state.violation(&gradient);
        if violation <= 1e-9 {
            break;
        }
        let direction = state.direction(&gradient, violation, true);
        state.search(&gradient, &direction);
    }
    let exact = state.finish(0);
    assert!(rough.weight.iter().zip(&exact.weight).all(|(a, b)| (a - b).abs() < 1e-4));
    assert!(rough.objective - exact.objective < 1e-10);
}

#[test]
fn nonsense_is_refused() {
    let (x, labels) = problem(7, 10, 2);
    let fit = |solver: L1Logistic, labels: &[bool], w: Option<&[f64]>| solver.fit(&x, labels, w);
    let solver = L1Logistic::default();
    assert!(matches!(fit(solver, &labels[1..], None), Err(ProbeError::Count { what: "labels", .. })));
    assert!(matches!(fit(solver, &labels, Some(&[0.0; 10])), Err(ProbeError::Setting { field: "weights", .. })));
    let negative = L1Logistic { lambda: -1.0, ..solver };
    assert!(matches!(fit(negative, &labels, None), Err(ProbeError::Setting { field: "lambda", .. })));
    let hurried = L1Logistic { max_steps: 1, ..solver };
    assert!(matches!(fit(hurried, &labels, None), Err(ProbeError::NotConverged { iterations: 1, .. })));
}
