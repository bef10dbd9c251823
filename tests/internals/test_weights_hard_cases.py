"Weights as they come: broken, tiny, empty, half, complex, quantised, absent, tied, computed; and the model as it was."
import copy, json
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from interp_kit.core import DataError
from interp_kit.findings import plain
from interp_kit.internals.matrices import _weights_of
from interp_kit.internals.weight_charts import plot_weights
from interp_kit.internals.weight_findings import weight_findings
from interp_kit.internals.weights import _HEALTH, weight_table

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(n)


def row(w, **kw):
    "The row of one tensor beside a sound layer, which must be measured whatever the other is; strict JSON of both."
    t = weight_table({"w": w, "sound": torch.randn(30, 40, generator=torch.Generator().manual_seed(0))}, null_draws=3, **kw)
    assert t.spikes[1] == 0 and t.alpha[1] > 1 and t.reason[1] == "" and t.health[1] > .8
    json.dumps([plain(r) for r in t.to_dict("records")], allow_nan=False)
    weight_findings(t); plot_weights(t)
    return t.iloc[0]


def test_not_finite_layers_are_flagged_and_the_others_measured():
    w = torch.randn(20, 30); w[0, :3] = np.nan; w[1, 0] = np.inf; w[2, 0] = -np.inf
    r = row(w)
    assert r.finite == 595/600 and "3 NaN and 2 infinite of 600" in r.reason and np.isnan([r.l2, r.spectral_norm, r.alpha, r.spikes]).all() and r.structure == ""
    assert all(0 <= r[k] <= 1 for k in _HEALTH)
    assert weight_findings({"w": w})[0].type == "not_finite_weights"
    all_nan = row(torch.full((20, 30), np.nan)); assert all_nan.finite == 0 and all_nan.health == 0


def test_zeros_and_constants():
    z = row(torch.zeros(20, 30))
    assert z.l2 == 0 and z.spectral_norm == 0 and np.isnan(z.stable_rank) and z.health == 0 and z.looks_like == "zeros" and "all entries are 0" in z.reason and np.isnan(z.spikes)
    c = row(torch.full((20, 30), .1))
    assert c["std"] == 0 and np.isnan(c["skew"]) and c.centred == 0 and c.health == 0 and abs(c.stable_rank - 1) < 1e-9 and "equal" in c.reason
    assert {f.type for f in weight_findings({"w": torch.full((20, 30), .1)})} == {"uncentred_weights", "collapsed_weights"}


@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (1, 50), (50, 1), (2, 2), (1, 1, 1, 1)])
def test_small_matrices(shape):
    w = torch.randn(shape)
    r = row(w)
    np.testing.assert_allclose(r.spectral_norm, np.linalg.norm(w.reshape(shape[0], -1).double().numpy(), 2), rtol=1e-9)
    assert np.isnan(r.alpha) and "20 are needed" in r.reason and r.stable_rank >= 1 - 1e-9
    assert not weight_findings({"w": w})


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 3, 3, 3)])
def test_weights_without_entries(shape):
    r = row(torch.zeros(shape)); assert r.reason == "no entries" and r.n == 0 and np.isnan(r.l2) and np.isnan(r.health)


def test_scalars_and_vectors_only_when_asked():
    class Scaled(nn.Module):
        def __init__(self): super().__init__(); self.temperature, self.lin = nn.Parameter(torch.tensor(2.)), nn.Linear(3, 4)
    assert weight_table(Scaled()).name.tolist() == ["lin.weight"]
    t = weight_table(Scaled(), biases=True)
    assert t.name.tolist() == ["temperature", "lin.weight", "lin.bias"] and t["max"][0] == 2 and t.reason[2].endswith("no spectrum") and np.isnan(t.spectral_norm[2])
    assert not weight_findings(weight_table(nn.Sequential(nn.BatchNorm2d(64), nn.LayerNorm(50)), biases=True))
    assert weight_table(nn.Sequential(nn.BatchNorm2d(64)).state_dict(), biases=True).name.tolist() == ["0.weight", "0.bias"]
    lin = nn.Linear(30, 30); lin.bias.data[3] = np.nan
    assert weight_findings(weight_table(lin, biases=True))[0].evidence["weights"] == ["bias"]
    assert list(weight_table(nn.ReLU()).columns) == list(weight_table(nn.Linear(2, 2)).columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype):
    w = (200*torch.randn(40, 50)).to(dtype)
    r, want = row(w), row(w.double())
    for k in ("l1", "l2", "spectral_norm", "stable_rank", "alpha", "skew", "kurtosis", "median", "health"): np.testing.assert_allclose(r[k], want[k], rtol=1e-9, err_msg=k)
    assert np.isfinite(weight_table({"w": torch.full((300, 300), 6e4, dtype=torch.float16)}, null_draws=2).l2[0])


def test_extreme_scales():
    w = torch.randn(30, 40, dtype=torch.float64)
    want = row(w)
    for f in (1e-300, 1e-30, 1e150, 1e300):
        r = row(w*f)
        np.testing.assert_allclose([r.spectral_norm/f, r.rms/f, r.stable_rank, r.health, r.alpha], [want.spectral_norm, want.rms, want.stable_rank, want.health, want.alpha], rtol=1e-9)


def test_complex_weights():
    w = torch.randn(25, 30, dtype=torch.complex64)
    r = row(w)
    a = w.to(torch.complex128).numpy()
    np.testing.assert_allclose([r.spectral_norm, r.l1, r["std"]], [np.linalg.norm(a, 2), abs(a).sum(), a.std()], rtol=1e-9)
    assert np.isnan(r["skew"]) and "complex" in r.reason and r.alive == 1 and r.health > .8


def test_dynamically_quantised_model():
    from torch.ao.quantization import quantize_dynamic
    net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 25))
    q = quantize_dynamic(copy.deepcopy(net), {nn.Linear}, dtype=torch.qint8)
    t, want = weight_table(q), weight_table(net)
    assert t.name.tolist() == ["0.weight", "2.weight"] and (t.reason == "").all() and (t.structure == "none above noise").all()
    np.testing.assert_allclose(t.spectral_norm, want.spectral_norm, rtol=.02)
    np.testing.assert_allclose(weight_table(q.state_dict()).spectral_norm, t.spectral_norm, rtol=1e-12)


def test_weights_without_values_say_why():
    with torch.device("meta"): meta = nn.Linear(30, 40)
    t = weight_table(nn.Sequential(meta, nn.LazyLinear(4), nn.Linear(30, 30)))
    assert "meta" in t.reason[0] and "lazy" in t.reason[1] and t["shape"][0] == (40, 30) and np.isnan(t.l2[0]) and t.health[2] > .9
    assert "int8" in row(torch.ones(5, 5, dtype=torch.int8)).reason


def test_sparse_weights():
    w = torch.randn(40, 30)*(torch.rand(40, 30) < .2)
    want = row(w)
    for s in (w.to_sparse(), w.to_sparse_csr()):
        r = row(s); np.testing.assert_allclose([r.spectral_norm, r.zeros, r.l1], [want.spectral_norm, want.zeros, want.l1], rtol=1e-12)
    assert abs(want.zeros - .8) < .05


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal, nn.utils.weight_norm, nn.utils.spectral_norm,
                                  lambda m: prune.random_unstructured(m, "weight", .4)], ids="weight_norm spectral_norm orthogonal old_weight_norm old_spectral_norm prune".split())
def test_computed_weights_are_those_the_layer_uses_and_nothing_moves(wrap):
    net = nn.Sequential(wrap(nn.Linear(30, 25)), nn.Linear(25, 5)).train()
    before, hooks = copy.deepcopy(net.state_dict()), [len(m._forward_pre_hooks) for m in net.modules()]
    rng = torch.get_rng_state()
    t = weight_table(net, operator_size=4)
    assert t.name.tolist() == ["0.weight", "1.weight"] and t.type[0] == "Linear"
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and all(m.training for m in net.modules()) and [len(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert torch.equal(rng, torch.get_rng_state())
    net.eval(); used = (net[0](torch.eye(30)) - net[0].bias).T.detach().double().numpy()
    np.testing.assert_allclose([t.spectral_norm[0], t.operator_norm[0]], [np.linalg.norm(used, 2)]*2, rtol=1e-5)


def test_tied_shared_and_frozen_weights():
    class Lora(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(40, 30).requires_grad_(False)
            self.a, self.b = nn.Parameter(torch.randn(4, 40)), nn.Parameter(torch.zeros(30, 4))
    t = weight_table(Lora()).set_index("name")
    assert t.trainable.to_dict() == {"a": True, "b": True, "base.weight": False} and t.looks_like["b"] == "zeros"
    assert {f.type for f in weight_findings(Lora())} <= {"untrained_layer"}
    net = nn.ModuleDict(dict(words=nn.Embedding(50, 30), out=nn.Linear(30, 50, bias=False))); net["out"].weight = net["words"].weight; net["again"] = net["words"]
    t = weight_table(net); assert len(t) == 1 and t.shared[0] == "out.weight"


def test_a_computation_that_fails_is_a_reason():
    class Moody(nn.Module):
        broken = False
        def forward(self, w):
            if self.broken: raise RuntimeError("out of luck")
            return w
    lin, p = nn.Linear(4, 4), Moody()
    nn.utils.parametrize.register_parametrization(lin, "weight", p); p.broken = True
    t = weight_table(nn.Sequential(lin, nn.Linear(30, 30)))
    assert "out of luck" in t.reason[0] and t.health[1] > .9


def test_gradients_flags_and_learners(digits):
    from interp_kit.core import get_model
    model = get_model(digits)
    grads = {n: p.grad for n, p in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    t = weight_table(digits)
    assert all(p.grad is grads[n] for n, p in model.named_parameters()) and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert t.equals(weight_table(model)) and "untrained_layer" not in {f.type for f in weight_findings(t)} and (t.spikes.fillna(0) > 0).any()


def test_recurrent_attention_and_wrapped_models():
    t = weight_table(nn.ModuleList([nn.LSTM(24, 24, 2, bidirectional=True), nn.MultiheadAttention(24, 4), nn.TransformerEncoderLayer(24, 4, 50)]), null_draws=3)
    assert (t.reason == "").all() and len(t) == 8 + 2 + 4 and (t.spikes == 0).sum() >= 13
    assert weight_table(nn.DataParallel(nn.Sequential(nn.Linear(3, 3)))).name.tolist() == ["0.weight"]


def test_twenty_five_models_with_long_names_are_drawn():
    tables = {f"{'модель_名前_$x_' * 4}{i}": weight_table(nn.Sequential(*[nn.Linear(6, 6) for _ in range(2 + i % 5)]), null_draws=2) for i in range(25)}
    top, low = plot_weights(tables, "spectral_norm")
    assert len(top.lines) == 25 and len(low.get_yticklabels()) == 25
    low.figure.canvas.draw()


def test_wrong_questions_are_errors_that_say_what_would_be_right():
    with pytest.raises(DataError, match="there are Linear"): weight_table(nn.Linear(3, 3), layer_types=["Conv2D"])
    with pytest.raises(DataError, match="lacks"): weight_findings(pd.DataFrame(dict(name=["a"])))


def test_layer_types_by_class_by_name_and_by_the_names_of_keras():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 4, 2), nn.LSTM(5, 5), nn.MultiheadAttention(8, 2), nn.Linear(3, 3))
    names = lambda t: sorted({n.split(".")[0] for n in weight_table(net, layer_types=t, null_draws=2).name})
    assert names("Conv2D") == names(nn.Conv2d) == names(["Conv2d"]) == ["0", "1"] and names("DepthwiseConv2D") == ["0"] and names("Conv2DTranspose") == ["2"]
    assert names(["LSTM", "MultiHeadAttention"]) == ["3", "4"] and names("Dense") == ["4", "5"]
