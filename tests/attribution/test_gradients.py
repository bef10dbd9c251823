"Integrated gradients: against Captum and closed forms, whatever the passes, and whatever the model."
import copy, warnings
import captum.attr as ca, numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from interp_kit.attribution.gradients import (
    _PATH_METHODS as PATH_METHODS, IntegratedGradients, _chunk_rows as chunk_rows, gradient_times_input, _integrate as integrate, _path_steps as path_steps,
    saliency_map)
from interp_kit.attribution.probe import probing
from interp_kit.core import DataError, LabelError, ModelError, TaskError
from interp_kit.demo import demo_learner


def small(dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8*25, 5)).eval()
    net[1].running_mean.normal_(); net[1].running_var.uniform_(.5, 2)
    return net.to(dtype)


def close(a, b, rtol=1e-6): assert a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=rtol*float(b.abs().max())), float((a - b).abs().max()/b.abs().max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", PATH_METHODS)
def test_equals_captum(method):
    net, x, base = small(), torch.randn(3, 3, 14, 14).double(), torch.randn(3, 3, 14, 14).double()
    want, delta = ca.IntegratedGradients(net).attribute(x, base, target=torch.tensor([1, 4, 0]), n_steps=15, method=method, return_convergence_delta=True)
    for size in (None, 1, 4, 45):
        got, error = IntegratedGradients(net, base).attribute(x, [1, 4, 0], 15, method=method, internal_batch_size=size, return_convergence_delta=True)
        close(got, want); assert torch.allclose(error, delta, atol=1e-6)


def test_steps_are_captums():
    from captum.attr._utils.approximation_methods import approximation_parameters
    for method in PATH_METHODS:
        for n in (2, 3, 50):
            sizes, alphas = approximation_parameters(method)
            at, w = path_steps(method, n)
            assert np.allclose(at, alphas(n), atol=1e-7) and np.allclose(w, sizes(n), atol=1e-15)


@pytest.mark.filterwarnings("ignore")
def test_float32_is_as_near_to_the_truth_as_captum():
    "ReLUs flip by rounding, so float32 implementations differ by more than rounding; ours is no further from float64 than twice Captum's distance."
    torch.manual_seed(0)
    net, x = resnet18(num_classes=10).eval(), torch.randn(1, 3, 64, 64)
    exact = ca.IntegratedGradients(copy.deepcopy(net).double()).attribute(x.double(), target=3, n_steps=20)
    far = lambda a: float((a.double() - exact).norm()/exact.norm())
    assert far(IntegratedGradients(net).attribute(x, 3, 20)) <= 2*far(ca.IntegratedGradients(net).attribute(x, target=3, n_steps=20)) + 1e-6


@pytest.mark.parametrize("width", (3, 200))
def test_the_first_layer_may_be_skipped(width):
    "Behind the first convolution or from the input: the same values, for models that use the image once and those that use it again."
    class Again(nn.Module):
        def __init__(self): super().__init__(); self.conv, self.head = nn.Conv2d(3, width, 3, stride=2, bias=True), nn.Linear(width, 2)
        def forward(self, x): return self.head(self.conv(x).relu().mean((2, 3))) + (x**2).mean((1, 2, 3))[:, None]
    class Changing(Again):
        "Uses the image again, but not where everything is zero: what the run at the baseline saw does not hold."
        def forward(self, x):
            y = self.conv(x)
            return self.head(y.relu().mean((2, 3))) + ((x**3).mean((1, 2, 3))[:, None] if float(y.detach().std()) > 1e-6 + float(self.conv.bias.std()) else 0)
    torch.manual_seed(0)
    for net in (small(), Again().double().eval(), Changing().double().eval()):
        x = torch.randn(2, 3, 14, 14).double()
        with probing(net, x, 1) as probe: want = integrate(probe, probe.leaves, (torch.zeros_like(x),), n_steps=9, chunk=5)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(IntegratedGradients(net).attribute(x, 1, 9), want)


def test_completeness_within_one_percent_at_the_default():
    torch.manual_seed(0)
    a = IntegratedGradients(resnet18(num_classes=10)).explain(torch.randn(2, 3, 64, 64), n_steps=50)
    assert (a.delta.abs() <= .01*torch.tensor(a.meta["change"]).abs()).all() and all(n >= 50 for n in a.meta["n_steps"])


def test_tol_raises_steps_and_gives_up_at_1600():
    class Jump(nn.Module):
        def forward(self, x): return (x.sum(1, keepdim=True) > .5).double() + 1e-3*x.sum(1, keepdim=True)
    with pytest.warns(UserWarning, match="after 1600 steps"): a = IntegratedGradients(Jump()).explain(torch.tensor([[.3, .4], [.1, .1]]).double())
    assert a.meta["n_steps"] == [1600, 50] and abs(float(a.delta[0]) + 1) < .01
    with pytest.warns(UserWarning, match="tol=.01"): IntegratedGradients(Jump()).attribute(torch.tensor([[.3, .4]]).double())


def test_nothing_of_all_steps_is_held_at_once():
    "The largest tensor that the model sees has as many rows as go into a pass, whatever the number of steps and images."
    net, seen = small(torch.float32), []
    net.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        IntegratedGradients(net).attribute(torch.randn(20, 3, 14, 14), 1, 60, internal_batch_size=6)
    assert max(seen) <= 20 and sum(seen) < 20*60 + 64 # the first run takes the inputs eight at a time, the baseline's as many as fit
    assert chunk_rows(10**12) == 1


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_models(dtype):
    net = small(torch.float32)
    x = torch.randn(2, 3, 14, 14)
    want = IntegratedGradients(net).attribute(x, 1)
    half = copy.deepcopy(net).to(dtype)
    for got in (IntegratedGradients(half).attribute(x, 1), IntegratedGradients(half).attribute(x.to(dtype), 1)):
        assert got.dtype == torch.float32 and float(torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1]) > .99
    assert saliency_map(half, x).shape == (2, 14, 14) and next(half.parameters()).dtype == dtype


def state(net): return {k: v.clone() for k, v in net.state_dict().items()}


def test_the_model_and_the_caller_are_left_alone():
    net = small(torch.float32).train()
    for p in net.parameters(): p.grad = torch.ones_like(p)
    x, before, rng = torch.randn(2, 3, 14, 14, requires_grad=True), state(net), torch.get_rng_state()
    want = IntegratedGradients(net).attribute(x, 1)
    with torch.no_grad(): assert torch.equal(IntegratedGradients(net).attribute(x, 1), want)
    with torch.inference_mode(): assert torch.equal(IntegratedGradients(net).attribute(x.detach(), 1), want)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items()) and net.training and x.grad is None
    assert all((p.grad == 1).all() and p.requires_grad for p in net.parameters()) and torch.equal(torch.get_rng_state(), rng)
    for p in net.parameters(): p.requires_grad_(False)
    assert torch.equal(IntegratedGradients(net).attribute(x, 1), want)
    assert all(not m._forward_hooks and not m._backward_hooks for m in net.modules())


def test_layout_of_the_weights_is_not_changed():
    net = small(torch.float32)
    IntegratedGradients(net).attribute(torch.randn(1, 3, 14, 14), 1)
    assert all(p.is_contiguous() for p in net.parameters())


@pytest.mark.parametrize("wrap", (lambda o: (o, o*2), lambda o: dict(logits=o, extra=o), lambda o: (o,)))
def test_tuple_and_dict_outputs(wrap):
    class Wrapped(nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, x): return wrap(self.net(x))
    net, x = small(), torch.randn(2, 3, 14, 14).double()
    close(IntegratedGradients(Wrapped(net)).attribute(x, 1, 10, internal_batch_size=3), IntegratedGradients(net).attribute(x, 1, 10, internal_batch_size=3), 1e-9)


def test_many_images_with_a_tuple_output_settle_in_pieces():
    class Two(nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, x): o = self.net(x); return o, (o*2, [o])
    net, x = small(), torch.randn(19, 3, 14, 14).double()
    close(IntegratedGradients(Two(net)).attribute(x, n_steps=4), IntegratedGradients(net).attribute(x, n_steps=4), 1e-9)


@pytest.mark.filterwarnings("ignore")
def test_constant_and_flat_models_give_zeros():
    class Constant(nn.Module):
        def forward(self, x): return torch.ones(len(x), 3)
    class Flat(nn.Module):
        def forward(self, x): return (x*0).flatten(1)[:, :3]
    x = torch.randn(2, 3, 8, 8)
    for net in (Constant(), Flat()):
        values, delta = IntegratedGradients(net).attribute(x, return_convergence_delta=True)
        assert values.shape == x.shape and (values == 0).all() and (delta == 0).all() and (saliency_map(net, x) == 0).all() and (gradient_times_input(net, x) == 0).all()


def test_one_warning_where_nothing_reaches_the_score():
    class Constant(nn.Module):
        def forward(self, x): return torch.ones(len(x), 3)
    for call in (lambda x: IntegratedGradients(Constant()).attribute(x, internal_batch_size=2), lambda x: saliency_map(Constant(), x)):
        with warnings.catch_warnings(record=True) as said: warnings.simplefilter("always"); call(torch.randn(12, 3, 8, 8))
        assert len(said) == 1 and "No gradient reaches" in str(said[0].message)


def test_shapes_follow_the_input():
    net = small(torch.float32)
    x = torch.randn(3, 14, 14)
    one, delta = IntegratedGradients(net).attribute(x, return_convergence_delta=True)
    assert one.shape == x.shape and delta.shape == () and torch.allclose(one, IntegratedGradients(net).attribute(x[None])[0], atol=1e-6)
    assert saliency_map(net, x).shape == (14, 14) and gradient_times_input(net, x).shape == x.shape
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2*36, 2))
    assert IntegratedGradients(grey).attribute(torch.randn(1, 8, 8)).shape == (1, 8, 8)


def test_baselines():
    net, x = small(), torch.randn(2, 3, 14, 14).double()
    same = IntegratedGradients(net).attribute(x, 1)
    for zero in (0, 0., torch.zeros(3, 14, 14), torch.zeros(1, 3, 14, 14), torch.zeros(2, 3, 14, 14).double()): close(IntegratedGradients(net, zero).attribute(x, 1), same, 1e-12)
    assert (IntegratedGradients(net, x).attribute(x, 1) == 0).all()
    for bad in (torch.zeros(3, 14, 14, 2), torch.zeros(5, 3, 14, 14), torch.zeros(3, 7, 7), (x, x), torch.full_like(x, float("nan"))):
        with pytest.raises(DataError): IntegratedGradients(net, bad).attribute(x, 1)


def test_several_inputs_and_embeddings():
    class Both(nn.Module):
        def __init__(self): super().__init__(); self.emb, self.line, self.head = nn.Embedding(7, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        def forward(self, cat, cont): return self.head((self.emb(cat).sum(1) + self.line(cont)).tanh())
    torch.manual_seed(0)
    net, cat, cont = Both().double(), torch.randint(0, 7, (5, 2)), torch.randn(5, 3).double()
    (c, v), delta = IntegratedGradients(net).attribute((cat, cont), 1, 80, return_convergence_delta=True)
    emb = net.emb(cat).detach()
    wc, wv = ca.IntegratedGradients(lambda e, x: net.head((e.sum(1) + net.line(x)).tanh())).attribute((emb, cont), target=1, n_steps=80)
    close(c, wc.sum(-1)); close(v, wv); assert c.shape == cat.shape and delta.abs().max() < 1e-6
    tokens = IntegratedGradients(net, (torch.zeros_like(cat), torch.zeros_like(cont))).attribute((cat, cont), 1, 80)[0]
    wc, _ = ca.IntegratedGradients(lambda e, x: net.head((e.sum(1) + net.line(x)).tanh())).attribute((emb, cont), (net.emb(torch.zeros_like(cat)).detach(), torch.zeros_like(cont)), target=1, n_steps=80)
    close(tokens, wc.sum(-1))
    with pytest.raises(DataError, match="looks up integers"): IntegratedGradients(net, 1.).attribute((cat, cont))


def test_demo_learners_of_tables_and_texts():
    wine, words = demo_learner("tabular"), demo_learner("text")
    rows = wine.dls.valid.items.iloc[:3]
    a = IntegratedGradients(wine).explain(rows)
    assert [v.shape for v in a.values] == [x.shape for x in a.inputs] and (a.delta.abs() <= .01*torch.tensor(a.meta["change"]).abs()).all()
    t = IntegratedGradients(words).explain(torch.randint(2, 30, (2, 12)))
    assert t.values.shape == (2, 12) and (t.delta.abs() <= .01*torch.tensor(t.meta["change"]).abs() + 1e-4).all()


def test_what_is_refused():
    net, x = small(), torch.randn(2, 3, 14, 14)
    ig = IntegratedGradients(net)
    for error, match, call in ((TaskError, "gausslegendre, riemann_left", lambda: ig.attribute(x, method="romberg")), (DataError, "at least 1", lambda: ig.attribute(x, n_steps=0)), (DataError, "at least 2", lambda: ig.attribute(x, n_steps=1, method="riemann_left")),
                               (TaskError, "got float", lambda: ig.attribute(x, n_steps=5.)), (DataError, "internal_batch_size=-1", lambda: ig.attribute(x, internal_batch_size=-1)), (DataError, "tol=-1", lambda: ig.attribute(x, tol=-1)),
                               (LabelError, "target 9", lambda: ig.attribute(x, 9)), (DataError, "uint8", lambda: ig.attribute(torch.zeros(3, 14, 14, dtype=torch.uint8))), (DataError, "empty", lambda: ig.attribute(x[:0])),
                               (ModelError, "fails on inputs", lambda: ig.attribute(torch.randn(1, 4, 14, 14))), (DataError, "2 inputs", lambda: ig.attribute(x, [1]))):
        with pytest.raises(error, match=match): call()
    assert all(not m._forward_hooks for m in net.modules())
