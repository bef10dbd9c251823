"The eight methods against Captum: same seed, same arguments."
import warnings
import captum.attr as ca, numpy as np, pytest, torch
from torch import nn
from torchvision.models import resnet18
from interp_kit.attribution.saliency import SALIENCY_METHODS, SaliencyMap

pytestmark = pytest.mark.filterwarnings("ignore")


def small():
    "Double precision; no two nonlinearities touch, since Captum's DeepLIFT is wrong for these."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ELU(), nn.Flatten(),
                        nn.Linear(8*16, 10), nn.Tanh(), nn.Linear(10, 5)).double().eval()
    net[1].running_mean.normal_(); net[1].running_var.uniform_(.5, 2)
    return net, 2, "2", 4


def seeded(f):
    torch.manual_seed(7); np.random.seed(7)
    return f()


def captum(method, net, layer, x, base, bases, target, neuron, steps, sd, size):
    net = net.eval()
    if method == "integrated_gradients": return ca.IntegratedGradients(net).attribute(x, base, target=target, n_steps=steps, internal_batch_size=size)
    if method == "gradient_shap": return ca.GradientShap(net).attribute(x, bases, n_samples=5, stdevs=sd, target=target)
    if method == "deep_lift": return ca.DeepLift(net).attribute(x, base, target=target)
    if method == "deep_lift_shap": return ca.DeepLiftShap(net).attribute(x, bases, target=target)
    if method == "layer_conductance": return ca.LayerConductance(net, layer).attribute(x, base, target=target, n_steps=steps, internal_batch_size=size*2)
    if method == "neuron_conductance": return ca.NeuronConductance(net, layer).attribute(x, neuron, base, target=target, n_steps=steps, internal_batch_size=size)
    if method == "noise_tunnel": return ca.NoiseTunnel(ca.IntegratedGradients(net)).attribute(x, nt_samples=5, stdevs=sd, baselines=base, target=target, n_steps=steps, internal_batch_size=size)
    return ca.LayerGradCam(net, layer).attribute(x, target)


def both(method, net, layer, x, base, bases, target, neuron, steps, size, chunk):
    want = seeded(lambda: captum(method, net, net.get_submodule(layer), x, base, bases, target, neuron, steps, .1, size)).detach()
    state = torch.get_rng_state() if seeded(lambda: None) is None else None
    got = SaliencyMap(net, method).generate_saliency_map(x, target, bases if method.endswith("shap") else base, 5, steps, chunk, .1, neuron, net.get_submodule(layer))
    assert torch.equal(torch.get_rng_state(), state)
    return got, want


@pytest.mark.parametrize("method", SALIENCY_METHODS)
@pytest.mark.parametrize("chunk", (1, 7, None))
def test_float64(method, chunk):
    net, target, layer, _ = small()
    x, base, bases = torch.randn(3, 3, 14, 14).double(), torch.randn(3, 3, 14, 14).double(), torch.randn(4, 3, 14, 14).double()
    got, want = both(method, net, layer, x, base, bases, [2, 0, 4], (4, 3, 5), 12, 3, chunk)
    assert got.shape == want.shape and got.dtype == torch.float64
    assert want.abs().max() > 0 and torch.allclose(got, want, rtol=1e-6, atol=1e-6*float(want.abs().max()))


@pytest.mark.parametrize("method", [m for m in SALIENCY_METHODS if not m.startswith("deep_lift")])
def test_float32_resnet18(method):
    torch.manual_seed(0)
    net = resnet18(num_classes=10).eval()
    x, base, bases = torch.randn(2, 3, 48, 48), torch.randn(1, 3, 48, 48), torch.randn(3, 3, 48, 48)
    got, want = both(method, net, "layer3", x, base.expand(2, -1, -1, -1).contiguous(), bases, 3, (5, 1, 2), 3 if method == "noise_tunnel" else 5, 2, None if method == "gradient_shap" else 4)
    assert (got - want).abs().max() <= 1e-5*want.abs().max()


def test_channel_is_the_sum_of_its_neurons():
    net, *_ = small()
    x = torch.randn(1, 3, 14, 14).double()
    want = sum(ca.NeuronConductance(net, net[5]).attribute(x, (3, i, j), target=1, n_steps=8) for i in range(4) for j in range(4))
    assert net[:6](x).shape[2:] == (4, 4)
    assert torch.allclose(SaliencyMap(net, "neuron_conductance").generate_saliency_map(x, 1, n_steps=8, neuron_index=3, layer=net[5]), want, rtol=1e-6, atol=1e-12)


def test_what_captum_raises_on_is_defined():
    net, target, layer, _ = small()
    x = torch.randn(2, 3, 14, 14).double()
    mod = net.get_submodule(layer)
    for broken in (lambda: ca.GradientShap(net).attribute(x, None, target=1), lambda: ca.DeepLiftShap(net).attribute(x, x[:1], target=1), lambda: ca.IntegratedGradients(net).attribute(x),
                   lambda: ca.NeuronConductance(net, mod).attribute(x, 2, target=1)):
        with pytest.raises((AssertionError, RuntimeError, TypeError)): broken()
    for method in SALIENCY_METHODS:
        got = SaliencyMap(net, method).generate_saliency_map(x, n_steps=4, neuron_index=2 if method == "neuron_conductance" else None)
        assert torch.isfinite(got).all() and got.abs().max() > 0, method
    pred = net(x).argmax(1).tolist()
    assert torch.equal(SaliencyMap(net).generate_saliency_map(x, n_steps=4), SaliencyMap(net).generate_saliency_map(x, pred, 0., n_steps=4))


def test_one_baseline_is_enough():
    net, *_ = small()
    x = torch.randn(2, 3, 14, 14).double()
    shap = SaliencyMap(net, "deep_lift_shap").generate_saliency_map(x, 1, torch.zeros(1, 3, 14, 14))
    assert torch.allclose(shap, SaliencyMap(net, "deep_lift").generate_saliency_map(x, 1))


@pytest.mark.parametrize("place", ("0", "1", "2"))
def test_a_layer_before_an_in_place_step(place):
    "What is tapped is what the layer gave out, not what the next one made of it."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4*64, 3)).double().eval()
    pure = nn.Sequential(*net[:2], nn.ReLU(), *net[3:])
    x = torch.randn(2, 3, 12, 12).double()
    for method in ("layer_grad_cam", "layer_conductance"):
        got, want = (SaliencyMap(m, method).generate_saliency_map(x, 1, n_steps=5, layer=place) for m in (net, pure))
        assert torch.allclose(got, want) and got.abs().max() > 0


def test_layer_called_twice():
    class Twice(nn.Module):
        def __init__(self): super().__init__(); self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)
        def forward(self, x): return self.head(self.conv(self.conv(x).relu()).mean((2, 3)))
    net, x = Twice().double(), torch.randn(2, 3, 8, 8).double()
    last = net.conv(net.conv(x).relu())
    want = (last*net.head.weight[1].view(1, 3, 1, 1)/64).sum(1, keepdim=True)
    assert torch.allclose(SaliencyMap(net, "layer_grad_cam").generate_saliency_map(x, 1, layer="conv"), want)
