"The judge of maps: each measure against a literal version or captum, and truths that are known."
import copy, json
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from torch import nn
from helpers import needs
from interp_kit.attribution.result import Attribution
from interp_kit.attribution.curves import (
    _area as area, _baseline_of as baseline_of, _blurred as blurred, _curve as curve,
    _Changes, _image_scores as image_scores, _pixel_ranks as pixel_ranks, _random_squares as random_squares)
from interp_kit.attribution.explain import explain
from interp_kit.attribution.faithfulness import (
    CONTROLS, MEASURES, Faithfulness, _frozen, faithfulness, _interval as interval, judge, plot_curves, plot_measures, plot_methods)
from interp_kit.attribution.measures import (
    _noisy_copies as noisy_copies, _pointing as pointing,
    _rank_correlation as rank_correlation, _region_masks as region_masks, _relative_change as relative_change,
    _shuffled_weights as shuffled_weights)
from interp_kit.attribution.targets import in_region, of_output, resolve
from interp_kit.attribution.probe import probing
from interp_kit.core import DataError, TaskError
from interp_kit.demo import demo_learner

pytestmark = pytest.mark.filterwarnings("ignore")
FEW = dict(integrated_gradients=dict(n_steps=8, tol=None), rise=dict(n_masks=60))


def gen(seed=0): return torch.Generator().manual_seed(seed)


def small_net(c=2, k=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(c, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, k)).eval()


# oracles

@pytest.mark.parametrize("way", ["deletion", "insertion"])
def test_curves_equal_a_slow_literal_loop(way):
    net, x, maps = small_net(), torch.rand(3, 2, 9, 7, generator=gen()), torch.rand(3, 9, 7, generator=gen(1))
    start, end = (x, baseline_of(x, .3)) if way == "deletion" else (blurred(x, 1.5), x)
    with probing(net, x, [2, 0, 1]) as probe: got = curve(image_scores(probe, lambda o: o.softmax(1)), pixel_ranks(maps), start, end, n_steps=5, batch_size=4)
    for i, c in enumerate([2, 0, 1]):
        image, done = start[i].clone(), 0
        order = np.argsort(-maps[i].numpy().ravel())
        for step in range(6):
            for p in order[done:round(step*63/5)]: image[:, p//7, p % 7] = end[i][:, p//7, p % 7]
            done = round(step*63/5)
            with torch.no_grad(): want = net(image[None]).softmax(1)[0, c]
            assert abs(float(got[i, step] - want)) < 1e-6
    assert np.allclose(area(got), [np.trapezoid(c, dx=.2) for c in got.numpy()])


def test_infidelity_is_that_of_captum():
    needs("captum"); from captum.metrics import infidelity as theirs
    net, x = small_net(1), torch.rand(4, 1, 10, 8, generator=gen())
    squares = random_squares((10, 8), 20, side=3, seed=5)
    with torch.no_grad(): lost = torch.stack([(net(x) - net(torch.where(gone, 0., x)))[:, 1] for gone in squares], 1)
    maps = lost @ squares.float().flatten(1); maps = maps.view(4, 10, 8) + .2*maps.std()*torch.randn(4, 10, 8, generator=gen(2))
    with probing(net, x, 1) as probe:
        changes = _Changes(probe, batch_size=7)
        changes.squares = squares
        got, = changes.infidelities([maps])
    turn = iter(range(10_000))
    def perturb(x): # captum repeats each row for the perturbations of a batch of them
        n = len(x)//4; at = squares[[i % 20 for i in range(n)]].repeat(4, 1, 1)[:, None]
        return at.float(), torch.where(at, torch.zeros_like(x), x)
    want = theirs(lambda o: net(o), perturb, x, maps[:, None], target=1, n_perturb_samples=20, normalize=True)
    assert np.allclose(got, want.detach()/(lost**2).mean(1), rtol=1e-3) and (got > .001).all() and (got < .9).all()


def test_max_sensitivity_is_that_of_captum():
    needs("captum"); from captum.metrics import sensitivity_max
    net, x = small_net(1), torch.rand(3, 1, 10, 8, generator=gen())
    copies = list(noisy_copies(x, 6, .05, seed=1))
    f = lambda o: explain(net, o, "gradient_times_input", [i for i in range(3) for _ in range(len(o)//3)]).values
    got = torch.stack([relative_change(f(x), f(c)) for c in copies]).amax(0)
    want = sensitivity_max(lambda o: (f(o if torch.is_tensor(o) else o[0]),), x, perturb_func=lambda o: torch.stack(copies, 1).flatten(0, 1), n_perturb_samples=6)
    assert torch.allclose(got.float(), want, rtol=1e-4) and (got > 0).all()


def test_pointing_is_the_area_for_random_maps_and_numpy_for_one():
    inside = region_masks(3000, (10, 8), boxes=[[1, 2, 5, 9]]*3000); share = 28/80
    hits = pointing(torch.rand(3000, 10, 8, generator=gen()), inside)
    assert abs(float(hits.mean()) - share) < 4*np.sqrt(share*(1 - share)/3000)
    maps = torch.randn(50, 10, 8, generator=gen(1))
    assert [bool(h) for h in pointing(maps, inside[:50])] == [bool(inside[0].numpy()[np.unravel_index(m.argmax(), m.shape)]) for m in maps.numpy()]
    two = region_masks(2, (6, 6), boxes=[[[0, 0, 2, 2], [4, 4, 6, 6]], []])
    assert two.flatten(1).sum(1).tolist() == [8, 0] and pointing(torch.rand(2, 6, 6), two)[1].isnan()
    assert torch.equal(region_masks(1, (4, 4), boxes=[[-3, -3, 9, 1]])[0, 0], torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("kind,level", [("normal", .95), ("skewed", .95), ("rate", .95), ("normal", .8)])
def test_intervals_cover(kind, level):
    r, n, runs = np.random.default_rng(3), 30, 400
    draw = dict(normal=lambda: r.normal(1, 2, n), skewed=lambda: r.beta(.6, 2.4, n), rate=lambda: (r.random(n) < .7).astype(float))[kind]
    truth = dict(normal=1, skewed=.2, rate=.7)[kind]
    hit = sum(lo <= truth <= hi for _, lo, hi in (interval(draw(), level, n=500, rate=kind == "rate") for _ in range(runs)))
    from scipy.stats import binom
    allowed = level - (.03 if kind == "skewed" else .01)
    assert hit >= binom.ppf(.001, runs, allowed) and hit <= binom.ppf(.9999, runs, level + .02), hit/runs


def test_differences_are_paired():
    r = np.random.default_rng(0); hard = r.normal(0, 10, 40); a, b = hard + r.normal(1, .3, 40), hard + r.normal(0, .3, 40)
    (_, low_a, _), (_, _, high_b), (_, low, _) = interval(a), interval(b), interval(a - b)
    assert low_a < high_b and low > .7 # the two intervals overlap, that of the difference is far from zero


# ranks, ties, shuffled weights

def test_ties_have_no_favourite_place():
    ranks = pixel_ranks(torch.zeros(400, 6, 6), seed=4)
    assert all(sorted(r.flatten().tolist()) == list(range(36)) for r in ranks[:5]) and torch.equal(ranks, pixel_ranks(torch.zeros(400, 6, 6), seed=4))
    assert (ranks.float().mean(0) - 17.5).abs().max() < 4.5*np.sqrt(36**2/12/400)
    partly = pixel_ranks(torch.tensor([[[0., 0., 5.], [-1., 0., 2.]]]))[0].tolist(); assert partly[0][2] == 0 and partly[1][2] == 1 and partly[1][0] == 5
    with pytest.raises(DataError, match="NaN"): pixel_ranks(torch.full((1, 2, 2), torch.nan))


def test_shuffled_weights_come_back_bitwise_also_tied_and_after_an_interrupt():
    class Tied(nn.Module):
        def __init__(self): super().__init__(); self.a = nn.Linear(5, 5, bias=False); self.b = nn.Linear(5, 5, bias=False); self.b.weight = self.a.weight; self.bn = nn.BatchNorm1d(5)
        def forward(self, x): return self.bn(self.b(self.a(x)))
    net = Tied().eval().bfloat16(); x = torch.rand(3, 5).bfloat16(); before = copy.deepcopy(net.state_dict()); out = net(x); at = net.a.weight.data_ptr()
    with pytest.raises(KeyboardInterrupt):
        with shuffled_weights(net, 1): assert net.a.weight is net.b.weight and not torch.equal(net(x), out); raise KeyboardInterrupt
    assert torch.equal(net(x), out) and net.a.weight.data_ptr() == at and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_map_that_vanishes_with_the_weights_has_dropped():
    m = torch.rand(2, 5, 5); assert rank_correlation(m, torch.zeros(2, 5, 5)).tolist() == [0, 0] and rank_correlation(torch.zeros(2, 5, 5), m).isnan().all()


# known truths

class Corner(nn.Module):
    "A weight for each pixel, of which only those of a corner of 6×6 are not zero."
    def __init__(self, size=24): super().__init__(); self.weight = nn.Parameter(F.pad(torch.linspace(1, 3, 36).view(6, 6)/72, (0, size - 6, 0, size - 6)))
    def forward(self, x): return torch.stack([(x[:, 0]*self.weight).sum((1, 2)), torch.zeros(len(x))], 1)


def right(model, x, target=None):
    with probing(model, x, target) as p: return Attribution(p.xs[0][:, 0]*p.model.weight, x, [0]*p.n, "right")
def wrong(model, x, target=None): return Attribution(right(model, x).values.flip(1, 2), x, [0]*len(x), "wrong")
def edges(model, x, target=None): return Attribution((x - blurred(x, 1.)).abs()[:, 0], x, [0]*len(x), "edges")
def alike(model, x, target=None): return Attribution(right(model, x).values*2, x, [0]*len(x), "alike")


def corners(n=32, seed=1): return torch.rand(n, 1, 24, 24, generator=gen(seed)) + F.pad(torch.ones(1, 1, 6, 6), (0, 18, 0, 18))


def test_a_planted_truth():
    r = judge(Corner(), corners(), (wrong, edges, right), target=0, boxes=[[0, 0, 6, 6]]*32); t = r.table()
    assert r.order[0] == "right" and t.loc["right", "rank"] == 1 and t.loc["right", "ranking"] == "" and t.loc["right", "margin_low"] > 0
    i = {m: k for k, m in enumerate(r.names)}; ins = r.values["insertion"]
    assert r.apart("right", "centre") and ins[i["right"]].mean() > ins[i["centre"]].mean() and r.apart("right", "random")
    assert not t.loc["wrong", "margin_low"] > 0 and "not above random" in t.loc["wrong", "ranking"]
    assert t.loc["edges", "randomised"] > 1 - 1e-9 and "ignores the model: 1.00" in t.loc["edges", "ranking"] and "ignores" not in t.loc["right", "ranking"] and t.loc["right", "randomised_high"] < .5
    assert t.loc["right", "infidelity"] < 1e-6 and t.loc["wrong", "infidelity"] > .9 and t.loc["right", "pointing"] == 1 and t.loc["wrong", "pointing"] == 0
    assert list(t.index[-2:]) == list(CONTROLS) and t.loc["random", "margin"] == 0 and t["rank"][-2:].isna().all()


def test_maps_that_order_pixels_alike_are_not_ranked():
    r = judge(Corner(), corners(), (right, alike), target=0, n_again=0)
    assert r.ranking.startswith("no reliable ranking") and not r.apart("right", "alike")
    t = r.table(); assert all("no reliable ranking against" in o for o in t["ranking"][:2]) and "randomised" not in t and "sensitivity" not in t


def test_deletion_alone_never_ranks():
    class Fooled(Faithfulness): pass
    n, r = 40, np.random.default_rng(0)
    ins, dele = np.stack([.8 + .01*r.normal(size=n), .5 + .01*r.normal(size=n), .4 + .01*r.normal(size=n), .4 + .01*r.normal(size=n)]), np.stack([.5 + 0*r.normal(size=n), np.full(n, .1), np.full(n, .05), np.full(n, .3)])
    res = Faithfulness({m: None for m in ("a", "b", "random", "centre")}, dict(insertion=ins, deletion=dele, randomised=np.zeros((4, n))), {}, torch.linspace(0, 1, 3), dict(level=.95))
    assert res.order == ["a", "b"] and res.ranking == "a > b" and res.agreement == -1
    assert list(res.table().index) == ["a", "b", "random", "centre"] and (res.table().deletion_margin[:2] < 0).all()


# as it is used

@pytest.fixture(scope="module")
def judged():
    learn = demo_learner(); x = learn.dls.valid.one_batch()[0][:30]
    return learn, x, judge(learn, x, ("gradcam", "ig", "rise"), options=FEW, n_steps=10, n_again=4, n_noise=2, n_boot=200)


def test_the_table_of_a_learner(judged):
    learn, x, r = judged; t = r.table()
    assert isinstance(t, pd.DataFrame) and t.index.name == "method" and set(t.index) == {"gradcam", "integrated_gradients", "rise", "random", "centre"}
    for k in ("margin", *MEASURES):
        if k == "pointing": assert k not in t; continue
        known = t[k].notna(); assert (t[f"{k}_low"][known] <= t[k][known] + 1e-12).all() and (t[k][known] <= t[f"{k}_high"][known] + 1e-12).all(), k
    assert t.completeness.notna().tolist() == [m == "integrated_gradients" for m in t.index] and ((t.insertion > 0) & (t.insertion < 1)).all()
    facts = json.loads(json.dumps(t.attrs)); assert facts["ranking"] == r.ranking and len(facts["curves"]["insertion"]["rise"]) == 11 == len(facts["shares"]) and facts["n"] == 30
    assert t.loc["random", "randomised"] > 1 - 1e-9 and t.loc["random", "sensitivity"] == 0 and "control" in t.loc["centre", "ranking"]
    with torch.no_grad(): p = learn.model(x.as_subclass(torch.Tensor)).softmax(1).amax(1)
    for c in ("insertion", "deletion"): assert torch.allclose(r.curves[c][:, :, -1 if c == "insertion" else 0], p.expand(5, 30), atol=1e-4)
    assert r._repr_html_().startswith("<div") and "30 images" in repr(r)


def test_the_same_again_and_the_model_as_before(digits):
    model = digits.model; model.train(); x = digits.dls.valid.one_batch()[0][:6]
    for p in model.parameters(): p.grad = torch.ones_like(p)
    before = {k: v.clone() for k, v in model.state_dict().items()}; at = [p.data_ptr() for p in model.parameters()]; rng = torch.get_rng_state()
    try:
        kw = dict(options=FEW, n_steps=4, n_squares=8, n_noise=1, n_again=3, n_boot=50)
        a = faithfulness(digits, x, ("gradcam", "saliency"), **{**kw, "options": {}}); b = faithfulness(digits, x, ("gradcam", "saliency"), batch_size=5, **{**kw, "options": {}})
        pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-5); assert not a.equals(faithfulness(digits, x, ("gradcam", "saliency"), seed=1, **{**kw, "options": {}}))
        assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and at == [p.data_ptr() for p in model.parameters()]
        assert all((p.grad == 1).all() and p.requires_grad for p in model.parameters()) and torch.equal(torch.get_rng_state(), rng)
    finally:
        model.eval()
        for p in model.parameters(): p.grad = None


def test_forwards_are_bounded_in_size_and_number(digits):
    sizes = []; h = digits.model.register_forward_hook(lambda m, i, o: sizes.append(len(i[0])))
    x = digits.dls.valid.one_batch()[0][:5]
    try: judge(digits, x, (), n_steps=6, n_squares=8, n_again=0, batch_size=4, n_boot=10)
    finally: h.remove()
    assert max(sizes) <= 5 and sum(sizes) <= 5*(2*2*7 + 8 + 8) # two controls, two curves, squares, and a few first runs


def test_items_files_boxes_and_masks(judged):
    learn, x, r = judged; kw = dict(n_steps=3, n_squares=4, n_again=0, n_boot=50)
    files = learn.dls.valid.items[:4]; full = torch.ones(4, 32, 32, dtype=torch.bool)
    t = faithfulness(learn, files, ("saliency",), masks=full, **kw); assert (t.pointing == 1).all()
    for bad, said in ((dict(masks=full[:3]), "there are 4 images"), (dict(boxes=[[0, 0, 1, 1]]), "1 boxes for 4"), (dict(masks=full, boxes=[[0, 0, 1, 1]]*4), "Both"), (dict(baseline="grey"), "baseline='grey'"), (dict(n_steps=0), "n_steps=0")):
        with pytest.raises((DataError, TaskError), match=said): faithfulness(learn, files, ("saliency",), **{**kw, **bad})
    with pytest.raises(TaskError, match="no method 'nothing'"): faithfulness(learn, files, ("nothing",), **kw)
    with pytest.raises(TaskError, match="options names rice"): faithfulness(learn, files, ("saliency",), options=dict(rice={}), **kw)
    with pytest.raises(TaskError, match="is an image"): faithfulness(demo_learner("tabular"), demo_learner("tabular").dls.valid.one_batch()[:2], ("saliency",), **kw)
    with pytest.warns(UserWarning, match="4 images: intervals are wide"): faithfulness(learn, files, ("saliency",), **kw)
    for base in ("mean", "blur", .5, torch.zeros(3, 1, 1)): assert np.isfinite(faithfulness(learn, files, ("saliency",), baseline=base, **kw).deletion).all()
    one = faithfulness(learn, files[0], ("saliency",), **kw); assert np.isfinite(one.insertion).all() and one.insertion_low.isna().all()


@pytest.mark.parametrize("task", ["multilabel", "segmentation", "regression"])
def test_other_tasks(task):
    learn = demo_learner(task); x = learn.dls.valid.one_batch()[0][:4]; kw = dict(n_steps=3, n_squares=4, n_again=2, n_noise=1, n_boot=20)
    target = dict(multilabel=["1", "2", "3", "4"], segmentation=in_region("3"), regression=None)[task]
    t = faithfulness(learn, x, ("gradcam", "saliency"), target=target, **kw)
    assert np.isfinite(t.insertion).all() and np.isfinite(t.randomised).all() and (task == "regression" or ((t.insertion > 0) & (t.insertion < 1)).all())


def test_several_inputs_and_outputs():
    torch.manual_seed(0)
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(6, 3)
        def forward(self, image, row): h = torch.cat([self.conv(image).relu().mean((2, 3)), row], 1); return self.head(h), h.sum(1)
    xs = torch.rand(4, 1, 12, 12), torch.rand(4, 2); kw = dict(n_steps=3, n_squares=4, n_again=2, n_noise=1, n_boot=20)
    for target in (None, of_output(1), lambda o: o[0][:, 0] - o[0][:, 1]):
        t = faithfulness(Two(), xs, ("gradcam", "integrated_gradients"), target=target, **kw); assert np.isfinite(t.insertion).all() and np.isfinite(t.sensitivity[:2]).all()


# pictures

def test_pictures_show_every_method_and_the_controls(judged):
    learn, x, r = judged
    axs = plot_methods(r, [3, 0]); assert axs.shape == (2, 6) and [a.get_title().replace("\n", " ") for a in axs[0]] == ["image", *[m.replace("_", " ") for m in r.order], "random", "centre"]
    k = r.names.index(r.order[0]); assert axs[0, 1].get_xlabel() == f"{r.values['insertion'][k, 3]:.2f}" and all(len(a.images) >= 1 for a in axs.flat)
    maps = {m: explain(learn, x[:2], m) for m in ("gradcam", "saliency")}; assert plot_methods(maps, 2).shape == (2, 3)
    two = plot_curves(r); assert all(len(a.lines) == 5 == len(a.collections) for a in two) and f"· {r.values['deletion'][r.names.index('rise')].mean():.3f}" in " ".join(o.get_text() for o in two[0].figure.legends[0].get_texts())
    measures = plot_measures(r); assert len(measures) == 6 and [o.get_text() for o in measures[0].get_yticklabels()][:3] == [m.replace("_", " ") for m in r.order]
    with pytest.raises(DataError, match="name at least one of 30"): plot_methods(r, [30])


@pytest.mark.parametrize("spec", [None, 1, of_output(0), of_output(1, of_output(1)), of_output(1, of_output(0, 2))], ids=str)
def test_a_target_is_frozen_however_deep_its_output_lies(spec):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(12, n) for n in (3, 4, 5))
        def forward(self, x): return self.a(x), (self.b(x), self.c(x))
    torch.manual_seed(3)
    with probing(Heads(), torch.randn(6, 12), spec) as probe:
        want, rows = probe.target(probe.output), torch.arange(6)
        again = resolve(probe.output, _frozen(probe.output, probe.target, spec)(rows))
        assert torch.equal(again(probe.output), want)
