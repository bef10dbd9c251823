"Intervals cover; comparisons equal statsmodels. (4,000 simulations run in bench/.)"
import numpy as np, pytest
from scipy.stats import bootstrap as scipy_bootstrap
from helpers import draw_labels, softmax
from interp_kit.predictions import Predictions, benjamini_hochberg, bootstrap, compare_predictions, mcnemar, mean_interval, row_scores, wilson

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
        _, lo, hi = bootstrap(p, metric, n=400, seed=s) if metric == "accuracy" else (0, *mean_interval(getattr(row_scores(p), metric), 400, s))
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
