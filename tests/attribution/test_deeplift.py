"DeepLIFT: Captum's where Captum is right, complete where it is not."
import warnings
import captum.attr as ca, pytest, torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from interp_kit.attribution.deeplift import _DeepLift, _Rescaled as Rescaled
from interp_kit.attribution.probe import probing
from interp_kit.attribution.saliency import SaliencyMap, _baseline_pool
from interp_kit.core import DataError
from interp_kit.demo import demo_learner

pytestmark = pytest.mark.filterwarnings("ignore")


def relative(net, x, base=None, target=None):
    "Completeness error, the largest part of a row's change."
    with torch.no_grad(): change = net.eval()(x) - net(torch.zeros_like(x) if base is None else base)
    target = 1 if target is None else target
    values, delta = _DeepLift(net, base).attribute(x, target, return_convergence_delta=True)
    assert torch.allclose(values.double().flatten(1).sum(1) - change[:, target].double(), delta, atol=1e-5)
    return float((delta/change[:, target]).abs().max())


def net2d(*layers, side=14, channels=8):
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), *layers).double().eval()
    n = body(torch.zeros(1, 3, side, side).double()).flatten(1).shape[1]
    return nn.Sequential(body, nn.Flatten(), nn.Linear(n, 4).double())


def pair(rows=3, side=14):
    torch.manual_seed(2)
    return torch.randn(rows, 3, side, side).double(), torch.randn(rows, 3, side, side).double()


RIGHT = [nn.ReLU(), nn.ReLU(inplace=True), nn.ELU(), nn.LeakyReLU(.1), nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.MaxPool2d(2), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(3)]


@pytest.mark.parametrize("layer", RIGHT, ids=str)
def test_equals_captum(layer):
    net, (x, b) = net2d(layer, nn.Conv2d(8, 6, 3), nn.ReLU()), pair()
    for base in (b, None):
        want, delta = ca.DeepLift(net).attribute(x, base, target=2, return_convergence_delta=True)
        assert delta.abs().max() < 1e-9 # Captum is right here
        assert torch.allclose(_DeepLift(net, base).attribute(x, 2), want, rtol=1e-6, atol=1e-6*float(want.abs().max()))


def test_shap_equals_captum():
    net, (x, b) = net2d(nn.ReLU(), nn.Conv2d(8, 6, 3), nn.MaxPool2d(2)), pair(4)
    want = ca.DeepLiftShap(net).attribute(x[:2], b, target=2)
    for size in (None, 1, 3):
        got = SaliencyMap(net, "deep_lift_shap").generate_saliency_map(x[:2], 2, b, internal_batch_size=size)
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-6*float(want.abs().max()))


def test_one_dimensional_pools():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4*5, 3)).double()
    x, b = torch.randn(2, 3, 16).double(), torch.randn(2, 3, 16).double()
    want = ca.DeepLift(net).attribute(x, b, target=1)
    assert torch.allclose(_DeepLift(net, b).attribute((x,), 1), want, rtol=1e-6, atol=1e-9)


def test_softmax_equals_captum_for_one_input_and_does_not_mix_inputs():
    net, (x, b) = net2d(nn.ReLU()), pair()
    net = nn.Sequential(*net, nn.Softmax(1))
    got = _DeepLift(net, b).attribute(x, 1)
    for i in range(3):
        want = ca.DeepLift(net).attribute(x[i:i+1], b[i:i+1], target=1)
        assert torch.allclose(got[i:i+1], want, rtol=1e-6, atol=1e-6*float(want.abs().max()))
    mixed = ca.DeepLift(net).attribute(x, b, target=1)
    assert (mixed - got).abs().max() > .01*got.abs().max() # Captum's answer for one image depends on the others


class Functional(nn.Module):
    def __init__(self): super().__init__(); self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 4)
    def forward(self, x): return self.c(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


def test_captum_overlooks_functions_and_refuses_reuse():
    "Why there is an implementation of our own."
    torch.manual_seed(0)
    net, (x, b) = Functional().double(), pair()
    change = (net(x) - net(b))[:, 1]
    _, delta = ca.DeepLift(net).attribute(x, b, target=1, return_convergence_delta=True)
    assert (delta/change).abs().max() > .1 and relative(net, x, b) < 1e-9
    with pytest.raises(RuntimeError, match="used more than once"): ca.DeepLift(resnet18().eval()).attribute(torch.randn(1, 3, 32, 32), target=1)
    for touching in (net2d(nn.ReLU(), nn.MaxPool2d(2)), net2d(nn.Tanh(), nn.Softplus()), net2d(nn.MaxPool2d(3, 2, 1))):
        _, delta = ca.DeepLift(touching).attribute(x, b, target=1, return_convergence_delta=True)
        assert delta.abs().max() > 1e-3 and relative(touching, x, b) < 1e-9


def test_completeness_of_resnet18():
    torch.manual_seed(0)
    net = resnet18(num_classes=10).double().eval() # the error is relative to a small difference of two scores: too fine for float32
    assert relative(net, torch.randn(2, 3, 96, 96).double()) < 1e-9
    assert relative(net, torch.randn(2, 3, 64, 64).double(), torch.randn(2, 3, 64, 64).double(), 3) < 1e-9


class Styles(nn.Module):
    "Everything a model may do to call a nonlinearity."
    def __init__(self, act): super().__init__(); self.a, self.b, self.c, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3), act
    def forward(self, x):
        y = self.a(x)
        z = self.act(y)
        z = y if z is None else z
        return self.c(self.act2(self.b(z)).mean((2, 3)))
    def act2(self, y): z = self.act(y); return y if z is None else z


def discards(y): y.relu_() # the result is not looked at, the tensor was changed


ACTS = [F.relu, discards, lambda y: F.relu(y, True), lambda y: F.relu_(y), lambda y: y.clamp_(0), lambda y: torch.clamp(y, -1, 1), lambda y: y.clamp(max=.3), F.relu6, lambda y: F.hardtanh(y, -.5, .5, True), F.silu, lambda y: F.silu(y, inplace=True), F.gelu,
        lambda y: F.gelu(y, approximate="tanh"), F.elu, F.selu, F.celu, F.mish, F.hardswish, F.hardsigmoid, F.softsign, F.logsigmoid, F.tanhshrink, F.softshrink, lambda y: F.threshold(y, .1, 0.), lambda y: y.sigmoid(), lambda y: y.tanh_(), torch.tanh,
        lambda y: F.softplus(y, beta=2), lambda y: y.abs(), lambda y: y.exp(), lambda y: torch.square(y), nn.PReLU().double(), lambda y: F.leaky_relu_(y, .2), nn.RReLU(), lambda y: F.max_pool2d(y, 3, 1, 1), lambda y: torch.max_pool2d(y, 2, 2),
        lambda y: F.max_pool2d(y, 2, ceil_mode=True, return_indices=True)[0], lambda y: F.adaptive_max_pool2d(y, 3), nn.AdaptiveMaxPool2d((4, 5)), lambda y: F.relu(input=y)]


@pytest.mark.parametrize("act", ACTS, ids=[str(i) for i in range(len(ACTS))])
def test_every_way_to_call_is_complete(act):
    torch.manual_seed(0)
    net, (x, b) = Styles(act).double().eval(), pair(2)
    plain = net(x)
    assert relative(net, x, b) < 1e-9
    assert torch.equal(net(x), plain)


def test_hand_computed_multipliers():
    "y = relu(a) + relu(b) of two inputs with weights that cross zero."
    class Hand(nn.Module):
        def forward(self, x): return (F.relu(x[:, :1] - x[:, 1:]) + F.relu(-2*x[:, 1:] + 1))
    x, b = torch.tensor([[2., 1.]]).double(), torch.tensor([[-1., 0.]]).double()
    # the first ReLU goes from -1 to 1: multiplier (1 - 0)/2; the second from 1 to -1: (0 - 1)/-2
    want = torch.tensor([[3*.5, 1*(-.5) + 1*(-2*.5)]]).double()
    assert torch.allclose(_DeepLift(Hand(), b).attribute((x,), 0), want)


def test_equal_inputs_take_the_gradient_and_give_zero():
    net, (x, _) = net2d(nn.ReLU()), pair()
    assert (_DeepLift(net, x).attribute(x, 1) == 0).all()


def test_rows_do_not_depend_on_their_batch():
    net, (x, b) = net2d(nn.ReLU(), nn.MaxPool2d(3, 2), nn.Softplus()), pair(5)
    whole = _DeepLift(net, b).attribute(x, [0, 1, 2, 3, 0])
    for size in (1, 2): assert torch.allclose(_DeepLift(net, b).attribute(x, [0, 1, 2, 3, 0], internal_batch_size=size), whole)


def test_says_where_it_does_not_add_up():
    class Norm(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.LayerNorm(6), nn.Linear(6, 2)
        def forward(self, x): return self.b(self.a(x).relu())
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="does not add up"): a = _DeepLift(Norm()).explain(torch.randn(2, 6))
    assert a.delta.abs().max() > .01


def test_the_model_is_left_alone():
    torch.manual_seed(0)
    net = resnet18(num_classes=4).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(2, 3, 48, 48)
    want = _DeepLift(net).attribute(x, 1)
    with torch.no_grad(): assert torch.equal(_DeepLift(net).attribute(x, 1), want)
    with torch.inference_mode(): assert torch.equal(_DeepLift(net).attribute(x, 1), want)
    assert net.training and all(torch.equal(v, net.state_dict()[k]) for k, v in before.items()) and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks for m in net.modules())
    assert _DeepLift(net).attribute(x[0], 1).shape == (3, 48, 48)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_models(dtype):
    torch.manual_seed(0)
    net, x = Functional(), torch.randn(2, 3, 14, 14)
    want = _DeepLift(net).attribute(x, 1)
    got = _DeepLift(net.to(dtype)).attribute(x, 1)
    assert got.dtype == torch.float32 and float(torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1]) > .98


def test_tables_and_texts():
    wine, words = demo_learner("tabular"), demo_learner("text")
    a = _DeepLift(wine).explain(wine.dls.valid.items.iloc[:3])
    assert (a.delta.abs() <= 1e-4*torch.tensor(a.meta["change"]).abs() + 1e-5).all() and [v.shape for v in a.values] == [x.shape for x in a.inputs]
    assert _DeepLift(words).attribute(torch.randint(2, 30, (2, 12))).shape == (2, 12)


def test_default_baselines_of_shap_are_seeded():
    net, (x, _) = net2d(nn.ReLU()), pair(2)
    state = torch.get_rng_state()
    shap = SaliencyMap(net, "deep_lift_shap").generate_saliency_map
    first = shap(x, 1)
    assert torch.equal(first, shap(x, 1)) and torch.equal(torch.get_rng_state(), state)
    with probing(net, x, 1) as probe: (b,) = _baseline_pool(probe, stdevs=(.5,))
    assert b.shape == (2, 3, 14, 14) and (b[0] == 0).all() and .3 < float(b[1].std()) < .7
    for bad in (torch.zeros(2, 3, 9, 9), torch.zeros(3, 9, 9)):
        with pytest.raises(DataError, match="baseline"): shap(x, 1, bad)
