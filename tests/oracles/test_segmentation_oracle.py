"Masks against scikit-learn, torchmetrics, and literal slow versions."
import warnings
import numpy as np, pytest, torch
import sklearn.metrics as skm
from helpers import needs
from interp_kit.interpret.segmentation import SegmentationInterpretation
from interp_kit.predictions import Predictions, bootstrap, confusion_counts, segmentation_metrics
from interp_kit.predictions.metrics.segmentation import (
    _boundary_width as boundary_width, _mask_boundary as mask_boundary, boundary_iou, image_ious, pixel_confusion)
from interp_kit.predictions.masks import _image_counts as image_counts, _image_mass as image_mass, counts_of, map_facts

TYPES = (torch.uint8, torch.int16, torch.int64)
IGNORED = (None, 255, -100, 0)


def case(seed):
    "A random segmentation: few or many classes, absent ones, void pixels, void images, three integer types."
    r = np.random.default_rng(seed)
    n, C, H, W = int(r.integers(1, 7)), int(r.choice([1, 2, 3, 7, 20])), int(r.integers(1, 13)), int(r.integers(1, 13))
    ignore, dtype = IGNORED[seed % 4], TYPES[seed//4 % 3]
    if ignore == -100 and dtype == torch.uint8: dtype = torch.int16
    seen = np.sort(r.choice(C, size=int(r.integers(1, C + 1)), replace=False))  # the other classes never occur
    t = r.choice(seen, size=(n, H, W)); z = r.normal(size=(n, C, H, W)).astype(np.float32); z[:, :, :, : W//2] += 3*(np.arange(C)[:, None, None] == t[:, None, :, : W//2])
    if C > 2: z[:, r.integers(0, C)] -= 20  # a class that is never predicted
    if ignore is not None:
        t[r.random(t.shape) < r.choice([0, .2, .9])] = ignore
        if n > 1 and r.random() < .5: t[r.integers(0, n)] = ignore
        if seed % 13 == 0: t[:] = ignore
    q = torch.from_numpy(z).softmax(1)
    p = Predictions.from_arrays(q, torch.from_numpy(t), task="segmentation", ignore_index=ignore)
    p.targs, p.decoded = p.targs.to(dtype), p.decoded.to(dtype)
    return p


def without_counts(p): return Predictions(None, p.targs, p.losses, p.decoded, task=p.task, meta={**p.meta, "n_classes": p.n_classes})


def mean(x):
    x = np.asarray(x, dtype=float)
    return x[~np.isnan(x)].mean() if (~np.isnan(x)).any() else np.nan


def jaccard(t, d, c): return ((t == c) & (d == c)).sum()/((t == c) | (d == c)).sum() if ((t == c) | (d == c)).any() else np.nan


def reference(p):
    "The scores by scikit-learn from the flattened pixels that count; classes that have none are left out of means."
    t, d = p.targs.long().numpy(), p.decoded.long().numpy()
    keep = t != p.ignore_index if p.ignore_index is not None else np.ones(t.shape, bool)
    classes = [c for c in range(p.n_classes) if c != p.ignore_index]
    y, x = t[keep], d[keep]
    if not len(y): return dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "mean_dice", "mean_image_iou", "loss", "mean_confidence"), np.nan), np.full(p.n_classes, np.nan)
    here = [c for c in classes if (y == c).any() or (x == c).any()]
    kw = dict(labels=here, average=None, zero_division=np.nan)
    iou = np.full(p.n_classes, np.nan); iou[here] = skm.jaccard_score(y, x, **{**kw, "zero_division": 0})
    n = np.array([(y == c).sum() for c in here])
    images = [mean([jaccard(a[k], b[k], c) for c in classes]) for a, b, k in zip(t, d, keep)]
    full = keep.reshape(len(t), -1).any(1)
    conf = p.preds.max(1).values.double().numpy()[keep].mean()
    loss = mean([-np.log(np.maximum(p.preds[i].numpy()[a[k], *np.nonzero(k)], np.finfo(np.float32).tiny)).mean() for i, (a, k) in enumerate(zip(t, keep)) if full[i]])
    return dict(pixel_accuracy=skm.accuracy_score(y, x), mean_accuracy=mean(skm.recall_score(y, x, **kw)), mean_iou=mean(iou), frequency_weighted_iou=(iou[here]*n).sum()/n.sum(),
                mean_dice=mean(skm.f1_score(y, x, **{**kw, "zero_division": 0})), mean_image_iou=mean(images), loss=loss, mean_confidence=conf), iou


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", range(8))
def test_200_random_cases_equal_scikit_learn(block):
    for seed in range(25*block, 25*block + 25):
        p = case(seed); ref, iou = reference(p); ours = segmentation_metrics(p); bare = without_counts(p); no_preds = segmentation_metrics(bare)
        assert set(ours) == set(ref) and set(no_preds) == set(ref) - {"mean_confidence"}
        for k, v in ref.items():
            np.testing.assert_allclose(ours[k], v, atol=1e-6 if k in ("loss", "mean_confidence") else 1e-12, rtol=1e-5 if k == "loss" else 0, err_msg=f"{k}, seed {seed}", equal_nan=True)
            if k in no_preds: np.testing.assert_allclose(no_preds[k], ours[k], equal_nan=True)
            if np.isnan(ours[k]): assert ours.reasons[k]
        t, d = p.targs.long(), p.decoded.long()
        keep = t != p.ignore_index if p.ignore_index is not None else torch.ones_like(t, dtype=torch.bool)
        cm = skm.confusion_matrix(t[keep], d[keep], labels=range(p.n_classes)) if keep.any() else np.zeros((p.n_classes,)*2)
        for q in (p, bare): np.testing.assert_array_equal(pixel_confusion(q).numpy(), cm)
        interp = SegmentationInterpretation.from_predictions(p)
        np.testing.assert_allclose(interp.intersection_over_union()["iou"].to_numpy(float), [*iou, ref["mean_iou"]], atol=1e-12, equal_nan=True)
        np.testing.assert_allclose(interp.dice()["dice"].to_numpy(float)[-1], ref["mean_dice"], atol=1e-12, equal_nan=True)
        for i, row in enumerate(image_ious(p)):
            np.testing.assert_allclose(row, [jaccard(t[i][keep[i]].numpy(), d[i][keep[i]].numpy(), c) if c != p.ignore_index else np.nan for c in range(p.n_classes)], atol=1e-12, equal_nan=True)
        frame = interp.to_frame()
        np.testing.assert_allclose(frame["mean_iou"], interp.per_image_iou()["mean"], atol=1e-12, equal_nan=True)
        for i in range(len(p)):
            k = keep[i]; assert frame["pixels"][i] == int(k.sum())
            np.testing.assert_allclose(frame["pixel_accuracy"][i], float((t[i] == d[i])[k].float().mean()), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("seed", range(0, 40))
def test_counts_and_mass_equal_loops(seed):
    p = case(seed); C, ignore = p.n_classes, p.ignore_index
    counts, mass = image_counts(p.targs, p.decoded, C, ignore), image_mass(p.preds, p.targs, p.decoded, ignore)
    for i in range(len(p)):
        t, d, q = p.targs[i].long(), p.decoded[i].long(), p.preds[i].double()
        k = t != ignore if ignore is not None else torch.ones_like(t, dtype=torch.bool)
        for c in range(C):
            assert counts[i, :, c].tolist() == [int((k & (t == c) & (d == c)).sum()), int((k & (t == c)).sum()), int((k & (d == c)).sum())]
            torch.testing.assert_close(mass[i, :, c].double(), torch.stack([q[c][k & (d == c)].sum(), q[c][k].sum()]), atol=1e-5, rtol=1e-5)


def test_against_torchmetrics():
    needs("torchmetrics")
    from torchmetrics.functional.classification import multiclass_jaccard_index
    from torchmetrics.functional.segmentation import dice_score, mean_iou
    for seed in range(60):
        p = case(seed); C = p.n_classes
        if C == 1: continue
        t, d = p.targs.long(), p.decoded.long(); keep = t != p.ignore_index if p.ignore_index is not None else torch.ones_like(t, dtype=torch.bool)
        if not keep.any(): continue
        ours = SegmentationInterpretation.from_predictions(p).intersection_over_union()["iou"].to_numpy(float)[:-1]
        ref = multiclass_jaccard_index(d, t, C, average="none", ignore_index=p.ignore_index).numpy()
        known = ~np.isnan(ours); np.testing.assert_allclose(ours[known], ref[known], atol=1e-6)
        if p.ignore_index is None:
            np.testing.assert_allclose(segmentation_metrics(p)["mean_iou"], float(multiclass_jaccard_index(d[None], t[None], C, average="none")[known].mean()), atol=1e-6)
            each = image_ious(p); one = mean_iou(d, t, C, per_class=True, input_format="index").numpy(); some = ~np.isnan(each)
            np.testing.assert_allclose(each[some], one[some], atol=1e-6)
            dice = dice_score(d[None].flatten(1)[:, None], t[None].flatten(1)[:, None], C, average="none", input_format="index").numpy()[0]
            np.testing.assert_allclose(SegmentationInterpretation.from_predictions(p).dice()["dice"].to_numpy(float)[:-1][known], dice[known], atol=1e-6)


def literal_edge(mask, d):
    "Pixels of a mask with a pixel within d (in a square) that is not of the mask, or beyond the image."
    H, W = mask.shape; res = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask)):
        window = [mask[b, a] if 0 <= b < H and 0 <= a < W else False for b in range(y - d, y + d + 1) for a in range(x - d, x + d + 1)]
        res[y, x] = not all(window)
    return res


@pytest.mark.parametrize("seed", range(0, 60))
def test_boundary_iou_equals_loops(seed):
    from scipy.ndimage import binary_erosion
    p = case(seed); r = np.random.default_rng(seed); dilation = float(r.choice([.02, .1, .3])); d = boundary_width(p.targs.shape[1:], dilation)
    if seed % 2: p.targs, p.decoded = ((o*0 + o[..., ::3, ::3].repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :o.shape[1], :o.shape[2]]) for o in (p.targs, p.decoded))  # areas
    t, x = p.targs.long().numpy(), p.decoded.long().numpy(); keep = t != p.ignore_index if p.ignore_index is not None else np.ones(t.shape, bool)
    ref = []
    for c in range(p.n_classes):
        both = either = 0
        for a, b, k in zip(t, x, keep):
            e, f = literal_edge((a == c) & k, d), literal_edge((b == c) & k, d)
            for m, o in (((a == c) & k, e), ((b == c) & k, f)): assert (o == (m & ~binary_erosion(m, np.ones((2*d + 1,)*2)))).all()
            both, either = both + (e & f).sum(), either + (e | f).sum()
        ref.append(both/either if either and c != p.ignore_index else np.nan)
    np.testing.assert_allclose(boundary_iou(p, dilation), ref, atol=1e-12, equal_nan=True)


def test_a_boundary_is_as_wide_as_said():
    m = torch.zeros(1, 40, 60, dtype=torch.int16); m[0, 10:30, 15:45] = 1
    for d in (1, 2, 5, 9, 14):
        inside = (mask_boundary(m, d, 2) & (m == 1))[0]; assert int(inside.sum()) == 20*30 - max(0, 20 - 2*d)*max(0, 30 - 2*d)


@pytest.mark.parametrize("seed", range(6))
def test_order_chunks_and_types_do_not_matter(seed, monkeypatch):
    import interp_kit.predictions.metrics.segmentation as seg
    p = case(4*seed + 1); order = np.random.default_rng(seed).permutation(len(p))
    a, b = segmentation_metrics(p), segmentation_metrics(p[order])
    np.testing.assert_allclose(list(a.values()), list(b.values()), atol=1e-9, equal_nan=True)
    whole = pixel_confusion(p), boundary_iou(p), counts_of(p)
    small, bare = seg._image_chunks, without_counts(p)
    monkeypatch.setattr(seg, "_image_chunks", lambda p, pixels=1: small(p, 1))
    for q in (bare, p): assert torch.equal(pixel_confusion(q), whole[0]); np.testing.assert_array_equal(boundary_iou(q), whole[1])
    assert torch.equal(counts_of(bare), whole[2])
    for dtype in TYPES[1:] + (torch.int32,): assert torch.equal(confusion_counts(p.targs.to(dtype), p.decoded.to(dtype), p.n_classes, p.ignore_index), whole[0])


def test_bytes_and_minus_100():
    "torch compares a byte with −100 as 156; class 156 must stay one."
    t = torch.randint(0, 200, (2, 30, 30), dtype=torch.uint8); assert (t == 156).any()
    assert int(confusion_counts(t, t, 200, -100).sum()) == t.numel() and int(image_counts(t, t, 200, -100)[:, 1].sum()) == t.numel()


def test_large_masks_in_little_memory():
    "1,000 classes, and counts beyond what 16 or 32 bits hold of pairs."
    t = torch.randint(0, 1000, (3, 200, 200)); d = torch.where(torch.rand(t.shape) < .5, t, 999 - t)
    cm = confusion_counts(t.short(), d.short(), 1000); assert torch.equal(cm, torch.bincount((t*1000 + d).flatten(), minlength=10**6).view(1000, 1000))
    c = image_counts(t.short(), d, 1000); assert torch.equal(c.sum(0), torch.stack([cm.diagonal(), cm.sum(1), cm.sum(0)]))


def test_the_interval_is_that_of_images():
    "Pixels of an image err together: resampling images gives the interval that resampling pixels would miss by far."
    r = np.random.default_rng(0); t = r.integers(0, 3, (40, 16, 16)); good = r.random(40) < .7
    d = np.where(good[:, None, None], t, (t + 1) % 3); q = np.eye(3)[d].transpose(0, 3, 1, 2)*.97 + .01
    value, low, high = bootstrap(Predictions.from_arrays(q, t, task="segmentation"), "pixel_accuracy", n=4000)
    means = [good[r.integers(0, 40, 40)].mean() for _ in range(4000)]
    np.testing.assert_allclose((low, high), np.quantile(means, [.025, .975]), atol=.026); assert high - low > .2 and value == good.mean()


def test_undefined_says_why():
    blank = Predictions.from_arrays(np.full((2, 3, 4, 4), 1/3), np.full((2, 4, 4), 255), task="segmentation", ignore_index=255)
    m = segmentation_metrics(blank); assert all(np.isnan(v) for v in m.values()) and set(m.reasons.values()) == {"no image has a labelled pixel"}
    with warnings.catch_warnings():
        warnings.simplefilter("error"); assert np.isnan(bootstrap(blank, "mean_iou")).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("ignore", [None, -100, 255, 1])
def test_facts_of_maps_are_those_of_torch(dtype, ignore):
    g = torch.Generator().manual_seed(0)
    for C, scale in ((2, 1), (3, 100), (21, 1e-4), (300, 5)):
        z = (torch.randn(4, C, 5, 7, generator=g)*scale).to(dtype); t = torch.randint(0, C, (4, 5, 7), generator=g)
        z[0, :, 0] = z[0, :1, 0] # equals
        z[1, 0, 2] = -torch.inf; t[1, 2] = 1 if ignore != 1 else C - 1
        if ignore is not None: t[2, :2] = ignore
        losses, decoded, mass = map_facts(z, t, ignore)
        p = z.double().softmax(1)
        ref = torch.stack([torch.nn.functional.cross_entropy(a[None].double(), b[None], ignore_index=-1 if ignore is None else ignore) for a, b in zip(z, t)])
        torch.testing.assert_close(losses.double(), ref, rtol=1e-6, atol=1e-6)
        assert losses.dtype == torch.float32 and torch.equal(decoded, z.argmax(1))
        torch.testing.assert_close(mass, image_mass(p, t, decoded, ignore), rtol=1e-6, atol=1e-5)


def test_facts_of_maps_leave_odd_ones_to_others():
    z, t = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)
    for bad in (torch.nan, torch.inf): w = z.clone(); w[0, 1, 2, 2] = bad; assert map_facts(w, t) is None
    assert map_facts(z, t + 3) is None and map_facts(z, t.int() - 1) is None and map_facts(z[:0], t[:0]) is None
    losses, _, mass = map_facts(z, t, 0); assert losses.isnan().all() and not mass.any() # all void
    v = t.clone(); v[1, 3, 3] = 255
    for bad in (torch.nan, torch.inf): w = z.clone(); w[1, 1, 3, 3] = bad; assert map_facts(w, v, 255) is None # where nothing counts
    w = z.clone(); w[1, 0] = -torch.inf; assert map_facts(w, t) is None # an infinite loss
    before = z.clone(); assert map_facts(z, t) is not None and torch.equal(z, before)
