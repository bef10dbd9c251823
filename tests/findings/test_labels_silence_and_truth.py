"Findings on labels are silent on noise and speak on truth."
import numpy as np, pytest
from scipy.stats import binom
from interp_kit.interpret.multilabel_findings import (
    _general_p as general_p, _LabelEvidence as LabelEvidence, _miscalibration as check_label_confidence,
    _missed_pairs as check_missed_pairs, _uneven_labels as check_label_balance, _unexpected_rates as check_rates,
    _weak_labels as check_labels, multilabel_findings)
from interp_kit.predictions import Predictions, label_confusions, with_thresholds


def sigmoid(z): return 1/(1 + np.exp(-z))


def made(q, y, th=None):
    p = Predictions.from_arrays(q, y, task="multilabel")
    return p if th is None else with_thresholds(p, th)


def null(seed, kind="even"):
    "Labels drawn, each by itself, from a model's own probabilities: nothing is there to find."
    r = np.random.default_rng(seed); n, C, th = int(r.choice([40, 150, 600])), int(r.choice([1, 2, 3, 10, 30])), None
    z = r.normal(size=(n, C))*r.choice([1, 2, 4])
    if kind == "rare": z = z + r.choice([-3, 2])  # or frequent
    if kind == "priors": z = z*.3 + np.linspace(-1, 1, C)  # little signal, uneven labels
    if kind == "uniform": z[:] = r.choice([-2, 0])
    if kind == "many": z = r.normal(size=(n, 100))*3 - 2
    if kind == "thresholds": th = r.choice([.1, .3, .7, .9], C); z = z + 2*r.normal(size=(n, 1))  # rows with many labels and rows with few, as the model knows
    q = sigmoid(z)
    return made(q, r.random(q.shape) < q, th)


@pytest.mark.parametrize("kind", ["even", "rare", "priors", "uniform", "many", "thresholds"])
def test_at_most_5_percent_of_null_sets_speak(kind):
    N = 400; spoke = sum(bool(multilabel_findings(null(s, kind))) for s in range(N))
    assert spoke <= binom.ppf(.99, N, .05), spoke  # the one-sided 99 % bound does not exclude 5 %


def test_each_rule_keeps_its_own_level():
    "Without the corrections for looking at many labels and pairs, these rates would be far above 1 %."
    rules, N = (check_rates, check_labels, check_missed_pairs, check_label_confidence, check_label_balance), 400
    spoke = {f.__name__: 0 for f in rules}
    for s in range(N):
        r = np.random.default_rng(10_000 + s); q = sigmoid(r.normal(size=(400, 30))*2 - 1); e = LabelEvidence.of(made(q, r.random(q.shape) < q))
        for f in rules: spoke[f.__name__] += bool(f(e))
    assert max(spoke.values()) <= binom.ppf(.999, N, .01), spoke


def test_statements_on_all_labels_do_not_mind_labels_that_depend_on_each_other():
    "All labels of a row are drawn with one number: N×C decisions are far from independent, but their probabilities are right."
    N, spoke = 300, 0
    for s in range(N):
        r = np.random.default_rng(s); q = sigmoid(np.repeat(r.normal(size=(200, 1)), 20, 1)); e = LabelEvidence.of(made(q, r.random((200, 1)) < q))
        spoke += bool(check_label_confidence(e, least=0)) or general_p(e.margins.actual, e.expected, 200, e.surplus)[0] < .01
    assert spoke <= binom.ppf(.999, N, .02), spoke


def base(seed, n=1500, C=6):
    r = np.random.default_rng(seed); z = r.normal(size=(n, C))*2.5 - 1
    return r, z, r.random((n, C)) < sigmoid(z)


def swapped(r, z, y, a=1, b=4, share=.4):
    m = y[:, a] & ~y[:, b] & (r.random(len(y)) < share); z[m, a], z[m, b] = -2, 2
    return m


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_planted_pair_is_found_also_in_an_overconfident_model(seed, factor):
    r, z, y = base(seed); swapped(r, z, y); p = made(sigmoid(factor*z), y)
    found = check_missed_pairs(LabelEvidence.of(p)); assert [f.classes for f in found] == [("1", "4")]
    rows = np.array(found[0].rows); assert (p.targs[rows, 1] > 0).all() and not p.decoded[rows, 1].any() and p.decoded[rows, 4].all() and not (p.targs[rows, 4] > 0).any()
    assert found[0].evidence["count"] == int(label_confusions(p)[1, 4]) and (np.diff(p.preds[rows, 1].numpy()) >= -1e-6).all(), "worst first"


@pytest.mark.parametrize("seed", range(3))
def test_collapsed_label_is_found_and_told_once(seed):
    _, z, y = base(seed); z[:, 3] -= 8
    found = multilabel_findings(made(sigmoid(z), y))
    assert [(f.type, f.classes, f.severity) for f in found] == [("collapsed_label", ("3",), "critical")]


@pytest.mark.parametrize("seed", range(3))
def test_a_label_that_the_model_has_not_learned_is_found(seed):
    r, z, y = base(seed); z[:, 2] = r.normal(size=len(z))*2.5 - 1
    assert ("2",) in {f.classes for f in check_labels(LabelEvidence.of(made(sigmoid(z), y)))}


@pytest.mark.parametrize("shift,kind", [(-1, "label_too_seldom"), (1.5, "label_too_often")])
@pytest.mark.parametrize("seed", range(3))
def test_a_label_with_probabilities_too_small_or_large_is_found(seed, shift, kind):
    _, z, y = base(seed); z[:, 5] += shift; found = check_rates(LabelEvidence.of(made(sigmoid(z), y)))
    assert [(f.type, f.classes) for f in found] == [(kind, ("5",))]


@pytest.mark.parametrize("seed", range(3))
def test_a_shift_of_all_labels_is_told_once(seed):
    _, z, y = base(seed); types = [f.type for f in multilabel_findings(made(sigmoid(z - 2), y))]
    assert "probability_shift" in types and not {"label_too_seldom", "collapsed_label", "weak_label"} & set(types), types


@pytest.mark.parametrize("factor,kind", [(2, "overconfidence"), (.4, "underconfidence")])
@pytest.mark.parametrize("seed", range(3))
def test_general_confidence_is_told_once_and_accuses_no_label(seed, factor, kind):
    r = np.random.default_rng(seed); z = r.normal(size=(1500, 6))*2.5; y = r.random(z.shape) < sigmoid(z)
    assert {f.type for f in multilabel_findings(made(sigmoid(z*factor), y))} == {kind}


def test_imbalance_and_absent_labels():
    r = np.random.default_rng(0); q = np.tile([.4, .3, .001, 0.], (2000, 1)); y = r.random(q.shape) < q; f = check_label_balance(LabelEvidence.of(made(q, y)))[0]
    assert f.type == "imbalance" and f.evidence["absent"] >= 1 and f.severity == "medium" and f.classes[0] == "0"
    even = r.random((40, 4)) < .1; assert not check_label_balance(LabelEvidence.of(made(np.full((40, 4), .1), even)))


def test_rows_that_are_not_finite_are_left_out_and_told():
    q = np.full((5, 2), .5); q[2, 1] = np.nan; f = multilabel_findings(made(q, np.eye(2)[[0, 1, 0, 1, 0]]))
    assert [(o.type, o.rows) for o in f] == [("not_finite", (2,))]
    assert [o.type for o in multilabel_findings(made(np.full((3, 2), np.nan), np.zeros((3, 2))))] == ["not_finite"]


def test_small_differences_are_no_findings_however_certain():
    r = np.random.default_rng(0); z = r.normal(size=(100_000, 3))*2; y = r.random(z.shape) < sigmoid(z); assert not multilabel_findings(made(sigmoid(z*1.03 + .05), y))
