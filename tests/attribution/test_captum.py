"What goes through Captum and what does not: its layer methods have no answer where ours have, and nothing of it is imported before it is asked for."
import subprocess, sys
import captum.attr as ca, pytest, torch
from torch import nn
from interp_kit.attribution.gradients import IntegratedGradients
from interp_kit.attribution.probe import probing
from interp_kit.attribution.saliency import SaliencyMap
from interp_kit.attribution.targets import of_output


class Words(nn.Module):
    "An embedding, a recurrent layer, a linear head."
    def __init__(self): super().__init__(); self.words, self.rnn, self.head = nn.Embedding(9, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)
    def forward(self, x): return self.head(self.rnn(self.words(x))[0][:, -1])


class Heads(nn.Module):
    "Two outputs, each from a layer of its own."
    def __init__(self): super().__init__(); self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)
    def forward(self, x): return self.a(x), self.b(x)


def captum(net, x, target, layer):
    "Captum's layer conductance inside our guards: our scores, our leaves, our eval mode."
    with probing(net, x, target) as probe:
        probe.target
        method = ca.LayerConductance(lambda *a: probe.score(a[:-1], a[-1]), net.get_submodule(layer))
        return method.attribute(probe.leaves, tuple(torch.zeros_like(l) for l in probe.leaves), additional_forward_args=probe.rows, n_steps=5)


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def test_layer_conductance_of_a_recurrent_layer():
    net, x = Words(), torch.randint(0, 9, (2, 6))
    with pytest.raises(Exception, match="not a torch.Tensor"): captum(net, x, 1, "rnn")
    got = SaliencyMap(net, "layer_conductance").generate_saliency_map(x, 1, n_steps=400, layer="rnn")
    change = net(x)[:, 1] - net.head(net.rnn(torch.zeros(2, 6, 4))[0][:, -1])[:, 1]
    assert got.shape == (2, 6, 5) and torch.allclose(got.flatten(1).sum(1), change, atol=2e-3)
    assert torch.allclose(SaliencyMap(net, "layer_conductance").generate_saliency_map(x, 1, n_steps=5, layer="words"), captum(net, x, 1, "words"), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_layer_conductance_where_the_score_does_not_depend_on_the_layer():
    net, x = Heads(), torch.randn(2, 4)
    with pytest.raises(RuntimeError, match="not have been used"): captum(net, x, of_output(1, 0), "a")
    assert (SaliencyMap(net, "layer_conductance").generate_saliency_map(x, of_output(1, 0), n_steps=5, layer="a") == 0).all()


def test_conductance_of_a_channel_is_that_of_its_places_and_captum_has_none():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randn(2, 1, 4, 4).double()
    with pytest.raises((AssertionError, RuntimeError)): ca.NeuronConductance(net, net[0]).attribute(x, 1, target=1)
    pure = nn.Sequential(net[0], nn.ReLU(), *net[2:])
    want = sum(ca.NeuronConductance(pure, net[0]).attribute(x, (1, i, j), target=1, n_steps=6) for i in range(2) for j in range(2))
    got = SaliencyMap(net, "neuron_conductance").generate_saliency_map(x, 1, n_steps=6, neuron_index=1, layer="0")
    assert torch.allclose(got, want.detach(), atol=1e-9) and got.abs().max() > 0


@pytest.mark.parametrize("method", ("integrated_gradients", "gradient_shap", "noise_tunnel", "neuron_conductance"))
def test_words_and_columns_are_reached_through_captum(method):
    net, x = Words(), torch.randint(0, 9, (3, 6))
    got = SaliencyMap(net, method).generate_saliency_map(x, 1, n_steps=100, stdevs=0., **(dict(layer="head", neuron_index=1) if "neuron" in method else {}))
    assert got.shape == (3, 6) and torch.isfinite(got).all() and got.abs().max() > 0
    if method != "gradient_shap": assert torch.allclose(got, IntegratedGradients(net).attribute(x, 1, 100), atol=2e-2*float(got.abs().max()))


def test_captum_is_imported_when_it_is_asked():
    code = "import sys, interp_kit.attribution; assert 'captum' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
