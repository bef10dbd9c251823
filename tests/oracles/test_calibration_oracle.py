"Calibration equals the reference implementations and the fixed values of one data set."
import numpy as np, pytest, torch
import sklearn.metrics as skm
from helpers import draw_labels, needs, softmax
from interp_kit.predictions.calibration import _bin_edges as bin_edges, _bin_index as bin_index
from interp_kit.predictions import (Predictions, adaptive_ece, brier, brier_decomposition, classification_metrics, classwise_ece, consistency_test, debiased_ece, ece,
                                    fit_temperature, reliability, row_scores, smooth_ece)


def fixture(factor=2, n=5000, seed=0):
    r = np.random.RandomState(seed); z = r.standard_normal((n, 10))*2
    u = r.random_sample(n); y = (softmax(z).cumsum(1) < u[:, None]).sum(1).clip(0, 9)
    return Predictions.from_arrays(softmax(factor*z), y)


@pytest.fixture(scope="module")
def d0(): return fixture()


def netcal(): needs("netcal"); from netcal.metrics import ECE, MCE; return ECE, MCE


def test_ece_and_mce_equal_netcal_and_torchmetrics(d0):
    ECE, MCE = netcal(); q, y = d0.preds.numpy(), d0.targs.numpy()
    for bins in (10, 15, 20):
        assert abs(ece(d0, bins) - ECE(bins).measure(q, y)) < 1e-12
        assert abs(reliability(d0, bins).mce - MCE(bins).measure(q, y)) < 1e-12
    needs("torchmetrics"); from torchmetrics.functional.classification import multiclass_calibration_error as tm
    assert abs(ece(d0) - float(tm(d0.preds.float(), d0.targs, 10, n_bins=15))) < 1e-6
    assert abs(reliability(d0).rmsce - float(tm(d0.preds.float(), d0.targs, 10, n_bins=15, norm="l2"))) < 1e-6


@pytest.mark.parametrize("bins", [2, 10, 15, 49, 100])
def test_edges_follow_the_stated_convention_checked_with_integers(bins):
    r = np.random.default_rng(bins); k = r.integers(0, bins + 1, 2000)  # confidences exactly on edges k/bins
    want = np.minimum(k, bins - 1)  # [lo, hi), the last closed
    np.testing.assert_array_equal(bin_index(k/bins, bin_edges(None, bins)), want)
    right = r.random(2000) < .5; high = k/bins >= .5
    p = Predictions.from_arrays(np.stack([k/bins, 1 - k/bins], 1)[high], np.where(right, 0, 1)[high])
    chosen = np.maximum(k, bins - k)[high] if bins % 2 == 0 else k[high]
    dec_right = (p.decoded == p.targs).numpy(); b = np.minimum(chosen, bins - 1)
    slow = sum(abs((chosen[b == i]/bins).mean() - dec_right[b == i].mean())*(b == i).sum() for i in range(bins) if (b == i).any())/high.sum()
    assert abs(ece(p, bins) - slow) < 1e-12


def test_fixed_values(d0):
    m = classification_metrics(d0)
    assert abs(m["accuracy"] - .5428) < 1e-12 and abs(m["mean_confidence"] - .7402265025) < 1e-9
    assert abs(classwise_ece(d0) - .0438253932) < 1e-9 and abs(adaptive_ece(d0) - .1974265025) < 1e-9 and abs(m["brier"] - .6620605036) < 1e-9
    assert abs(m["mean_entropy"] - .7108771288) < 1e-9
    assert abs(brier(d0) - skm.brier_score_loss(d0.targs.numpy(), d0.preds.numpy())) < 1e-9
    onehot = Predictions.from_arrays(torch.eye(1000)[:50], torch.arange(50))
    assert classification_metrics(onehot)["mean_entropy"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_brier_decomposition_is_exact_also_for_all_classes(seed):
    r = np.random.default_rng(seed); q = r.dirichlet(np.ones(6), 700); p = Predictions.from_arrays(q, r.integers(0, 6, 700))
    assert abs(brier_decomposition(p).total - brier(p)) < 1e-12
    s = row_scores(p)
    assert abs(brier_decomposition(p, top_label=True).total - ((s.confidence - s.correct)**2).mean()) < 1e-12


def test_debiased_error_equals_uncertainty_calibration_and_is_unbiased(d0):
    needs("calibration"); import calibration as cal
    ref = cal.get_calibration_error(d0.preds.numpy(), d0.targs.numpy(), p=2, debias=True, mode="top-label")
    assert abs(debiased_ece(d0) - ref) < 1e-6 and abs(debiased_ece(d0) - .2111606) < 1e-6
    honest = [fixture(1, 1000, s) for s in range(100)]
    assert abs(np.mean([debiased_ece(p, squared=True) for p in honest])) <= 3e-3
    assert np.mean([ece(p) for p in honest]) > .03


def test_smooth_ece_equals_relplot(d0):
    needs("relplot"); import relplot
    for p in (d0, fixture(1, 2000, 3), fixture(.5, 2000, 4)):
        s = row_scores(p)
        assert abs(smooth_ece(p) - relplot.smECE(s.confidence, s.correct.astype(float))) < 1e-3


@pytest.mark.parametrize("factor", [.3, 1, 2, 6])
def test_smooth_ece_equals_brute_force(factor):
    "Residuals smoothed by a reflected Gaussian, at the bandwidth that equals the result."
    p = fixture(factor, 400, 5); s = row_scores(p); t = np.linspace(0, 1, 2001)
    def smoothed(w):
        k = sum(np.exp(-((t[:, None] - (2*m + sign*s.confidence)[None])/w)**2/2) for m in (-1, 0, 1) for sign in (1, -1))/(w*np.sqrt(2*np.pi))
        return np.abs((k*(s.correct - s.confidence)).mean(1)).mean()
    lo, hi = 1e-3, 1.
    for _ in range(12):
        mid = (lo + hi)/2
        lo, hi = (lo, mid) if smoothed(mid) < mid else (mid, hi)
    assert abs(smooth_ece(p) - smoothed(hi)) < 1e-3


@pytest.mark.parametrize("n", [2, 15, 16, 30])
def test_few_rows_all_wrong_are_not_called_perfect(n):
    conf = np.linspace(.9, .99, n); p = Predictions.from_arrays(np.stack([conf, 1 - conf], 1), np.ones(n, dtype=int))
    assert debiased_ece(p) > .9 and consistency_test(p, n=200).p_value < (.05 if n > 2 else .1)


def test_temperature_of_float32_with_zeros():
    r = np.random.default_rng(0); z = r.normal(size=(2000, 5)); y = draw_labels(softmax(z), r); q = torch.softmax(torch.from_numpy(30*z).float(), 1)
    a, b = fit_temperature(Predictions.from_arrays(q, y)), fit_temperature(Predictions.from_arrays(q.double(), y))
    assert abs(a.temperature - b.temperature) < 1e-6 and 20 < a.temperature < 40 and not a.at_bound


def test_temperature(d0):
    from scipy.optimize import minimize_scalar
    T = fit_temperature(d0); logits, y = d0.preds.log(), d0.targs
    nll = lambda t: float(torch.nn.functional.cross_entropy(logits/t, y))
    ref = minimize_scalar(nll, bounds=(.1, 10), method="bounded", options=dict(xatol=1e-10))
    assert abs(T.temperature - 1.978823) < 1e-4 and abs(T.temperature - ref.x) < 1e-5 and abs(T.nll_after - 1.3258964330) < 1e-7
    cool = T.apply(d0)
    assert torch.equal(cool.decoded, d0.decoded) and torch.equal(cool.preds.argmax(1), d0.preds.argmax(1))
    assert abs(ece(cool) - .0169365) < 1e-6 and abs(smooth_ece(cool) - .0190929) < 1e-3


@pytest.mark.parametrize("factor", [.1, 20.])
def test_temperature_at_extremes(factor):
    r = np.random.default_rng(0); z = r.normal(size=(500, 4)); y = draw_labels(softmax(z), r)
    T = fit_temperature(Predictions.from_arrays(softmax(z*factor), y))
    assert .7 < T.temperature/factor < 1.4
    sure = fit_temperature(Predictions.from_arrays(softmax(z), z.argmax(1)))
    assert sure.temperature < .05 and np.isfinite(sure.nll_after)


def test_calibrated_imbalanced_binary_is_classwise_calibrated():
    r = np.random.default_rng(0); x = r.normal(size=20000)*1.2 - 2.6; p1 = 1/(1 + np.exp(-x)); y = (r.random(20000) < p1).astype(int)
    p = Predictions.from_arrays(np.stack([1 - p1, p1], 1), y)
    assert .05 < y.mean() < .15
    for c in (0, 1): assert reliability_gap(p, c) < .01


def reliability_gap(p, c):
    from interp_kit.predictions.calibration import _gap_of_bins as gap_of_bins
    return gap_of_bins(p.preds[:, c].numpy(), (p.targs == c).numpy().astype(float), bin_edges(None, 15))


def test_consistency_test_has_its_level_and_power():
    ps = [consistency_test(fixture(1, 500, s), n=200).p_value for s in range(120)]
    assert np.mean(np.array(ps) <= .05) <= .05 + 2.33*np.sqrt(.05*.95/120)
    assert consistency_test(fixture(1.5, 1000, 1), n=500).p_value < .01
