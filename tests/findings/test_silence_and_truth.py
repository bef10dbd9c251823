"Findings are silent on noise and speak on truth."
import numpy as np, pytest
from scipy.stats import binom
from helpers import draw_labels, softmax
from interp_kit.interpret.classification_findings import (
    _ClassEvidence as Evidence, _collapse as check_collapse, _confused_pairs as check_pairs,
    _miscalibration as check_confidence, _uneven_classes as check_balance, _weak_classes as check_classes,
    classification_findings)
from interp_kit.interpret.loss_findings import loss_findings as check_losses
from interp_kit.core import excess_p
from interp_kit.predictions import Predictions


def null(seed, kind="even"):
    "Labels drawn from a model's own probabilities: nothing is there to find."
    r = np.random.default_rng(seed); n, C = int(r.choice([40, 150, 600])), int(r.choice([2, 3, 10, 30]))
    z = r.normal(size=(n, C))*r.choice([1, 2, 4])
    if kind == "alike":  # two classes that the model honestly cannot tell apart
        z[:, 1] = z[:, 0] + .3*r.normal(size=n)
    if kind == "priors": z = z*.3 + np.linspace(0, 1, C)  # little signal, uneven classes
    if kind == "uniform": z[:] = 0
    if kind == "many": z = r.normal(size=(n, 100))*3
    q = softmax(z)
    return Predictions.from_arrays(q, draw_labels(q, r))


@pytest.mark.parametrize("kind", ["even", "alike", "priors", "uniform", "many"])
def test_at_most_5_percent_of_null_sets_speak(kind):
    N = 400; spoke = sum(bool(classification_findings(null(s, kind))) for s in range(N))
    assert spoke <= binom.ppf(.99, N, .05), spoke  # the one-sided 99 % bound does not exclude 5 %


def test_silent_on_resampled_labels_of_a_real_model(digits):
    from interp_kit.predictions import capture
    p, r = capture(digits, progress=False), np.random.default_rng(0)
    spoke = sum(bool(classification_findings(Predictions.from_arrays(p.preds, draw_labels(p.preds.double().numpy(), r)))) for _ in range(100))
    assert spoke <= binom.ppf(.99, 100, .05), spoke


def base(seed, n=1500, C=6):
    r = np.random.default_rng(seed); z = r.normal(size=(n, C))*2.5
    return r, z, draw_labels(softmax(z), r)


def types(p): return {(f.type, f.classes) for f in classification_findings(p)}


@pytest.mark.parametrize("seed", range(3))
def test_planted_confusion_is_found(seed):
    r, z, y = base(seed); m = (y == 1) & (r.random(len(y)) < .3); z[np.ix_(m, [1, 4])] = z[np.ix_(m, [4, 1])]
    p = Predictions.from_arrays(softmax(z), y)
    found = check_pairs(Evidence.of(p)); assert found and found[0].classes == ("1", "4")
    rows = np.array(found[0].rows); assert ((p.targs[rows] == 1) & (p.decoded[rows] == 4)).all()
    assert (np.diff(p.losses[rows].numpy()) <= 1e-6).all(), "worst first"


@pytest.mark.parametrize("seed", range(3))
def test_collapsed_class_is_found_and_named_once(seed):
    _, z, y = base(seed); z[:, 3] -= 8
    p = Predictions.from_arrays(softmax(z), y)
    f = check_classes(Evidence.of(p))[0]
    assert (f.type, f.classes, f.severity) == ("collapsed_class", ("3",), "critical")


@pytest.mark.parametrize("factor,kind", [(2, "overconfidence"), (.5, "underconfidence")])
def test_temperature_is_found(factor, kind):
    for seed in range(3):
        _, z, y = base(seed); found = check_confidence(Evidence.of(Predictions.from_arrays(softmax(z*factor), y)))
        assert [f.type for f in found] == [kind]


def test_a_class_that_the_model_has_not_learned_is_found():
    r, z, y = base(0); bad = y == 2; z[bad] = r.normal(size=(bad.sum(), 6))*2.5
    found = check_classes(Evidence.of(Predictions.from_arrays(softmax(z), y))); assert found[0].classes == ("2",)


def test_imbalance_and_absent_classes():
    r = np.random.default_rng(0); y = r.choice(4, p=[.9, .06, .04, 0], size=2000); z = 3*np.eye(4)[y] + r.normal(size=(2000, 4))
    f = check_balance(Evidence.of(Predictions.from_arrays(softmax(z), y)))[0]
    assert f.type == "imbalance" and f.evidence["absent"] == 1 and f.evidence["smallest"] == 0
    even = Predictions.from_arrays(softmax(r.normal(size=(40, 4))), r.integers(0, 4, 40)); assert not check_balance(Evidence.of(even))


def test_collapse_is_found_instead_of_every_class():
    r = np.random.default_rng(0); y = r.integers(0, 5, 500); z = r.normal(size=(500, 5))*.1; z[:, 2] += 5
    p = Predictions.from_arrays(softmax(z), y)
    assert check_collapse(Evidence.of(p))[0].severity == "critical"
    assert "collapse" in {f.type for f in classification_findings(p)} and "weak_class" not in {f.type for f in classification_findings(p)}


def test_not_finite_rows_are_a_critical_finding():
    q = np.full((4, 2), .5); q[2] = np.nan
    p = Predictions.from_arrays(q, [0, 1, 0, 1]); f = check_losses(p)[0]
    assert f.severity == "critical" and f.rows == (2,) and any(o.type == "not_finite" for o in classification_findings(p))


def test_the_bound_holds_for_unequal_chances():
    r = np.random.default_rng(0)
    for _ in range(20):
        pr = r.beta(.5, 3, 60); sums = (r.random((4000, 60)) < pr).sum(1); k = int(np.quantile(sums, .98)) + 1
        assert (sums >= k).mean() <= excess_p(k, pr.sum(), 60) + 4*np.sqrt(.02/4000)


def test_general_overconfidence_is_told_once_and_accuses_no_class():
    for seed in range(10):
        _, z, y = base(seed); assert {f.type for f in classification_findings(Predictions.from_arrays(softmax(2*z), y))} == {"overconfidence"}


def test_a_planted_pair_is_found_in_an_overconfident_model():
    r, z, y = base(1); m = (y == 1) & (r.random(len(y)) < .3); z[np.ix_(m, [1, 4])] = z[np.ix_(m, [4, 1])]
    assert ("1", "4") in {f.classes for f in classification_findings(Predictions.from_arrays(softmax(2*z), y)) if f.type == "confused_pair"}


def test_a_model_of_which_nothing_is_finite():
    found = classification_findings(Predictions.from_arrays(np.full((4, 2), np.nan), [0, 1, 0, 1])); assert [f.type for f in found] == ["not_finite"]


def test_each_rule_keeps_its_own_level():
    "Without the corrections for looking at many classes and pairs, these rates would be far above 1 %."
    rules, N = (check_pairs, check_classes, check_confidence, check_balance, check_collapse), 600
    spoke = {f.__name__: 0 for f in rules}
    for s in range(N):
        r = np.random.default_rng(10_000 + s); q = softmax(r.normal(size=(400, 30))*2); e = Evidence.of(Predictions.from_arrays(q, draw_labels(q, r)))
        for f in rules: spoke[f.__name__] += bool(f(e))
    assert max(spoke.values()) <= binom.ppf(.999, N, .01), spoke


def test_small_differences_are_no_findings_however_certain():
    r = np.random.default_rng(0); q = softmax(r.normal(size=(200_000, 3))*2); y = draw_labels(q, r)
    off = q**1.02; off /= off.sum(1, keepdims=True)
    assert not check_confidence(Evidence.of(Predictions.from_arrays(off, y))), "a gap below 2 % does not matter"


@pytest.mark.parametrize("seen,expected,n", [(5, 4.5, 20), (3, 3, 9), (0, 0, 0), (0, 2, 9)])
def test_no_excess_where_less_than_one_above_the_mean(seen, expected, n): assert excess_p(seen, expected, n) == 1
