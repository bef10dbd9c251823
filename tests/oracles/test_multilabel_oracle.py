"Multilabel scores equal scikit-learn, thresholds brute force, and the interpretation answers from one pass."
import warnings
import numpy as np, pytest, torch
import sklearn.metrics as skm
from helpers import needs
from interp_kit.core import DataError, LabelError, TaskError
from interp_kit.predictions import (Predictions, best_thresholds, bootstrap, known_thresholds, label_confusions, label_counts, label_reliability, multilabel_intervals,
                                    multilabel_metrics, per_label_metrics, pr_curves, roc_curves, with_thresholds)
from interp_kit.predictions.metrics.multilabel import _label_rows as label_rows, _label_scores as label_scores, _pooled_ranking as pooled_ranking, label_margins

nan = np.nan


def case(seed):
    "Random labels: some absent, some in every row, rows without labels, ties, a threshold for each label, float32 or float64."
    r = np.random.default_rng(seed); n, C = int(r.choice([1, 2, 7, 40, 300])), int(r.choice([1, 2, 3, 10, 45]))
    q = r.random((n, C))
    if seed % 3 == 0: q = q.round(1)  # ties
    if seed % 5 == 0: q[r.random((n, C)) < .2] = r.choice([0, 1])
    y = r.random((n, C)) < (q if seed % 2 else r.random(C))
    if seed % 4 == 1: y[:, r.integers(C)] = False
    if seed % 4 == 2: y[:, r.integers(C)] = True
    if seed % 4 == 3: y[r.random(n) < .3] = False
    if seed % 7 == 0: y[r.random(n) < .2] = True
    th = r.choice([.2, .5, .8, .9999], C) if seed % 2 else .5
    p = Predictions.from_arrays(torch.from_numpy(q).to(torch.float32 if seed % 6 < 3 else torch.float64), torch.from_numpy(y), task="multilabel")
    p = with_thresholds(p, th)
    return p, y.astype(int), p.decoded.numpy().astype(int), p.preds.numpy(), th


def defined(f, ok): return np.mean([f(c) for c in np.flatnonzero(ok)]) if ok.any() else nan


def reference(y, d, q, eps):
    n, C = y.shape; res = {}
    two = lambda o: o if C > 1 else np.c_[o, 0*o]  # a column alone would be taken for two classes; an empty label changes nothing
    for how in ("macro", "micro", "weighted", "samples"):
        for k, f in (("precision", skm.precision_score), ("recall", skm.recall_score), ("f1", skm.f1_score)): res[f"{k}_{how}"] = f(two(y), two(d), average=how, zero_division=nan)
    jac = lambda a, b: nan if not (a | b).any() else (a & b).sum()/(a | b).sum()
    per = np.array([jac(y[:, c], d[:, c]) for c in range(C)]); rows = np.array([jac(y[i], d[i]) for i in range(n)])
    res["jaccard_macro"], res["jaccard_samples"], res["jaccard_micro"] = (np.nanmean(o) if not np.isnan(o).all() else nan for o in (per, rows, np.array([jac(y.ravel(), d.ravel())])))
    pos = y.sum(0); mixed = (pos > 0) & (pos < n)
    res["roc_auc_macro"] = defined(lambda c: skm.roc_auc_score(y[:, c], q[:, c]), mixed)
    res["average_precision_macro"] = defined(lambda c: skm.average_precision_score(y[:, c], q[:, c]), pos > 0)
    res["roc_auc_micro"] = skm.roc_auc_score(y.ravel(), q.ravel()) if 0 < y.sum() < y.size else nan
    res["average_precision_micro"] = skm.average_precision_score(y.ravel(), q.ravel()) if y.any() else nan
    res["accuracy"] = res["exact_match"] = (y == d).all(1).mean(); res["hamming_loss"] = (y != d).mean()
    if C > 1:
        res["accuracy"], res["hamming_loss"] = skm.accuracy_score(y, d), skm.hamming_loss(y, d)
        res["label_ranking_average_precision"] = skm.label_ranking_average_precision_score(y, q)
        res["label_ranking_loss"], res["coverage_error"] = skm.label_ranking_loss(y, q), skm.coverage_error(y, q)
    c = np.clip(q, eps, 1 - eps).astype(np.float64); res["log_loss"] = -np.where(y, np.log(c), np.log1p(-c)).mean()
    res["brier"] = ((q.astype(np.float64) - y)**2).mean(); res["mean_labels"], res["mean_labels_actual"] = d.sum(1).mean(), y.sum(1).mean()
    return res


def quiet(f, *a):
    with warnings.catch_warnings(): warnings.simplefilter("ignore"); return f(*a)


@pytest.mark.parametrize("seed", range(150))
def test_metrics_equal_scikit_learn(seed):
    p, y, d, q, th = case(seed); m, want = multilabel_metrics(p), quiet(reference, y, d, q, np.finfo(q.dtype).eps)
    tol = 1e-6 if q.dtype == np.float32 else 1e-9
    counted = {k for k in want if k.split("_")[-1] in ("macro", "micro", "weighted", "samples") or k in ("accuracy", "exact_match", "hamming_loss", "coverage_error", "mean_labels")}
    for k, v in want.items(): np.testing.assert_allclose(m[k], v, atol=1e-9 if k in counted else tol, rtol=0, err_msg=f"{k} of case {seed}")
    assert set(m.reasons) == {k for k, v in m.items() if np.isnan(v)} and all(o != "undefined here" for k, o in m.reasons.items()), m.reasons
    np.testing.assert_array_equal(label_counts(p.targs, p.decoded), skm.multilabel_confusion_matrix(y, d) if y.shape[1] > 1 else skm.confusion_matrix(y, d, labels=[0, 1])[None])
    t = per_label_metrics(p); np.testing.assert_array_equal(t.threshold, np.broadcast_to(th, y.shape[1]))
    for k, f in (("precision", skm.precision_score), ("recall", skm.recall_score), ("f1", skm.f1_score)):
        if y.shape[1] > 1: np.testing.assert_allclose(t[k], quiet(lambda: f(y, d, average=None, zero_division=nan)), atol=1e-12)
    np.testing.assert_array_equal([t.support, t.predicted], [y.sum(0), d.sum(0)])


def test_jaccard_equals_scikit_learn_where_it_is_defined():
    p, y, d, q, _ = case(40); ok = (y | d).any(0)
    w = label_scores(label_margins(p))["jaccard_weighted"]
    assert abs(w - skm.jaccard_score(y[:, ok], d[:, ok], average="weighted")) < 1e-12
    assert abs(multilabel_metrics(p)["jaccard_micro"] - skm.jaccard_score(y, d, average="micro")) < 1e-12


def test_log_loss_equals_binary_cross_entropy():
    for seed in (4, 40):
        p, y, d, q, _ = case(seed); assert abs(multilabel_metrics(p)["log_loss"] - skm.log_loss(y.ravel(), q.ravel())) < (1e-6 if q.dtype == np.float32 else 1e-9)
    r = np.random.default_rng(0); q = r.random((50, 4)); y = r.integers(0, 2, (50, 4)); m = multilabel_metrics(Predictions.from_arrays(q, y, task="multilabel"))
    ref = float(torch.nn.functional.binary_cross_entropy(torch.from_numpy(q), torch.from_numpy(y).double())); assert abs(m["log_loss"] - ref) < 1e-12 and abs(m["loss"] - ref) < 1e-6


def test_arrays_of_any_type_and_one_chunk_or_many():
    p, y, d, q, _ = case(40); a = multilabel_metrics(p)
    for t in (y, y.astype(bool), torch.from_numpy(y).float(), y.tolist()): assert multilabel_metrics(with_thresholds(Predictions.from_arrays(q, t, task="multilabel"), known_thresholds(p)))["f1_macro"] == a["f1_macro"]
    for f in ("ranking_precision", "coverage", "ranking_loss", "log_loss"): np.testing.assert_allclose(getattr(label_rows(p[:], chunk=3), f), getattr(label_rows(p[:]), f), atol=1e-12)
    assert torch.equal(label_counts(p.targs, p.decoded, chunk=1), label_counts(p.targs, p.decoded)) and torch.equal(label_confusions(p, chunk=4), label_confusions(p))


def test_a_memory_map_is_read_by_chunks(tmp_path):
    r = np.random.default_rng(0); n, C = 70_000, 6; q = np.lib.format.open_memmap(tmp_path/"q.npy", "w+", np.float32, (n, C)); q[:] = r.random((n, C))
    y = torch.from_numpy(r.random((n, C)) < q); p = Predictions(torch.from_numpy(q), y, torch.zeros(n), torch.from_numpy(q > .5), task="multilabel")
    m = multilabel_metrics(p); assert abs(m["roc_auc_micro"] - skm.roc_auc_score(y.numpy().ravel(), q.ravel())) < 1e-9
    near = pooled_ranking(p, exact=1000); assert abs(near.roc_auc[0] - m["roc_auc_micro"]) <= near.auc_error < 1e-4 and abs(near.average_precision[0] - m["average_precision_micro"]) < 1e-4
    b = multilabel_intervals(p, ["f1_macro", "recall_weighted"], n=400)  # groups of rows
    few = multilabel_intervals(p[:20_000], ["f1_macro"], n=400)["f1_macro"]  # rows
    assert b["f1_macro"][0] < m["f1_macro"] < b["f1_macro"][1] and .8 < (few[1] - few[0])/(b["f1_macro"][1] - b["f1_macro"][0])/np.sqrt(3.5) < 1.25


def brute(x, y, metric):
    "The best value over all cuts."
    s = np.unique(x.astype(np.float64)); best = -np.inf
    for c in [-1, *((s[:-1] + s[1:])/2), 2]:
        best = max(best, value(y, x > c, metric))
    return best


def value(y, d, metric):
    "By the definitions, with Python's own arithmetic (checked against scikit-learn below)."
    tp, fp, fn = int((y & d).sum()), int((~y & d).sum()), int((y & ~d).sum()); tn = len(y) - tp - fp - fn
    if metric == "f1": return 2*tp/max(2*tp + fp + fn, 1)
    if metric == "jaccard": return tp/max(tp + fp + fn, 1)
    return (tp + tn)/len(y) if metric == "accuracy" else (tp/(tp + fn) + tn/(tn + fp))/2


def test_the_brute_force_is_right():
    y, d = np.random.default_rng(0).random((2, 50)) < .4
    for k, f in (("f1", skm.f1_score), ("jaccard", skm.jaccard_score), ("accuracy", skm.accuracy_score), ("youden", skm.balanced_accuracy_score)): assert abs(value(y, d, k) - f(y, d)) < 1e-12


@pytest.mark.parametrize("metric", ["f1", "jaccard", "youden", "accuracy"])
@pytest.mark.parametrize("seed", range(30))
def test_best_thresholds_equal_brute_force(seed, metric):
    p, y, _, q, _ = case(seed); y = y > 0; th = quiet(best_thresholds, p, metric); d = with_thresholds(p, th).decoded.numpy()
    for c in range(y.shape[1]):
        if not y[:, c].any() or metric == "youden" and y[:, c].all(): assert th[c] == known_thresholds(p)[c]; continue
        assert abs(value(y[:, c], d[:, c], metric) - brute(q[:, c], y[:, c], metric)) < 1e-12, (c, th[c])
        gap = np.abs(q[:, c].astype(np.float64) - th[c]).min(); near = np.sort(np.unique(np.r_[0, q[:, c].astype(np.float64), 1])); i = np.searchsorted(near, th[c])
        if 0 < th[c] < 1 and near[0] < th[c] < near[-1] and gap > 0: assert abs(th[c] - (near[i - 1] + near[i])/2) < 1e-9, "the middle between adjacent scores"


def test_thresholds_between_neighbouring_floats():
    a = np.float64(.3); x = np.array([a, np.nextafter(a, 1), .1]); y = np.array([0, 1, 0])
    p = Predictions.from_arrays(x[:, None], y[:, None], task="multilabel"); d = with_thresholds(p, best_thresholds(p)).decoded[:, 0].numpy()
    assert (d == y).all()
    z = Predictions.from_arrays(np.array([[0.], [0.], [0.]]), [[1], [1], [0]], task="multilabel"); assert with_thresholds(z, best_thresholds(z)).decoded.all()
    s = Predictions.from_arrays(np.array([[1.], [1.], [.2]]), [[0], [0], [1]], task="multilabel"); assert (with_thresholds(s, best_thresholds(s, "accuracy")).decoded.sum() == 0)


def test_label_confusions_equal_a_loop():
    p, y, d, _, _ = case(40); C = y.shape[1]; want = np.zeros((C, C), int)
    for t, o in zip(y, d):
        for a in range(C):
            for b in range(C): want[a, b] += t[a] == 1 and o[a] == 0 and t[b] == 0 and o[b] == 1
    np.testing.assert_array_equal(label_confusions(p), want)


def test_known_thresholds_reproduce_the_decisions():
    for seed in range(1, 40, 2):
        p, *_ = case(seed); del p.meta["thresh"]; th = known_thresholds(p); ok = ~np.isnan(th)
        again = with_thresholds(p, np.where(ok, th, .5)).decoded
        assert torch.equal(again[:, ok], p.decoded[:, ok])
    p.decoded = torch.rand(p.decoded.shape) > .5
    if len(p) > 7: assert np.isnan(known_thresholds(p)).any(), "random decisions follow no threshold"


def test_intervals_are_those_of_resampled_rows():
    r = np.random.default_rng(0); q = r.random((250, 6)); y = (r.random((250, 6)) < q**2).astype(int); d = (q > .5).astype(int); p = Predictions.from_arrays(q, y, task="multilabel")
    ci = multilabel_intervals(p, n=600); rows = r.integers(0, 250, (600, 250))
    for k, f in (("f1_macro", lambda i: skm.f1_score(y[i], d[i], average="macro")), ("precision_weighted", lambda i: skm.precision_score(y[i], d[i], average="weighted")),
                 ("recall_micro", lambda i: skm.recall_score(y[i], d[i], average="micro")), ("f1_samples", lambda i: skm.f1_score(y[i], d[i], average="samples", zero_division=nan)),
                 ("average_precision_macro", lambda i: skm.average_precision_score(y[i], q[i])), ("roc_auc_micro", lambda i: skm.roc_auc_score(y[i].ravel(), q[i].ravel())),
                 ("label_ranking_loss", lambda i: skm.label_ranking_loss(y[i], q[i]))):
        ref = np.quantile([quiet(f, i) for i in rows[:300]], [.025, .975]); np.testing.assert_allclose(ci[k], ref, atol=.25*(ref[1] - ref[0]), err_msg=k)
    assert all(np.isnan(o) for o in ci["ece"]) and bootstrap(p, "f1_macro", n=600)[1:] == ci["f1_macro"]
    with pytest.raises(TaskError, match="no valid bootstrap interval"): bootstrap(p, "ece")
    big = Predictions(torch.rand(2500, 100), torch.rand(2500, 100) < .5, torch.zeros(2500), torch.rand(2500, 100) < .5, task="multilabel")
    assert all(np.isnan(o) for o in multilabel_intervals(big, ["roc_auc_macro"], n=5)["roc_auc_macro"])


def test_intervals_cover():
    r = np.random.default_rng(1); big = r.random((400_000, 4)); Y = r.random(big.shape) < big**2; D = big > .5
    tp, t, d = (Y & D).sum(0), Y.sum(0), D.sum(0); want = dict(f1_macro=(2*tp/(t + d)).mean(), recall_weighted=tp.sum()/t.sum(), brier=((big - Y)**2).mean()); hits = dict.fromkeys(want, 0)
    for s in range(120):
        rr = np.random.default_rng(10 + s); q = rr.random((300, 4)); p = Predictions.from_arrays(q, rr.random(q.shape) < q**2, task="multilabel"); ci = multilabel_intervals(p, list(want), n=200)
        for k in want: hits[k] += ci[k][0] <= want[k] <= ci[k][1]
    slack = 3.1*np.sqrt(.95*.05/120)
    assert all(.935 - slack < h/120 < .965 + slack for h in hits.values()), hits


def test_curves_and_calibration():
    p, y, d, q, _ = case(40); c = roc_curves(p); mixed = (y.sum(0) > 0) & (y.sum(0) < len(y)); assert len(c) == mixed.sum()
    for i in np.flatnonzero(mixed)[:3]:
        assert abs(skm.auc(c[str(i)].x, c[str(i)].y) - skm.roc_auc_score(y[:, i], q[:, i])) < 1e-9
        rec, prec = pr_curves(p, classes=[i])[str(i)].x, pr_curves(p, classes=[i])[str(i)].y; ref = skm.precision_recall_curve(y[:, i], q[:, i])
        np.testing.assert_allclose(rec, ref[1]); np.testing.assert_allclose(prec, ref[0])


def test_pooled_calibration_equals_torchmetrics():
    needs("torchmetrics"); from torchmetrics.functional.classification import binary_calibration_error
    r = np.random.default_rng(3); q = r.random((400, 5)); y = r.random(q.shape) < q**2; p = Predictions.from_arrays(q, y, task="multilabel")
    # the reference measures the confidence of the second class, as here, when all probabilities are given for it
    ref = float(binary_calibration_error(torch.from_numpy(q).flatten(), torch.from_numpy(y).flatten().int(), n_bins=15))
    assert abs(label_reliability(p).ece - ref) < 1e-6 and abs(multilabel_metrics(p)["ece"] - ref) < 1e-6


def test_what_is_not_multilabel_says_so():
    p = Predictions.from_arrays([[.5, .5]], [0])
    with pytest.raises(TaskError, match="multilabel is needed"): multilabel_metrics(p)
    with pytest.raises(LabelError, match="0 or 1"): label_rows(Predictions(torch.rand(2, 2), torch.tensor([[.3, 0], [1, 1]]), torch.zeros(2), torch.zeros(2, 2), task="multilabel"))
    with pytest.raises(DataError, match="not finite"): best_thresholds([[float("nan")], [.5]], targs=[[0], [1]])
