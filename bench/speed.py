"Counting and metrics against torch, scikit-learn, torchmetrics and netcal."
import warnings
import numpy as np, torch
import sklearn.metrics as skm
from bench.measure import anew, paired
from interp_kit.predictions import Predictions, classification_metrics, confusion_counts, ece


def _sklearn(p):
    "The same numbers by scikit-learn (and numpy where it has none)."
    y, q, d = p.targs.numpy(), p.preds.numpy(), p.decoded.numpy()
    res = [skm.accuracy_score(y, d), skm.balanced_accuracy_score(y, d), skm.cohen_kappa_score(y, d), skm.matthews_corrcoef(y, d)]
    for how in ("macro", "micro", "weighted"): res.append(skm.precision_recall_fscore_support(y, d, average=how, zero_division=np.nan))
    res += [skm.top_k_accuracy_score(y, q, k=5), skm.log_loss(y, q), skm.brier_score_loss(y, q)]
    conf = q.max(1); bins = np.minimum((conf*15).astype(int), 14)
    res.append(sum(abs((conf[bins == b] - (y == d)[bins == b]).sum()) for b in range(15))/len(y))
    res += [conf.mean(), -(q*np.log(np.clip(q, 1e-30, 1))).sum(1).mean(), skm.roc_auc_score(y, q, multi_class="ovr"), skm.average_precision_score(np.eye(q.shape[1])[y], q)]
    return res


def run():
    warnings.simplefilter("ignore")
    r = np.random.default_rng(0)
    t, d = (torch.from_numpy(r.integers(0, 1000, 50_000)) for _ in range(2))
    res = [dict(what="confusion 1,000 classes x 50,000 rows, against torch.bincount", **paired(lambda: confusion_counts(t, d, 1000), lambda: torch.bincount(t*1000 + d, minlength=10**6), n=101, warm=5)),
           dict(what="the same, against sklearn.confusion_matrix", **paired(lambda: confusion_counts(t, d, 1000), lambda: skm.confusion_matrix(t.numpy(), d.numpy()), n=25))]
    z = r.normal(size=(200_000, 100)).astype(np.float32)*2; q = torch.from_numpy(z).softmax(1); y = torch.from_numpy(r.integers(0, 100, 200_000))
    y = torch.where(torch.rand(200_000, generator=torch.Generator().manual_seed(0)) < .5, q.argmax(1), y)
    p = Predictions.from_arrays(q, y)
    res.append(dict(what="metrics() of 200,000 x 100, against the same numbers by scikit-learn", **paired(lambda: classification_metrics(anew(p)), lambda: _sklearn(p), n=15)))
    from netcal.metrics import ECE
    from torchmetrics.functional.classification import multiclass_calibration_error
    res.append(dict(what="ECE of 200,000 x 100, against torchmetrics", **paired(lambda: ece(p), lambda: multiclass_calibration_error(p.preds, p.targs, 100, n_bins=15), n=15)))
    res.append(dict(what="ECE of 200,000 x 100, against netcal", **paired(lambda: ece(p), lambda: ECE(15).measure(p.preds.numpy(), p.targs.numpy()), n=15)))
    return res
