"Numbers of a training against slow literal formulas, verdicts on planted courses, tests of trend against their definition."
import json, math
from itertools import permutations
import numpy as np, pytest
from scipy.stats import kendalltau
from interp_kit.core import DataError
from interp_kit.training.dynamics import TrainingDynamics, _smooth, dynamics
from interp_kit.training.dynamics_findings import _rising_p
from interp_kit.training.history import TrainingHistory

nan = float("nan")


def literal(loss, val, acc, better):
    "The contract's definitions, with loops; lists of equal length, None where there is no number."
    both = [(v, t) for v, t in zip(val, loss) if v == v and t == t]
    k = -(-len(both)//3)
    last = [v for v in val if v == v][-10:]
    mean = sum(last)/len(last)
    known = [(i, a) for i, a in enumerate(acc) if a == a]
    peak = max(known, key=lambda p: p[1]*better)[1]
    first = known[0][1]
    reached = (lambda a: a >= .95*peak) if better > 0 and peak > 0 else (lambda a: better*a >= better*first + .95*better*(peak - first) - 1e-12)
    return dict(overfitting_index=sum(v - t for v, t in both[-k:])/k, final_gap=both[-1][0] - both[-1][1], training_stability=math.sqrt(sum((v - mean)**2 for v in last)/len(last)),
                peak_performance=peak, peak_epoch=next(i for i, a in known if a == peak), epochs_to_convergence=next(i for i, a in known if reached(a)),
                best_loss=min(v for v in val if v == v), best_epoch=min((v, i) for i, v in enumerate(val) if v == v)[1])


@pytest.mark.parametrize("seed", range(40))
def test_equal_to_the_literal_formulas(seed):
    r = np.random.default_rng(seed); n = int(r.integers(3, 40)); better = 1 if seed % 2 else -1
    curves = [r.normal(size=n).cumsum()*.2 + 2, r.normal(size=n).cumsum()*.2 + 2, r.random(n) - .5*(seed % 3 == 0)]
    if seed % 4 == 0: curves[2] = np.round(curves[2], 1)  # ties
    if seed % 5 == 0:
        for c in curves: c[r.integers(0, n)] = nan
    if any(np.isfinite(c).sum() < 3 for c in curves) or (np.isfinite(curves[0]) & np.isfinite(curves[1])).sum() < 3: pytest.skip("too few numbers to compare")
    d = dynamics(TrainingHistory.from_dict({"loss": curves[0], "val_loss": curves[1], "val_m": curves[2]}, directions={"m": "max" if better > 0 else "min"}))
    for k, v in literal(*[c.tolist() for c in curves], better).items(): assert abs(getattr(d, k) - v) <= 1e-9*max(1, abs(v)), (k, getattr(d, k), v)
    assert not d.reasons


def test_the_line_fixture():
    for accuracy in ("val_accuracy", "val_acc"):
        d = dynamics({"loss": np.linspace(2, .5, 12), "val_loss": np.linspace(2, .9, 12), accuracy: np.linspace(.1, .8, 12)})
        assert d.epochs_to_convergence == 11 and d.peak_epoch == 11 and abs(d.overfitting_index - .3454545455) < 1e-9 and abs(d.final_gap - .4) < 1e-12 and abs(d.training_stability - .2872281323) < 1e-9


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 8, 13])
def test_every_number_has_a_value_or_a_reason(n):
    r = np.random.default_rng(n); c = lambda: r.random(n).tolist()
    for h in ({}, {"loss": c()}, {"val_loss": c()}, {"val_acc": c()}, {"acc": c()}, {"loss": c(), "val_loss": c()}, {"loss": c(), "val_loss": [nan]*n}, {"train_loss": c(), "valid_loss": c(), "error_rate": c()}, {"val_reward": c()},
              {"loss": c(), "val_loss": c()[:n//2]}, {"loss": [None]*n, "val_loss": c()}):
        d = dynamics(h)
        for k in ("epochs_to_convergence", "overfitting_index", "training_stability", "peak_performance", "peak_epoch", "best_loss", "best_epoch", "final_gap"):
            assert math.isfinite(getattr(d, k)) != bool(d.reasons.get(k)), (h, k, getattr(d, k), d.reasons)
        json.dumps(d.to_dict(), allow_nan=False); d.findings(); d._repr_html_(); assert len(d.table) == 8
        if n < 5: assert not [f for f in d.findings() if f.type != "diverged"]
        try: d.plot()
        except DataError as e: assert "nothing to draw" in str(e)


def test_error_rate_is_no_loss_and_plain_accuracy_of_fastai_is_validation():
    d = dynamics({"train_loss": [1., .5, .4], "valid_loss": [1., .6, .5], "error_rate": [.5, .2, .3]})
    assert (d.metric, d.peak_performance, d.peak_epoch, d.best_loss) == ("valid_error_rate", .2, 1, .5)
    assert dynamics({"loss": [1., .5], "accuracy": [.1, .2], "val_accuracy": [.3, .2]}).peak_performance == .3


def test_smoothing_equals_a_loop():
    r = np.random.default_rng(0)
    for n, w in ((1, 4), (5, 2), (7, 3), (9, 4), (3, 9), (20, 5)):
        v = r.random(n); v[r.random(n) < .2] = nan
        back, ahead = (w - 1)//2, w//2
        for i, s in enumerate(_smooth(v, w)):
            part = [v[min(max(j, 0), n - 1)] for j in range(i - back, i + ahead + 1)]; part = [p for p in part if p == p]
            assert (s != s) if v[i] != v[i] else abs(s - sum(part)/len(part)) < 1e-12


@pytest.mark.parametrize("n", [3, 5, 7])
def test_trend_against_all_orders(n):
    score = lambda o: sum((b > a) - (b < a) for i, a in enumerate(o) for b in o[i+1:])
    all_ = np.array([score(o) for o in permutations(range(n))])
    for o in list(permutations(range(n)))[::max(1, len(all_)//40)]: assert abs(_rising_p(o) - (all_ >= score(o)).mean()) < 1e-12


def test_trend_against_scipy():
    r = np.random.default_rng(0)
    for n in (8, 20, 30):
        v = r.normal(size=n); assert abs(_rising_p(v) - kendalltau(np.arange(n), v, alternative="greater", method="exact").pvalue) < 1e-9
    v = r.normal(size=300); assert abs(_rising_p(v) - kendalltau(np.arange(300), v, alternative="greater", method="asymptotic").pvalue) < .01
    tied = np.round(r.normal(size=(2000, 12)), 0); rate = np.mean([_rising_p(t) <= .05 for t in tied]); assert rate <= .06


def types(**curves): return [(f.type, f.severity) for f in dynamics(curves).findings()]


def test_verdicts_are_about_scale_not_about_size():
    e = np.arange(30); r = np.random.default_rng(0); jitter = 1 + .03*r.normal(size=30)
    valid = (.5 + 1.8*np.exp(-e/3) + .03*np.maximum(e - 9, 0))*jitter; train = 2*np.exp(-e/6) + .01
    want = types(loss=train, val_loss=valid); assert want == [("overfitting", "high")]
    for factor in (1e-4, 1e6): assert types(loss=train*factor, val_loss=valid*factor) == want


def test_who_rises_alone_and_who_rises_together():
    e = np.arange(20.); up = np.where(e < 8, 2 - .15*e, .95 + .05*(e - 8))
    assert types(loss=2*np.exp(-e/5), val_loss=up) == [("overfitting", "medium")]
    assert types(val_loss=up) == [("overfitting", "low")]
    assert types(loss=up, val_loss=up) == []  # training loss rises too: no overfitting


def test_negative_losses_are_compared_with_their_range():
    e = np.arange(30.)
    assert types(loss=-3*(1 - np.exp(-e/8)), val_loss=-2*(1 - np.exp(-e/3)) + .03*np.maximum(e - 10, 0)) == [("overfitting", "medium")]
    r = np.random.default_rng(0); assert types(loss=-1 + .01*r.normal(size=30), val_loss=-1 + .5*r.normal(size=30)) == []  # no scale to judge jumps by


@pytest.mark.parametrize("at,severity", [([5], "medium"), ([28, 29], "critical")])
def test_not_finite(at, severity):
    v = np.full(30, .5); v[at] = nan
    assert types(loss=np.full(30, .4), val_loss=v) == [("diverged", severity)]
    v[at] = np.inf; assert types(loss=v) == [("diverged", severity)]


def test_a_history_is_never_changed():
    h = TrainingHistory.from_dict({"loss": [3., 2, nan], "val_loss": [3., 2.5, 2]}); before = json.dumps(h.to_dict())
    d = dynamics(h); d.plot(); d.findings(); d.smoothed; d.to_dict(); assert json.dumps(h.to_dict()) == before and isinstance(d, TrainingDynamics)
