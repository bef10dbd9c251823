"Findings of regressions are silent on noise of any shape, in both readings of it, and speak on planted faults."
import numpy as np, pytest
from scipy.stats import binom
from interp_kit.interpret.regression_findings import (
    _FEWEST as FEWEST, _MeanFit as MeanFit, _means as check_means, _no_better_than_mean as check_baseline,
    _outliers as check_outliers, _Residuals as Residuals, _tail_gap as tail_gap, _uneven_errors as check_spread,
    regression_findings)
from interp_kit.predictions import Predictions

NOISE = dict(gaussian=lambda r, s: r.normal(size=s), laplace=lambda r, s: r.laplace(size=s), t3=lambda r, s: r.standard_t(3, size=s), skewed=lambda r, s: r.exponential(size=s) - 1)
SIGNAL = dict(normal=lambda r, s: r.normal(size=s), uniform=lambda r, s: r.random(s), lognormal=lambda r, s: np.exp(1.5*r.normal(size=s)), two_clumps=lambda r, s: np.where(r.random(s) < .3, 5, 0) + .1*r.normal(size=s),
              few_values=lambda r, s: r.integers(0, 4, s).astype(float))


def of(p, t): return Predictions.from_arrays(p, t, task="regression")


def null(seed, noise, reading, k=1):
    "Targets are predictions and noise, or predictions are the truth and noise."
    r = np.random.default_rng(seed); shape = (int(r.choice([25, 40, 150, 600, 2000])), k)
    x = SIGNAL[r.choice(list(SIGNAL))](r, shape); y = x + NOISE[noise](r, shape)*x.std()*r.choice([.05, .2, .4])
    return of(x, y) if reading == "targets are noisy" else of(y, x)


@pytest.mark.parametrize("reading", ["targets are noisy", "predictions are noisy"])
@pytest.mark.parametrize("noise", list(NOISE))
def test_at_most_5_percent_of_null_sets_speak(noise, reading):
    N = 400; spoke = sum(bool(regression_findings(null(s, noise, reading))) for s in range(N))
    assert spoke <= binom.ppf(.99, N, .05), spoke  # the one-sided 99 % bound does not exclude 5 %


@pytest.mark.parametrize("noise", ["gaussian", "t3"])
def test_five_targets_are_no_five_chances_of_a_false_alarm(noise):
    N = 400; spoke = sum(bool(regression_findings(null(10_000 + s, noise, "targets are noisy", 5))) for s in range(N))
    assert spoke <= binom.ppf(.99, N, .05), spoke


@pytest.mark.parametrize("noise", ["gaussian", "t3", "skewed"])
def test_each_rule_keeps_its_own_level(noise):
    N, rules = 600, (check_means, check_spread, check_outliers, check_baseline); spoke = dict.fromkeys([f.__name__ for f in rules], 0)
    for s in range(N):
        p = null(20_000 + s, noise, "targets are noisy"); e = [Residuals.of(p.preds[:, 0].numpy(), p.targs[:, 0].numpy(), p.rows)]
        for f in rules: spoke[f.__name__] += bool(f(e))
    assert max(spoke.values()) <= binom.ppf(.999, N, .01), spoke


def planted(kind, seed, noise, n=1500):
    r = np.random.default_rng(seed); c = r.normal(size=n)*2 + 10; e = NOISE[noise](r, n); p, t = c, c + e
    if kind == "bias": p = c - .35*e.std()
    if kind == "timid": p = 10 + .6*(c - 10)
    if kind == "extreme": p = 10 + 1.5*(c - 10)
    if kind == "curve": t = t + .3*(c - 10)**2 - 1.2
    if kind == "uneven_errors": t = c + e*np.exp(.5*(c - 10))
    if kind == "outliers": rows = r.choice(n, 6, replace=False); t = t.copy(); t[rows] = 100*t[rows]
    if kind == "no_better_than_mean": p = r.permutation(c)
    return of(p, t)


KINDS = ("bias", "timid", "extreme", "curve", "uneven_errors", "outliers", "no_better_than_mean")


@pytest.mark.parametrize("noise", ["gaussian", "laplace", "t3"])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_faults_are_found(kind, noise):
    for seed in range(3): assert kind in {f.type for f in regression_findings(planted(kind, seed, noise))}, seed


def test_faults_of_predictions_that_are_the_truth_and_noise_are_found_too():
    for seed in range(3):
        r = np.random.default_rng(seed); t = r.normal(size=1500); e = .4*r.normal(size=1500)
        for kind, p in dict(bias=t + e + .2, timid=.6*t + .2*e, extreme=1.6*t + e, uneven_errors=t + .5*e*np.exp(.5*t)).items(): assert kind in {f.type for f in regression_findings(of(p, t))}, (kind, seed)
        assert regression_findings(of(t + e*np.exp(t), t)), "seen from the prediction this is a slope and a curve"


def test_findings_name_rows_and_numbers():
    p = planted("outliers", 0, "gaussian"); f = next(f for f in regression_findings(p) if f.type == "outliers")
    wrong = np.flatnonzero(p.targs.numpy() > 200); assert set(f.rows) == set(wrong.tolist()) and f.evidence["count"] == 6 and f.evidence["share_of_squared_error"] > .95
    p = planted("bias", 1, "gaussian"); f = next(f for f in regression_findings(p) if f.type == "bias")
    assert abs(f.evidence["bias"] - float((p.preds - p.targs).mean())) < 1e-9 and "too low" in f.title
    r = (p.preds - p.targs).numpy()[list(f.rows)]; assert (np.diff(r) >= 0).all() and r[0] < 0, "worst first"


def test_the_target_at_fault_is_named():
    r = np.random.default_rng(0); t = r.normal(size=(800, 3)); p = t + .3*r.normal(size=(800, 3)); p[:, 1] += .3
    q = of(p, t); q.meta["target_names"] = ["height", "weight", "age"]
    assert [(f.type, f.classes) for f in regression_findings(q)] == [("bias", ("weight",))]
    assert [(f.type, f.classes) for f in regression_findings(q, ["a", "b", "c"])] == [("bias", ("b",))]


def test_constant_predictions_and_constant_targets():
    r = np.random.default_rng(0); t = r.normal(size=200)
    f = regression_findings(of(np.full(200, t.mean()), t)); assert [o.type for o in f] == ["no_better_than_mean"] and "hardly vary" in f[0].interpretation
    assert "bias" in {o.type for o in regression_findings(of(np.full(200, t.mean() + 2), t))}
    assert regression_findings(of(np.full(50, 3.), np.full(50, 3.))) == []
    assert [o.type for o in regression_findings(of(np.full(50, 3.5), np.full(50, 3.)))] == ["bias"]


def test_what_is_not_finite_is_told_and_the_rest_is_judged():
    p = planted("bias", 0, "gaussian"); p.preds[3] = np.nan; p.targs[9] = np.inf; p.losses[[3, 9]] = np.nan
    found = {f.type: f for f in regression_findings(p)}; assert set(found) == {"not_finite", "bias"} and set(found["not_finite"].rows) == {3, 9}
    assert [f.type for f in regression_findings(of(np.full(30, np.nan), np.ones(30)))] == ["not_finite"]


@pytest.mark.parametrize("n", [1, 2, 5, FEWEST - 1])
def test_few_rows_say_nothing(n):
    r = np.random.default_rng(0); assert regression_findings(of(r.normal(size=n) + 100, r.normal(size=n))) == []


def test_small_differences_are_no_findings_however_certain():
    r = np.random.default_rng(0); p = r.normal(size=300_000)
    assert regression_findings(of(p + .03, p + .5*r.normal(size=300_000))) == []


def test_heavy_tails_are_no_outliers_and_gaps_are():
    rates = [np.mean([tail_gap(np.abs(r.standard_t(df, n)))[1] < .01 for r in map(np.random.default_rng, range(400))]) for df in (1.5, 2, 3, 30) for n in (60, 2000)]
    assert max(rates) <= binom.ppf(.999, 400, .01)/400, rates


def test_standard_errors_are_those_of_statsmodels():
    import statsmodels.api as sm
    r = np.random.default_rng(0); x = np.exp(r.normal(size=60)); y = x*r.normal(size=60); z = np.c_[np.ones(60), x]
    ref = sm.OLS(y, z).fit(cov_type="HC3", use_t=True); few = MeanFit.of(x, y)
    z2 = np.c_[np.ones(60), x - x.mean()]; assert abs(few.coef[1] - ref.params[1]) < 1e-9 and abs(sm.OLS(y, z2).fit().params[0] - few.coef[0]) < 1e-9
