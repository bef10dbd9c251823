"RISE against its formula, and on everything that makes other implementations fail."
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from helpers import needs
from interp_kit.attribution.rise import (
    RISE, _GROUPS as GROUPS, _MaskedRuns as MaskedRuns, _MaskSource as MaskSource, _MaskSums as MaskSums, _STEPS as STEPS,
    _image_batch as as_image_batch, _build_masks as build_masks, _mask_weights as mask_weights)
from interp_kit.core import DataError, LabelError, ModelError, TaskError


def gen(seed=0): return torch.Generator().manual_seed(seed)
def image(*shape, seed=1): return torch.rand(*shape, generator=gen(seed))


def small_net(c=3, k=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(c, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, k)).eval()


# masks

@pytest.mark.parametrize("size,cells", [((224, 224), (7, 7)), ((224, 320), (7, 7)), ((900, 64), (7, 7)), ((33, 50), (5, 9)), ((20, 20), (20, 1))])
def test_masks_equal_interpolation_and_crop(size, cells):
    rows, cols = (mask_weights(n, c) for n, c in zip(size, cells))
    source = MaskSource(cells, (len(rows), len(cols)), masks="iid", seed=3)
    grids, shifts = source.take(12)
    got = build_masks(grids, shifts, rows, cols)
    side = [-(-n//c) for n, c in zip(size, cells)]
    big = F.interpolate(grids[:, None], size=[(c + 1)*s for c, s in zip(cells, side)], mode="bilinear", align_corners=False)[:, 0]
    for m, b, (i, j) in zip(got, big, shifts.tolist()):
        y, x = i*side[0]//min(STEPS, side[0]), j*side[1]//min(STEPS, side[1])
        torch.testing.assert_close(m, b[y:y+size[0], x:x+size[1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["iid", "stratified"])
@pytest.mark.parametrize("p", [.2, .5, .9])
def test_cells_are_shown_with_probability_p_and_shifts_are_even(kind, p):
    grids, shifts = MaskSource((6, 7), (8, 5), p=p, masks=kind, seed=1).take(4096)
    assert abs(float(grids.mean()) - p) < 4*(p*(1 - p)/grids.numel())**.5
    assert (grids.mean(0) - p).abs().max() < 4.5*(p*(1 - p)/4096)**.5
    counts = torch.bincount(shifts[:, 0]*5 + shifts[:, 1], minlength=40)
    assert (counts - 4096/40).abs().max() < 5*(4096/40)**.5
    z = (grids.flatten(1) - p)/(p*(1 - p))**.5
    corr = (z.T @ z/4096)[~torch.eye(42, dtype=torch.bool)]
    assert corr.square().mean().sqrt() < 1.25/4096**.5 # pairs of cells are as independent as chance makes them
    if kind == "iid": assert corr.abs().max() < 5/4096**.5


def test_stratified_cells_are_more_even_than_chance():
    off = {k: torch.stack([(MaskSource((7, 7), (8, 8), masks=k, seed=s).take(512)[0].mean(0) - .5).square().mean() for s in range(20)]).mean() for k in ("iid", "stratified")}
    assert off["stratified"] < .1*off["iid"]


@pytest.mark.parametrize("kind", ["iid", "stratified"])
def test_a_mask_depends_on_seed_and_number_only(kind):
    new = lambda seed=5: MaskSource((7, 7), (8, 8), masks=kind, seed=seed)
    a, b = new(), new()
    whole, parts = a.take(100), [b.take(n) for n in (1, 2, 3, 30, 64)]
    for i in (0, 1): assert torch.equal(whole[i], torch.cat([o[i] for o in parts]))
    assert not torch.equal(whole[0], new(6).take(100)[0])


@pytest.mark.parametrize("kind", ["iid", "stratified"])
def test_the_global_random_state_is_not_touched(kind):
    torch.manual_seed(0); np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    RISE(small_net().eval(), n_masks=20, masks=kind)
    torch.set_rng_state(before[0]); np.random.seed(0)
    RISE(lambda x: x.mean((2, 3)), n_masks=20, masks=kind).explain(image(3, 20, 20))
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_steps_of_shifts_cost_no_accuracy():
    "The map that eight shifts to a cell converge to is that of all shifts: for a score that is linear in the mask both are known."
    weight = torch.zeros(112, 112, dtype=torch.float64); weight[30:50, 60:90] = 1/600
    def limit(steps):
        a = mask_weights(112, 7, steps=steps).double()
        res = torch.zeros(112, 112, dtype=torch.float64) # E[cov of (weight · M) and M] = mean over shifts of A Aᵀ W B Bᵀ
        for r in a:
            for c in a: res += r @ (r.T @ weight @ c) @ c.T
        return res/len(a)**2
    few, many = limit(STEPS), limit(16)
    assert len(mask_weights(112, 7, steps=16)) == 16
    assert (few - many).abs().max() < .01*many.max()


# the estimator

def eclique_map(scores, masks, p):
    "The paper's sum, as its authors compute it: one product of scores and flattened masks, over N and p."
    n = len(masks)
    return (scores.double().T @ masks.double().reshape(n, -1)).reshape(-1, *masks.shape[1:])/n/p


def reference_masks(n, size, s, p, seed):
    "Masks by the paper's recipe with scikit-image: any shift within a cell, borders repeated (as torch's bilinear interpolation does; the authors' code mirrors them)."
    from skimage.transform import resize
    rng, side = np.random.default_rng(seed), [int(np.ceil(o/s)) for o in size]
    out = np.empty((n, *size), np.float32)
    for m in out:
        y, x = rng.integers(side[0]), rng.integers(side[1])
        grid = (rng.random((s, s)) < p).astype(np.float32)
        m[:] = resize(grid, [(s + 1)*o for o in side], order=1, mode="edge", anti_aliasing=False)[y:y+size[0], x:x+size[1]]
    return torch.from_numpy(out)


def test_classic_with_given_masks_is_the_papers_formula():
    needs("skimage")
    net, x = small_net(), image(3, 60, 44)
    masks = reference_masks(200, (60, 44), 7, .4, 0)
    with torch.no_grad(): scores = net(masks[:, None]*x).softmax(1)
    got = RISE(net, masks=masks, p=.4, estimator="classic", activation=lambda o: o.softmax(1), batch_size=33).explain(x, "all")
    want = eclique_map(scores, masks, .4).float()
    assert (got.values - want).abs().max() < 1e-5*want.abs().max()
    assert got.meta["n_masks"] == 200 and got.meta["masks"] == "given"


@pytest.mark.parametrize("estimator", ["centred", "classic"])
@pytest.mark.parametrize("kind", ["iid", "stratified"])
def test_sums_by_shift_equal_sums_of_masks(kind, estimator):
    net, x = small_net(), image(3, 50, 61)
    got = RISE(net, n_masks=150, cell=(4, 6), p=.6, masks=kind, estimator=estimator, seed=2).explain(x, "all").values
    w = mask_weights(50, 4), mask_weights(61, 6)
    masks = build_masks(*MaskSource((4, 6), (len(w[0]), len(w[1])), p=.6, masks=kind, seed=2).take(150), *w)
    with torch.no_grad(): s = net(masks[:, None]*x).double()
    m = masks.double()
    want = torch.einsum("nk,nhw->khw", s - s.mean(0), m)/(150*.24) if estimator == "centred" else torch.einsum("nk,nhw->khw", s, m)/(150*.6)
    assert (got - want).abs().max() < 1e-5*want.abs().max()
    given = RISE(net, masks=masks, p=.6, estimator=estimator).explain(x, "all").values
    assert (given - want).abs().max() < 1e-5*want.abs().max()


def test_values_are_the_covariance_over_that_of_a_cell():
    "A score that is three times one place of the mask: soft edges leave 4/9 of a cell's variance there, on average over shifts."
    x = torch.ones(1, 70, 70)
    a = RISE(lambda b: 3*b[:, :, 35, 35], n_masks=4000).explain(x)
    assert abs(float(a.values[0, 35, 35]) - 3*4/9) < .15 and float(a.values[0, :15].abs().max()) < .25
    const = RISE(lambda b: torch.full((len(b), 3), .7), n_masks=333, masks="iid").explain(x, "all")
    assert (const.values == 0).all() and const.meta["stderr"] == [0, 0, 0]


def test_constant_classic_is_the_mean_mask():
    a = RISE(lambda b: torch.full((len(b), 1), .7), n_masks=200, estimator="classic").explain(torch.ones(1, 40, 40))
    assert abs(float(a.values.mean()) - .7) < .05 and torch.isfinite(a.values).all()


# the standard error and when to stop

@pytest.mark.parametrize("kind", ["iid", "stratified"])
def test_standard_error_is_the_spread_of_repeated_maps(kind):
    net, x = small_net(), image(3, 32, 32)
    runs = [RISE(net, n_masks=256, masks=kind, seed=s, activation=lambda o: o.softmax(1)).explain(x) for s in range(24)]
    spread = torch.cat([a.values for a in runs]).var(0).mean().sqrt()
    said = torch.tensor([a.meta["stderr"][0] for a in runs]).square().mean().sqrt()
    assert .75 < float(said/spread) < 1.35, (float(said), float(spread))


def test_tolerance():
    net, x = small_net(), image(3, 48, 48)
    a = RISE(net, n_masks=20_000, seed=1).explain(x, tol=.25)
    n = a.meta["n_masks"]
    assert a.meta["converged"] and n % 100 == 0 and n < 20_000 and a.meta["relative_stderr"][0] <= .25
    b = RISE(net, n_masks=20_000, seed=1).explain(x, max_samples=n)
    assert torch.equal(a.values, b.values) or (a.values - b.values).abs().max() < 1e-5*b.values.abs().max()
    limit = RISE(net, n_masks=8000, seed=9, masks="iid").explain(x).values
    assert np.corrcoef(a.values.flatten(), limit.flatten())[0, 1] > .94
    capped = RISE(net, n_masks=20_000).explain(x, tol=1e-4, max_samples=130)
    assert capped.meta["n_masks"] == 130 and capped.meta["converged"] is False
    flat = RISE(lambda b: torch.ones(len(b), 1), n_masks=5000).explain(x, tol=.1)
    assert flat.meta["n_masks"] == 100 and flat.meta["converged"] # nothing to wait for


def test_centred_needs_fewer_masks_than_classic():
    net, x = small_net(), image(3, 48, 48)
    score = lambda o: o.softmax(1) + 2
    limit = RISE(net, n_masks=12000, seed=77, masks="iid", activation=score).explain(x).values.flatten()
    r = {e: np.mean([np.corrcoef(RISE(net, n_masks=250, seed=s, masks="iid", estimator=e, activation=score).explain(x).values.flatten(), limit)[0, 1] for s in range(4)]) for e in ("centred", "classic")}
    assert r["centred"] > .8 > r["classic"] + .2, r


# results

def test_batch_size_and_number_of_masks_do_not_change_the_masks():
    net, x = small_net(), image(3, 40, 30)
    want = RISE(net, n_masks=100, seed=4).explain(x).values
    for bs in (1, 7, 64):
        got = RISE(net, n_masks=100, seed=4, batch_size=bs).explain(x).values
        assert (got - want).abs().max() < 1e-5*want.abs().max()
    for k, part in enumerate(RISE(net, n_masks=100, seed=4).iter_explain(x, every=30)):
        one = RISE(net, n_masks=part.meta["n_masks"], seed=4).explain(x).values
        assert (part.values - one).abs().max() < 1e-5*want.abs().max()
    assert k == 3 and part.meta["n_masks"] == 100


def test_several_images_and_targets_come_image_by_image():
    net, x = small_net(), image(2, 3, 32, 32)
    a = RISE(net, n_masks=60).explain(x, [2, 0, 3])
    assert a.values.shape == (6, 32, 32) and a.target == [2, 0, 3]*2 and len(a.inputs) == 2 and torch.equal(a[4].inputs[0], x[1])
    one = RISE(net, n_masks=60).explain(x[1], 0)
    assert one.values.shape == (1, 32, 32) and (a.values[4] - one.values[0]).abs().max() < 1e-5*one.values.abs().max()
    with torch.no_grad(): out = net(x)
    torch.testing.assert_close(a.scores, torch.stack([out[i, c] for i in range(2) for c in (2, 0, 3)]))
    assert RISE(net, n_masks=8).explain(x).target == out.argmax(1).tolist()
    assert len(RISE(net, n_masks=8).explain(x, "all")) == 8
    assert RISE(net, n_masks=8).explain([x[0], x[1]], torch.tensor(1)).target == [1, 1]
    assert as_image_batch(net, list(x)).shape == (2, 3, 32, 32)


def test_a_thousand_classes_stay_small():
    w = torch.randn(3, 1000, generator=gen())
    a = RISE(lambda b: b.mean((2, 3)) @ w, n_masks=40).explain(image(3, 64, 64), "all")
    assert a.values.shape == (1000, 64, 64) and torch.isfinite(a.values).all()
    sums = MaskSums(1000, mask_weights(224, 7), mask_weights(224, 7))
    assert sums.weighted.nbytes < 60e6 # and not 1,000 maps for each group


def test_result_is_saved_and_is_json(tmp_path):
    import json
    from interp_kit.attribution.result import Attribution
    a = RISE(small_net(), n_masks=30).explain(image(3, 24, 24), tol=.1)
    json.loads(json.dumps(a.to_dict(), allow_nan=False))
    assert torch.equal(Attribution.open(a.save(tmp_path/"a")).values, a.values)
    few = RISE(small_net(), n_masks=2).explain(image(3, 24, 24))
    json.dumps(few.to_dict(), allow_nan=False)
    assert np.isnan(few.meta["stderr"][0]) # two masks tell no error


def test_learner_names_and_files():
    from interp_kit.demo import demo_learner
    learn = demo_learner("classification")
    file = learn.dls.valid_ds.items[0]
    a = RISE(learn, n_masks=50).explain([file, learn.dls.valid_ds.items[1]], [learn.dls.vocab[3], 5])
    assert a.labels == [learn.dls.vocab[3], learn.dls.vocab[5]]*2 and a.values.shape == (4, 32, 32) and len(a.pictures) == 2 and (a[3].pictures[0] == a.pictures[1]).all()
    assert 0 <= float(a.scores.min()) and float(a.scores.max()) <= 1
    with pytest.raises(LabelError, match="no class 'elephant'"): RISE(learn, n_masks=50).explain(file, "elephant")


# what breaks others

@pytest.mark.parametrize("shape", [(3, 224, 320), (3, 900, 64), (1, 40, 40), (4, 30, 30)])
def test_shapes(shape):
    a = RISE(lambda b: b.mean((2, 3)), n_masks=12).explain(image(*shape))
    assert a.values.shape == (1, *shape[1:]) and torch.isfinite(a.values).all()


def test_the_model_is_untouched_also_after_an_interrupt():
    net, x = small_net().train(), image(3, 32, 32)
    net[0].weight.requires_grad_(False); net[7].weight.grad = torch.ones_like(net[7].weight)
    state, grad = {k: v.clone() for k, v in net.state_dict().items()}, net[7].weight.grad
    same = lambda: (all(m.training for m in net.modules()) and all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and net[7].weight.grad is grad
                    and not net[0].weight.requires_grad and net[7].weight.requires_grad and net[0].weight.is_contiguous() and not any(m._forward_hooks for m in net.modules()))
    RISE(net, n_masks=20).explain(x); assert same()
    steps = RISE(net, n_masks=60).iter_explain(x, every=20)
    next(steps); assert same() # between two results
    next(steps); steps.close(); assert same()
    calls = []
    def stop(m, i, o):
        calls.append(1)
        if len(calls) == 5: raise KeyboardInterrupt
    h = net[6].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt): RISE(net, n_masks=100, batch_size=8).explain(x)
    h.remove(); assert same()


def test_callers_without_gradients_and_frozen_models():
    net, x = small_net(), image(3, 32, 32)
    want = RISE(net, n_masks=20).explain(x).values
    with torch.no_grad(): assert torch.equal(RISE(net, n_masks=20).explain(x).values, want)
    with torch.inference_mode():
        a = RISE(net, n_masks=20).explain(x.clone())
        assert torch.equal(a.values, want)
    net.requires_grad_(False)
    assert torch.equal(RISE(net, n_masks=20).explain(x.clone().requires_grad_()).values, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_in_other_precisions(dtype):
    net, x = small_net(), image(3, 32, 32)
    want = RISE(net, n_masks=64).explain(x, 0).values
    got = RISE(small_net().to(dtype), n_masks=64).explain(x, 0).values
    assert got.dtype == torch.float32 and torch.isfinite(got).all()
    assert np.corrcoef(got.flatten(), want.flatten())[0, 1] > .95


class Wrapped(nn.Module):
    "A network that returns its scores in something else."
    def __init__(self, net, how): super().__init__(); self.net, self.how = net, how
    def forward(self, x): return self.how(self.net(x))


@pytest.mark.parametrize("how", [lambda o: (o,), lambda o: {"logits": o}, lambda o: (o, o.mean(1))])
def test_outputs_in_tuples_and_dicts(how):
    x = image(3, 32, 32)
    assert torch.equal(RISE(Wrapped(small_net(), how), n_masks=20).explain(x).values, RISE(small_net(), n_masks=20).explain(x).values)


def test_a_model_that_cannot_take_channels_last():
    class Rows(nn.Module):
        def __init__(self): super().__init__(); self.conv = nn.Conv2d(3, 3, 1)
        def forward(self, x): return self.conv(x).view(len(x), -1)[:, :5].contiguous() if x.is_contiguous() else x.view(len(x), -1)
    assert RISE(Rows(), n_masks=10).explain(image(3, 20, 20)).values.shape == (1, 20, 20)


def test_functions_of_arrays_and_onnx():
    x = image(3, 20, 20)
    a, b = (RISE(f, n_masks=50).explain(x, 1).values for f in (lambda b: b.numpy().mean((2, 3)), lambda b: b.mean((2, 3))))
    assert (a - b).abs().max() < 1e-5*b.abs().max()
    needs("onnx", "onnxruntime")
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    net = nn.Conv2d(3, 4, 3, bias=False)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["g"]), helper.make_node("Flatten", ["g"], ["y"])], "net",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])], [numpy_helper.from_array(net.weight.detach().numpy(), "w")])
    session = onnxruntime.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())
    same = nn.Sequential(net, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    got, want = (RISE(f, n_masks=60).explain(x, "all").values for f in (lambda b: session.run(None, {"x": b.numpy()})[0], same))
    assert (got - want).abs().max() < 1e-4*want.abs().max()


def test_baseline_is_what_is_seen_where_hidden():
    seen, x = [], image(3, 12, 12)
    def watch(b): seen.append(b.clone()); return b.mean((2, 3))
    fill = torch.tensor([.1, .5, .9])[:, None, None]
    masks = (torch.rand(10, 12, 12, generator=gen()) < .5).float()
    for base, want in ((fill, fill.expand(3, 12, 12)), (.25, torch.full((3, 12, 12), .25)), (0, torch.zeros(3, 12, 12))):
        seen.clear(); RISE(watch, masks=masks, baseline=base).explain(x)
        got = torch.cat(seen[1:])
        torch.testing.assert_close(got, masks[:, None]*x + (1 - masks[:, None])*want)
    with pytest.raises(DataError, match="baseline of shape"): RISE(watch, n_masks=4, baseline=torch.ones(5)[:, None, None], cell=3).explain(x)


def test_progress_is_told():
    told = []
    RISE(lambda b: b.mean((2, 3)), n_masks=250, progress=lambda done, n: told.append((done, n))).explain(image(3, 20, 20))
    assert told == [(100, 250), (200, 250), (250, 250)]
    RISE(lambda b: b.mean((2, 3)), n_masks=120, progress=True).explain(image(3, 20, 20))


def bad(case):
    x, f = image(3, 20, 20), lambda b: b.mean((2, 3))
    nan = lambda b: b.mean((2, 3))/(b.mean((1, 2, 3)) > .4)[:, None]*0
    return {"no masks": lambda: RISE(f, n_masks=0), "p 0": lambda: RISE(f, p=0.), "p 1": lambda: RISE(f, p=1), "cell": lambda: RISE(f, cell=21).explain(x), "no cells": lambda: RISE(f, cell=0), "kind": lambda: RISE(f, masks="sobol"),
            "estimator": lambda: RISE(f, estimator="mean"), "batch": lambda: RISE(f, batch_size=0), "mask shape": lambda: RISE(f, masks=torch.ones(4, 8, 8)).explain(x),
            "mask dims": lambda: RISE(f, masks=torch.ones(8, 8)), "nan": lambda: RISE(nan, n_masks=50).explain(x), "rows": lambda: RISE(lambda b: f(b)[:1], n_masks=9).explain(torch.stack([x, x])), "4-d": lambda: RISE(lambda b: b, n_masks=4).explain(x),
            "target": lambda: RISE(f, n_masks=4).explain(x, 3), "name": lambda: RISE(f, n_masks=4).explain(x, "cat"), "no targets": lambda: RISE(f, n_masks=4).explain(x, []), "float": lambda: RISE(f, n_masks=4).explain(x, 1.5),
            "row of numbers": lambda: RISE(f, n_masks=4).explain(torch.rand(20)), "integers": lambda: RISE(f, n_masks=4).explain(torch.ones(3, 20, 20).byte()), "a number": lambda: RISE(f, n_masks=4).explain(3), "no model": lambda: RISE(3, n_masks=4).explain(x),
            "two inputs": lambda: RISE(f, n_masks=4).explain((x[None], torch.ones(1, 3))), "every": lambda: next(RISE(f, n_masks=4).iter_explain(x, every=0)), "max": lambda: RISE(f).explain(x, max_samples=0), "tol": lambda: RISE(f).explain(x, tol=0),
            "file without transforms": lambda: RISE(f, n_masks=4).explain("picture.png"), "NaN image": lambda: RISE(f, n_masks=4).explain(x*torch.nan)}[case]


@pytest.mark.parametrize("case,error,says", [
    ("no masks", DataError, "at least one mask"), ("p 0", DataError, "between 0 and 1"), ("p 1", DataError, "between 0 and 1"), ("cell", DataError, "21 cells do not fit"), ("no cells", DataError, "no cells"), ("kind", DataError, "'stratified', 'iid'"),
    ("estimator", DataError, "'centred' or 'classic'"), ("batch", DataError, "batch_size is 0"), ("mask shape", DataError, r"\(8, 8\) pixels"), ("mask dims", DataError, r"\(N, H, W\)"), ("nan", ModelError, "NaN or infinite"),
    ("rows", ModelError, "rows of scores"), ("4-d", ModelError, "one row of numbers"), ("target", LabelError, "target 3"), ("name", LabelError, "no class 'cat'"), ("no targets", DataError, "list is empty"), ("float", TaskError, "class number"),
    ("row of numbers", DataError, "an image"), ("integers", DataError, "uint8"), ("a number", DataError, "image"), ("no model", TaskError, "function"), ("two inputs", DataError, "2 inputs"), ("every", DataError, "at least 1 mask"),
    ("max", DataError, "max_samples is 0"), ("tol", DataError, "tol is 0"), ("file without transforms", TaskError, "transforms"), ("NaN image", DataError, "NaN")])
def test_errors_name_the_remedy(case, error, says):
    with pytest.raises(error, match=says): bad(case)()


def test_runs_are_shared_by_images():
    "The sweep itself: two images, different numbers of scores, the same masks."
    from types import SimpleNamespace
    x = image(2, 3, 20, 20)
    opts = SimpleNamespace(cells=(5, 5), p=.5, masks="iid", seed=0, baseline=0., batch_size=None, estimator="centred")
    runs, seen = MaskedRuns(x, [1, 2], opts), {0: [], 1: []}
    def run(i, b): seen[i].append(b/x[i].clamp_min(1e-9)); return b.mean((2, 3))[:, :i + 1]
    runs.advance(run, 2*GROUPS); runs.advance(run, 3)
    torch.testing.assert_close(torch.cat(seen[0])[:, 0], torch.cat(seen[1])[:, 0])
    assert [m.shape for m in runs.maps()] == [(1, 20, 20), (2, 20, 20)] and runs.done == 11 and len(runs.errors()[0]) == 3


def test_functions_may_ask_for_a_memory_layout():
    seen = []
    def f(b): seen.append(b.is_contiguous(memory_format=torch.channels_last)); return b.mean((2, 3))
    RISE(f, n_masks=8).explain(image(3, 20, 20)); assert not any(seen[1:])
    f.layout = torch.channels_last; RISE(f, n_masks=8).explain(image(3, 20, 20)); assert seen[-1]


def test_errors_are_those_of_all_pixels():
    "They are read at eight places to a cell, which is all that the maps' smoothness leaves to see."
    net, x = small_net(), image(3, 150, 224)
    a = RISE(net, n_masks=200, seed=1).explain(x, [0, 1])
    w = mask_weights(150, 7), mask_weights(224, 7)
    grids, shifts = MaskSource((7, 7), (8, 8), seed=1).take(200)
    masks = build_masks(grids, shifts, *w)
    with torch.no_grad(): s = net(masks[:, None]*x)[:, :2].double()
    maps = torch.stack([torch.einsum("nk,nhw->khw", s[g::4] - s[g::4].mean(0), masks[g::4].double())/(50*.25) for g in range(4)])
    error = (maps.var(0)/4).mean((1, 2)).sqrt()
    assert ((torch.tensor(a.meta["stderr"]) - error).abs() < .03*error).all()
    sd = maps.mean(0).flatten(1).std(1)
    assert ((torch.tensor(a.meta["relative_stderr"]) - error/sd).abs() < .05*error/sd).all()
