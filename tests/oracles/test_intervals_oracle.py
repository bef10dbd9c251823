"Intervals cover; comparisons equal statsmodels. (4,000 simulations run in bench/.)"
import numpy as np, pytest
from scipy.stats import bootstrap as scipy_bootstrap
import sklearn.metrics as skm
from helpers import draw_labels, softmax
from interp_kit.core import benjamini_hochberg, mcnemar, mean_interval, wilson
from interp_kit.predictions import Predictions, bootstrap, classification_metrics, compare_predictions, consistency_test, fit_temperature, row_scores


SIMS = 300


def simulated(seed, n=300, C=5):
    r = np.random.default_rng(seed); z = r.normal(size=(n, C))*2; q = softmax(z)
    return q, draw_labels(q, r)


def truth():
    q = softmax(np.random.default_rng(10**6).normal(size=(400_000, 5))*2)
    ent = -(q*np.log(q)).sum(1).mean()
    return dict(accuracy=q.max(1).mean(), log_loss=ent, brier=1 - (q**2).sum(1).mean())


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "brier"])
def test_intervals_cover(metric):
    want = truth()[metric]
    hits = 0
    for s in range(SIMS):
        q, y = simulated(s); p = Predictions.from_arrays(q, y)
        _, lo, hi = bootstrap(p, metric, n=400, seed=s)
        hits += lo <= want <= hi
    slack = 3.1*np.sqrt(.95*.05/SIMS)  # a right implementation passes in 999 of 1,000 runs
    assert .935 - slack < hits/SIMS < .965 + slack


def test_wilson_equals_statsmodels():
    from statsmodels.stats.proportion import proportion_confint
    for k, n in ((0, 5), (5, 5), (1, 3), (333, 1000)):
        for level in (.9, .95): np.testing.assert_allclose(wilson(k, n, level), np.clip(proportion_confint(k, n, 1 - level, method="wilson"), 0, 1), atol=1e-12)


def test_mean_interval_is_close_to_scipys_bca():
    x = np.random.default_rng(0).exponential(size=500)
    ref = scipy_bootstrap((x,), np.mean, n_resamples=4000, method="BCa", rng=0).confidence_interval
    ours = mean_interval(x, 4000)
    np.testing.assert_allclose(ours, [ref.low, ref.high], atol=.02)


def two_models(n=600, seed=0):
    r = np.random.default_rng(seed); z = r.normal(size=(n, 4))*2; y = draw_labels(softmax(z), r)
    return Predictions.from_arrays(softmax(z), y), Predictions.from_arrays(softmax(z + r.normal(size=z.shape)), y)


def test_mcnemar_and_fdr_equal_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as ref
    from statsmodels.stats.multitest import multipletests
    a, b = two_models(); c = compare_predictions(a, b, n=200)
    assert abs(c.p_value - ref([[0, len(c.fixes)], [len(c.breaks), 0]], exact=True).pvalue) < 1e-12
    assert mcnemar(0, 0) == 1
    np.testing.assert_allclose(c.per_class.q_value, multipletests(c.per_class.p_value, method="fdr_bh")[1])
    np.testing.assert_allclose(benjamini_hochberg([.01, np.nan, .02])[[0, 2]], [.02, .02])


def test_paired_interval_equals_paired_t_and_bootstrap():
    from statsmodels.stats.weightstats import DescrStatsW
    a, b = two_models(); c = compare_predictions(a, b, n=10000)
    ra, rb = row_scores(a), row_scores(b)
    for k, d in dict(log_loss=ra.log_loss - rb.log_loss, brier=ra.brier - rb.brier, accuracy=ra.correct.astype(float) - rb.correct).items():
        lo, hi = DescrStatsW(d).tconfint_mean(.05); row = c.metrics.loc[k]
        assert abs(row.difference - d.mean()) < 1e-9
        np.testing.assert_allclose([row.low, row.high], [lo, hi], atol=.12*(hi - lo))


def test_comparison_is_antisymmetric_and_needs_the_same_rows():
    a, b = two_models(); ab, ba = compare_predictions(a, b, n=500), compare_predictions(b, a, n=500)
    np.testing.assert_allclose(ab.metrics.difference, -ba.metrics.difference); assert ab.p_value == ba.p_value
    np.testing.assert_array_equal(ab.fixes, ba.breaks)


def test_every_metric_has_an_interval_around_its_value():
    q, y = simulated(3, 200, 7); p = Predictions.from_arrays(q, y)
    for k, v in classification_metrics(p).items():
        if k == "ece": continue
        value, lo, hi = bootstrap(p, k, n=60); assert value == v and lo <= v <= hi and lo < hi, k


def test_rates_losses_and_rankings_by_independent_means():
    q, y = simulated(5, 400, 7); p = Predictions.from_arrays(q, y, losses=np.random.default_rng(0).exponential(size=400)); r = np.random.default_rng(1)
    top5 = (np.argsort(-q, 1)[:, :5] == y[:, None]).any(1)
    np.testing.assert_allclose(bootstrap(p, "top_5_accuracy")[1:], wilson(int(top5.sum()), 400))
    lo, hi = bootstrap(p, "loss")[1:]; half = 1.96*p.losses.numpy().std()/20; assert abs((hi - lo)/2 - half) < .15*half
    sims = [skm.roc_auc_score(y[i], q[i], multi_class="ovr") for i in r.integers(0, 400, (200, 400)) if len(set(y[i])) == 7]
    np.testing.assert_allclose(bootstrap(p, "roc_auc_ovr_macro", n=200)[1:], np.quantile(sims, [.025, .975]), atol=.006)
    f1 = [skm.f1_score(y[i], q[i].argmax(1), average="macro") for i in r.integers(0, 400, (300, 400))]
    np.testing.assert_allclose(bootstrap(p, "f1_macro")[1:], np.quantile(f1, [.025, .975]), atol=.02)


def test_large_sets_agree_with_resampling_and_theory():
    "Above 20,000 rows normal limits replace resampling: same width as theory gives."
    n = 30_000; q, y = simulated(7, n); p = Predictions.from_arrays(q, y); s = row_scores(p)
    se = s.log_loss.std()/np.sqrt(n); np.testing.assert_allclose(mean_interval(s.log_loss), [s.log_loss.mean() - 1.96*se, s.log_loss.mean() + 1.96*se], rtol=1e-3)
    worse = Predictions.from_arrays(softmax(np.log(q) + np.random.default_rng(0).normal(size=q.shape)), y)
    row, d = compare_predictions(p, worse, n=4000).metrics.loc["brier"], s.brier - row_scores(worse).brier
    np.testing.assert_allclose([row.low, row.high], d.mean() + np.array([-1.96, 1.96])*d.std()/np.sqrt(n), atol=.1*d.std()/np.sqrt(n)*1.96)
    t, half = consistency_test(p, n=400), consistency_test(p[:15_000], n=400)
    width = lambda t: t.band[1] - t.band[0]
    assert .5 < width(t)/width(half) < 1 and t.p_value > .001  # bands shrink like 1/sqrt(n), by .71


def test_comparison_survives_what_is_not_finite():
    q, y = simulated(1, 25_000); a = Predictions.from_arrays(q, y); losses = a.losses.clone(); losses[3] = np.inf
    c = compare_predictions(a, Predictions.from_arrays(q, y, losses=losses), n=50).metrics
    assert np.isnan(c.loc["loss", "low"]) and np.isfinite(c.loc["brier", "low"])


def test_rows_are_matched_by_id_and_ids_must_be_unique():
    a, b = two_models(); ids = np.array([f"img{i}" for i in range(len(a))]); order = np.random.default_rng(0).permutation(len(a))
    named = lambda p, ids: Predictions.from_arrays(p.preds, p.targs, ids=ids)
    want, got = compare_predictions(a, b, n=100), compare_predictions(named(a, ids), named(b, ids)[order], n=100)
    np.testing.assert_array_equal(want.fixes, got.fixes); assert want.p_value == got.p_value
    twice = ids.copy(); twice[1] = twice[0]
    with pytest.raises(ValueError, match="not unique"): compare_predictions(named(a, twice), named(b, twice)[order])


def test_adjusted_p_values_are_monotone():
    from statsmodels.stats.multitest import multipletests
    p = [.9, .04, .041, .042, .2, .0001]; np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1])


def test_cross_fitted_error_is_that_of_other_folds():
    q, y = simulated(2, 2000); hot = softmax(np.log(q)*2); T = fit_temperature(Predictions.from_arrays(hot, y), seed=4)
    parts, soft = np.random.default_rng(4).integers(0, 5, 2000), np.empty_like(hot)
    for f in range(5): soft[parts == f] = softmax(np.log(hot[parts == f])/fit_temperature(Predictions.from_arrays(hot[parts != f], y[parts != f])).temperature)
    from interp_kit.predictions import ece
    assert abs(T.ece_after - ece(Predictions.from_arrays(soft, y))) < 1e-9 and T.ece_after < T.ece_before/2
