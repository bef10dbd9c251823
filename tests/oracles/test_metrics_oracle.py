"Metrics equal scikit-learn's on random cases of size, order and batch size, with ties and absent classes."
import numpy as np, pytest, torch
import sklearn.metrics as skm
from interp_kit.interpret.classification import ClassificationInterpretation
from interp_kit.predictions import Predictions, classification_metrics, confusion_counts, per_class_metrics, pr_curves, ranking, roc_curves, row_scores

TOL = 1e-6


def case(seed):
    "(N, C) probabilities and targets: some with ties, absent classes, never predicted classes, one class, float32 or float64."
    r = np.random.default_rng(seed)
    C, n = int(r.choice([2, 3, 5, 6, 10, 25])), int(r.choice([7, 30, 200, 1000]))
    z = r.normal(size=(n, C))*r.choice([.5, 1, 3])
    if seed % 3 == 0: z = np.round(z)  # ties
    if seed % 4 == 1: z[:, r.integers(C)] -= 50  # a class that is never predicted
    q = np.exp(z - z.max(1, keepdims=True)); q /= q.sum(1, keepdims=True)
    present = r.choice(C, size=int(r.integers(1, C + 1)), replace=False) if seed % 5 == 2 else np.arange(C)
    y = r.choice(present, size=n)
    if seed % 2: q = q.astype(np.float32)
    return q, y


def nan_mean(x): return np.nanmean(x) if not np.isnan(x).all() else np.nan


def reference(q, y, dec, C):
    labels = list(range(C))
    kw = dict(labels=labels, zero_division=np.nan)
    res = dict(accuracy=skm.accuracy_score(y, dec), balanced_accuracy=np.mean([np.mean(dec[y == c] == c) for c in np.unique(y)]))
    for how in ("macro", "micro", "weighted"):
        for name, f in (("precision", skm.precision_score), ("recall", skm.recall_score), ("f1", skm.f1_score)): res[f"{name}_{how}"] = f(y, dec, average=how, **kw)
    prec = skm.precision_score(y, dec, average=None, **kw)
    if not np.bincount(y, minlength=C)[~np.isnan(prec)].sum(): res["precision_weighted"] = np.nan  # scikit-learn says 0: no class with rows was predicted
    res["cohen_kappa"] = skm.cohen_kappa_score(y, dec, labels=labels)
    one_sided = len(np.unique(y)) == 1 or len(np.unique(dec)) == 1
    res["matthews_corrcoef"] = np.nan if one_sided else skm.matthews_corrcoef(y, dec)  # scikit-learn says 0 where it is undefined
    res["log_loss"] = skm.log_loss(y, q, labels=labels)
    res["brier"] = skm.brier_score_loss(y, q, labels=labels, scale_by_half=False)
    if C > 5: res["top_5_accuracy"] = skm.top_k_accuracy_score(y, q, k=5, labels=labels)
    auc = [skm.roc_auc_score(y == c, q[:, c]) if 0 < (y == c).sum() < len(y) else np.nan for c in labels]
    ap = [skm.average_precision_score(y == c, q[:, c]) if (y == c).any() else np.nan for c in labels]
    return dict(res, roc_auc_ovr_macro=nan_mean(np.array(auc)), average_precision_macro=nan_mean(np.array(ap))), auc, ap


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", range(10))
def test_200_random_cases_equal_scikit_learn(block):
    for seed in range(20*block, 20*block + 20):
        q, y = case(seed)
        p = Predictions.from_arrays(q, y)
        dec, C = p.decoded.numpy(), p.n_classes
        ours = classification_metrics(p)
        ref, auc, ap = reference(q, y, dec, C)
        for k, v in ref.items(): np.testing.assert_allclose(ours[k], v, atol=TOL, rtol=TOL*(q.dtype == np.float32), err_msg=f"{k}, seed {seed}", equal_nan=True)
        for k in ours:
            if np.isnan(ours[k]): assert ours.reasons[k], f"{k} is NaN without a reason"
        np.testing.assert_array_equal(confusion_counts(p.targs, p.decoded, C).numpy(), skm.confusion_matrix(y, dec, labels=range(C)))
        r = ranking(p)
        np.testing.assert_allclose(r.roc_auc, auc, atol=TOL, equal_nan=True); np.testing.assert_allclose(r.average_precision, ap, atol=TOL, equal_nan=True)
        report = ClassificationInterpretation.from_predictions(p).classification_report()
        ref_report = skm.classification_report(y, dec, labels=range(C), zero_division=np.nan, output_dict=True)
        if np.isnan(ref["precision_weighted"]): ref_report["weighted avg"]["precision"] = np.nan
        for row in (*map(str, range(C)), "macro avg", "weighted avg"):
            np.testing.assert_allclose(report.loc[row].to_numpy(float), list(ref_report[row].values()), atol=TOL, equal_nan=True)


@pytest.mark.parametrize("seed", range(8))
def test_order_and_batch_size_do_not_matter(seed):
    q, y = case(seed)
    p, order = Predictions.from_arrays(q, y), np.random.default_rng(seed).permutation(len(y))
    a, b = classification_metrics(p), classification_metrics(p[order])
    np.testing.assert_allclose(list(a.values()), list(b.values()), atol=1e-9, equal_nan=True)
    whole = row_scores(p)
    for chunk in (1, 3, 64): np.testing.assert_array_equal(row_scores(p, chunk=chunk).rank, whole.rank)
    for block in (1, 7): np.testing.assert_allclose(ranking(p, block=block).roc_auc, ranking(p).roc_auc, equal_nan=True)


@pytest.mark.parametrize("seed", [0, 3, 4, 7])
def test_curves_have_the_areas_of_scikit_learn(seed):
    q, y = case(seed); p = Predictions.from_arrays(q, y)
    for name, c in roc_curves(p).items(): assert abs(skm.auc(c.x, c.y) - skm.roc_auc_score(y == int(name), q[:, int(name)])) < TOL
    for name, c in pr_curves(p).items(): assert abs(-np.sum(np.diff(c.x)*c.y[:-1]) - c.area) < TOL


@pytest.mark.parametrize("seed", range(4))
def test_histogram_ranking_states_a_bound_that_holds(seed):
    r = np.random.default_rng(seed); q = r.dirichlet(np.full(50, .05), 3000); y = r.integers(0, 50, 3000)
    exact, near = ranking(q, y), ranking(q, y, approx=True)
    assert np.abs(exact.roc_auc - near.roc_auc).max() <= near.auc_error + 1e-12


def test_per_class_table_equals_scikit_learn():
    q, y = case(8); p = Predictions.from_arrays(q, y); t = per_class_metrics(p)
    pr, re, f1, n = skm.precision_recall_fscore_support(y, p.decoded.numpy(), labels=range(p.n_classes), zero_division=np.nan)
    for k, v in dict(precision=pr, recall=re, f1=f1, support=n).items(): np.testing.assert_allclose(t[k], v, atol=TOL, equal_nan=True)
    np.testing.assert_allclose(t.mean_probability, q.mean(0), atol=TOL)


def test_confusion_of_1000_classes_needs_no_cube():
    r = np.random.default_rng(0); t, d = (torch.from_numpy(r.integers(0, 1000, 50_000)) for _ in range(2))
    assert torch.equal(confusion_counts(t, d, 1000), torch.bincount(t*1000 + d, minlength=10**6).view(1000, 1000))
