"Findings on masks: silent on noise, also when pixels err together; loud on truth."
import numpy as np, pytest, torch
from scipy.stats import binom
from helpers import softmax
from interp_kit.interpret.segmentation_findings import (
    _collapse as check_mask_collapse, _imbalance as check_mask_balance, _MaskEvidence as MaskEvidence,
    _miscalibration as check_mask_confidence, _not_finite as check_mask_values, _unlabelled as check_void,
    _weak_classes as check_mask_classes, segmentation_findings)
from interp_kit.core import betting_p
from interp_kit.predictions import Predictions


def grown(x, k): return np.kron(x, np.ones((1,)*(x.ndim - 2) + (k, k)))


def drawn(q, u): return (q.cumsum(1) < u[:, None]).sum(1).clip(0, q.shape[1] - 1)


def null(seed, kind):
    "Masks drawn from a model's own probabilities: one draw for each pixel, for each quarter of an image, or for a whole image."
    r = np.random.default_rng(seed); n, C = int(r.choice([4, 15, 40])), int(r.choice([2, 3, 6, 12]))
    z = (r.normal(size=(n, C, 8, 8)) + grown(r.normal(size=(n, C, 2, 2)), 4)*2)*r.choice([.5, 1, 3])
    parts = dict(pixels=8, regions=2, images=1, sure=1, flat=2, alike=1)[kind]
    if kind == "sure": z = z*6
    if kind == "flat": z = z*0
    if kind == "alike": z = grown(r.normal(size=(n, C, 1, 1))*3, 8)  # all pixels of an image have the same probabilities
    q = softmax(z)
    return Predictions.from_arrays(q, drawn(q, grown(r.random((n, parts, parts)), 8//parts)), task="segmentation")


@pytest.mark.parametrize("kind", ["pixels", "regions", "images", "sure", "flat", "alike"])
def test_at_most_5_percent_of_null_sets_speak(kind):
    N = 400; spoke = sum(bool(segmentation_findings(null(s, kind))) for s in range(N))
    assert spoke <= binom.ppf(.99, N, .05), spoke


def test_each_rule_keeps_its_own_level():
    rules, N = (check_mask_classes, check_mask_confidence, check_mask_balance, check_mask_collapse), 400
    spoke = {f.__name__: 0 for f in rules}
    for s in range(N):
        e = MaskEvidence.of(null(10_000 + s, ("regions", "images")[s % 2]))
        for f in rules: spoke[f.__name__] += bool(f(e))
    assert max(spoke.values()) <= binom.ppf(.999, N, .01), spoke


@pytest.mark.parametrize("n", [1, 5, 40])
def test_the_bet_keeps_its_level_for_rare_and_whole_errors(n):
    r = np.random.default_rng(n); N = 3000
    for mean in (.001, .03, .3):
        chance = np.minimum(r.exponential(mean, (N, n)), 1); wrong = r.random((N, n)) < chance
        for seen, expected in ((wrong, chance), (~wrong, 1 - chance)):
            spoke = sum(betting_p(a, b) < .01 for a, b in zip(seen, expected)); assert spoke <= binom.ppf(.999, N, .01), (mean, spoke)


def base(seed, n=40, C=5):
    "Logits with smooth areas and labels drawn from them in blocks of 4 × 4 pixels."
    r = np.random.default_rng(seed); z = grown(r.normal(size=(n, C, 4, 4)), 4)*2.5 + r.normal(size=(n, C, 16, 16))*.7
    return r, z, drawn(softmax(z), grown(r.random((n, 4, 4)), 4))


def found(z, y): return [(f.type, f.classes) for f in segmentation_findings(Predictions.from_arrays(softmax(z), y, task="segmentation"))]


@pytest.mark.parametrize("seed", range(3))
def test_planted_faults_are_found(seed):
    r, z, y = base(seed); assert found(z, y) == []
    assert found(2*z, y) == [("overconfidence", ())]
    none = z.copy(); none[:, 3] -= 8; assert ("collapsed_class", ("3",)) in found(none, y)
    weak = z.copy(); weak[:, 3] -= 1.5; assert [f for f in found(weak, y) if f[0] == "weak_class"] == [("weak_class", ("3",))]
    swap = (y == 3) & (grown(r.random((40, 4, 4)), 4) < .5)  # half of the areas of class 3 are taken for class 1
    assert ("weak_class", ("3",)) in found(np.where(swap[:, None], z[:, [0, 3, 2, 1, 4]], z), y)
    one = z.copy(); one[:, 2] += 30; said = found(one, y); assert said[0] == ("collapse", ("2",)) and not {f[0] for f in said} & {"weak_class", "collapsed_class"}
    z4 = base(seed, 100)[1:]; assert found(z4[0]/2, z4[1]) == [("underconfidence", ())]


def test_rows_are_those_of_the_data_set_worst_first():
    _, z, y = base(0); z[:, 3] -= 8; q = softmax(z); p = Predictions.from_arrays(q, y, task="segmentation", ids=None)[10:]
    f = check_mask_classes(MaskEvidence.of(p))[0]; rows = np.array(f.rows)
    n = np.array([(y[r] == 3).sum() for r in rows]); assert rows.min() >= 10 and n[0] > 0 and n[:5].mean() > n[-5:].mean() and f.evidence["images"] == sum((y[10:] == 3).any((1, 2)))


def test_general_overconfidence_accuses_no_class():
    for seed in range(10): _, z, y = base(seed, 60); assert found(2*z, y) == [("overconfidence", ())]


def test_rare_and_absent_classes():
    r = np.random.default_rng(0); y = np.zeros((80, 12, 12), dtype=int); y[:, :6] = 1; y[3, 0, 0] = 2
    z = 4*np.eye(4)[y].transpose(0, 3, 1, 2) + r.normal(size=(80, 4, 12, 12))
    p = Predictions.from_arrays(softmax(z), y, task="segmentation", vocab=["sky", "sea", "boat", "gull"])
    f = check_mask_balance(MaskEvidence.of(p))[0]
    assert f.classes == ("gull", "boat") and (f.evidence["absent"], f.evidence["tiny"]) == (1, 1) and "in 1 of 80 images" in f.title and "gull occurs in no image" in f.title
    few = Predictions.from_arrays(p.preds[:4], y[:4], task="segmentation"); assert not check_mask_balance(MaskEvidence.of(few)), "four images say nothing"


def test_void_images_are_named_and_sparse_labels_are_not():
    q, y = np.full((40, 2, 8, 8), .5), np.zeros((40, 8, 8), dtype=int); y[5] = 255; y[9, 1:] = 255
    f = check_void(Predictions.from_arrays(q, y, task="segmentation", ignore_index=255))[0]
    assert f.rows == (5, 9) and (f.evidence["unlabelled"], f.evidence["hardly_labelled"]) == (1, 1)
    y[:, 1:] = 255; f = check_void(Predictions.from_arrays(q, y, task="segmentation", ignore_index=255)); assert f[0].rows == (5,)  # few labels everywhere are meant
    y[5] = 0; y[:, 1:] = 255; assert not check_void(Predictions.from_arrays(q, y, task="segmentation", ignore_index=255))


def test_not_finite_is_found_with_and_without_probabilities():
    _, z, y = base(0); q = softmax(z); q[4, :, 2, 2] = np.nan; p = Predictions.from_arrays(q, y, task="segmentation")
    assert check_mask_values(p)[0].rows == (4,) and [f.type for f in segmentation_findings(p)] == ["not_finite"]
    losses = p.losses.clone(); losses[4] = 1.; losses[7] = torch.inf
    kept = Predictions(None, p.targs, losses, p.decoded, task="segmentation", meta=dict(n_classes=5), columns=p.columns); assert check_mask_values(kept)[0].rows == (4, 7)
    bare = Predictions(None, p.targs, losses, p.decoded, task="segmentation", meta=dict(n_classes=5)); assert check_mask_values(bare)[0].rows == (7,)
    y[3] = 255; blank = Predictions.from_arrays(softmax(z), y, task="segmentation", ignore_index=255); assert torch.isnan(blank.losses[3]) and not check_mask_values(blank), "no label, no loss: that is no fault"
