"Findings on 2,000 null sets (labels drawn from the model's own probabilities) and on 20 seeds of each planted fault."
import sys
from pathlib import Path
import numpy as np
from scipy.stats import binomtest

sys.path[:0] = [str(Path(__file__).parents[1]/"tests"), str(Path(__file__).parents[1]/"tests"/"findings")]
from helpers import softmax
from test_silence_and_truth import base, null
from interp_kit.interpret.checks import classification_findings
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


def run():
    res = []
    for kind in ("even", "alike"):
        n = 2000; spoke = sum(bool(classification_findings(null(s, kind))) for s in range(n))
        res.append(dict(what=f"null sets ({kind})", sets=n, spoke=spoke, rate=spoke/n, upper_99=binomtest(spoke, n).proportion_ci(.98).high))
    for kind in ("confused_pair", "collapsed_class", "overconfidence", "collapse"): res.append(dict(what=f"planted {kind}", sets=20, found=sum(_planted(kind, s) for s in range(20))))
    return res
