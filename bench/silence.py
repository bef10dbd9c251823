"Findings on 2,000 null sets (labels drawn from the model's own probabilities) and on 20 seeds of each planted fault."
import sys
from pathlib import Path
import numpy as np
from scipy.stats import binomtest

sys.path[:0] = [str(Path(__file__).parents[1]/"tests"), str(Path(__file__).parents[1]/"tests"/"findings")]
from helpers import softmax
from test_silence_and_truth import base, null
import test_labels_silence_and_truth as labels
from interp_kit.interpret.classification_findings import classification_findings
from interp_kit.interpret.multilabel_findings import multilabel_findings
from interp_kit.predictions import Predictions


def _planted(kind, seed):
    "Whether the fault is found, and whether anything else is said of other classes."
    r, z, y = base(seed)
    if kind == "confused_pair":
        m = (y == 1) & (r.random(len(y)) < .3); z[np.ix_(m, [1, 4])] = z[np.ix_(m, [4, 1])]
    if kind == "collapsed_class": z[:, 3] -= 8
    if kind == "overconfidence": z *= 2
    if kind == "collapse": z[:, 2] += 40
    return kind in {f.type for f in classification_findings(Predictions.from_arrays(softmax(z), y))}


def _planted_label(kind, seed):
    "Whether the fault of a label is found."
    r, z, y = labels.base(seed)
    if kind == "missed_pair": labels.swapped(r, z, y)
    if kind == "collapsed_label": z[:, 3] -= 8
    if kind == "weak_label": z[:, 2] = r.normal(size=len(z))*2.5 - 1
    if kind == "label_too_seldom": z[:, 5] -= 1
    if kind == "label_too_often": z[:, 5] += 1.5
    if kind == "probability_shift": z -= 2
    if kind == "overconfidence": z *= 2
    types = {f.type for f in multilabel_findings(labels.made(labels.sigmoid(z), y))}
    return kind in types or kind == "label_too_seldom" and "weak_label" in types # told once


def run():
    res = []
    for kind in ("even", "alike"):
        n = 2000; spoke = sum(bool(classification_findings(null(s, kind))) for s in range(n))
        res.append(dict(what=f"null sets ({kind})", sets=n, spoke=spoke, rate=spoke/n, upper_99=binomtest(spoke, n).proportion_ci(.98).high))
    for kind in ("confused_pair", "collapsed_class", "overconfidence", "collapse"): res.append(dict(what=f"planted {kind}", sets=20, found=sum(_planted(kind, s) for s in range(20))))
    for kind in ("even", "rare", "many", "thresholds"):
        n = 2000; spoke = sum(bool(multilabel_findings(labels.null(s, kind))) for s in range(n))
        res.append(dict(what=f"null label sets ({kind})", sets=n, spoke=spoke, rate=spoke/n, upper_99=binomtest(spoke, n).proportion_ci(.98).high))
    for kind in ("missed_pair", "collapsed_label", "weak_label", "label_too_seldom", "label_too_often", "probability_shift", "overconfidence"):
        res.append(dict(what=f"labels: planted {kind}", sets=20, found=sum(_planted_label(kind, s) for s in range(20))))
    return res
