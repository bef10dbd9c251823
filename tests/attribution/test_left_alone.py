"Every method, whoever calls it and whatever the model: the same map, and the model exactly as it was, also after a failure."
import random
from collections import namedtuple
import numpy as np, pytest, torch
from torch import nn
from interp_kit.attribution import DRISE, RISE, GradCAM, IntegratedGradients, SaliencyMap, gradient_times_input, of_output, saliency_map
from interp_kit.attribution.append import _feature_map
from interp_kit.attribution.explain import METHODS, explain
from interp_kit.core import InterpKitError, LabelError, ModelError

FEW = dict(rise=dict(n_masks=64, cell=4), integrated_gradients=dict(n_steps=8), ig=dict(n_steps=8), opticam=dict(n_steps=3))

Pair = namedtuple("Pair", "out features")


class Net(nn.Module):
    "In-place, reused and functional ReLU, BatchNorm, dropout; `kind` says what is returned."
    def __init__(self, kind="tensor", channels=3):
        super().__init__()
        self.a, self.bn, self.b, self.relu = nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.drop, self.head, self.kind, self.fail = nn.Dropout(.5), nn.Linear(8, 3), kind, False
    def forward(self, x):
        x = x.sub_(.5) if self.kind == "in place" else x - .5
        x = self.relu(self.b(self.relu(self.bn(self.a(x)))))
        if self.fail: raise RuntimeError("the cable is unplugged")
        x = torch.nn.functional.relu(x).mean((2, 3))
        out = self.head(self.drop(x))
        return dict(tuple=(out, x), named=Pair(out, x), dict=dict(logits=out, features=x)).get(self.kind, out)


def made(kind="tensor", channels=3):
    torch.manual_seed(0)
    net = Net(kind, channels)
    net.train()(torch.randn(8, channels, 16, 20))
    return net


def run(net, method, x=None, target=None, **kw):
    x = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(1)) if x is None else x
    torch.manual_seed(7)
    return explain(net, x, method, target, **{**FEW.get(method, {}), **kw})


def state(net):
    rng = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    return dict(modes=[m.training for m in net.modules()], tensors={k: v.clone() for k, v in net.state_dict().items()}, needs=[p.requires_grad for p in net.parameters()],
                grads=[None if p.grad is None else p.grad.clone() for p in net.parameters()], hooks=[sum(len(v) for k, v in vars(m).items() if "_hooks" in k) for m in net.modules()],
                formats=[p.stride() for p in net.parameters()], forwards=[m.forward.__func__ for m in net.modules()], rng=rng)


def same(a, b):
    assert a["modes"] == b["modes"] and a["needs"] == b["needs"] and a["hooks"] == b["hooks"] and a["formats"] == b["formats"] and a["forwards"] == b["forwards"]
    assert all(torch.equal(v, b["tensors"][k]) for k, v in a["tensors"].items())
    assert all(x is y is None or torch.equal(x, y) for x, y in zip(a["grads"], b["grads"], strict=True))
    assert torch.equal(a["rng"][0], b["rng"][0]) and (a["rng"][1] == b["rng"][1]).all() and a["rng"][2] == b["rng"][2]


each_method = pytest.mark.parametrize("method", sorted(METHODS))


@each_method
def test_the_model_is_as_it_was_and_eval_is_what_is_explained(method):
    net = made()
    net.bn.eval(); net.a.weight.requires_grad_(False) # partly frozen, modes mixed
    for p in (net.b.weight, net.head.bias): p.grad = torch.randn_like(p)
    torch.manual_seed(7); before = state(net)
    a = run(net, method)
    torch.manual_seed(7); same(before, state(net))
    assert a.heatmap().shape == (2, 16, 20) and torch.isfinite(a.heatmap()).all()
    assert torch.allclose(a.heatmap(), run(made().eval(), method).heatmap(), atol=1e-6)


@each_method
def test_callers_without_gradients_and_frozen_models_get_the_same(method):
    want = run(made().eval(), method).heatmap()
    frozen = made().eval().requires_grad_(False)
    assert torch.equal(run(frozen, method).heatmap(), want)
    with torch.no_grad(): assert torch.equal(run(frozen, method).heatmap(), want)
    with torch.inference_mode(): got = run(frozen, method, torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(got.heatmap(), want) and not got.values.is_inference()


@each_method
@pytest.mark.parametrize("kind", ["tuple", "named", "dict", "in place"])
def test_whatever_is_returned_and_if_the_input_is_changed_in_place(method, kind):
    x = torch.randn(2, 3, 16, 20); kept = x.clone()
    assert torch.allclose(run(made(kind).eval(), method, x).heatmap(), run(made().eval(), method, x).heatmap(), atol=1e-6)
    assert torch.equal(x, kept)


@each_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(method, dtype):
    h = run(made().eval().to(dtype), method).heatmap().float()
    assert h.shape == (2, 16, 20) and torch.isfinite(h).all()


@each_method
def test_a_failing_model_leaves_no_trace(method):
    net = made(); net.fail = method not in ("random", "centre"); torch.manual_seed(7); before = state(net)
    if net.fail:
        with pytest.raises(ModelError, match="the cable is unplugged"): run(net, method)
    torch.manual_seed(7); same(before, state(net))


@each_method
def test_a_wrong_target_is_our_error_and_leaves_no_trace(method):
    net = made(); torch.manual_seed(7); before = state(net)
    with pytest.raises(LabelError, match="3"): run(net, method, target=3)
    torch.manual_seed(7); same(before, state(net))


@each_method
def test_a_batch_is_its_images_and_one_image_is_one(method):
    net = made().eval(); x = torch.randn(2, 3, 16, 20)
    both, first = run(net, method, x), run(net, method, x[0])
    assert len(first) == 1 and first.heatmap().shape == (1, 16, 20)
    if method not in ("gradient_shap", "deep_lift_shap", "noise_tunnel", "random"): assert torch.allclose(both.heatmap()[:1], first.heatmap(), atol=1e-5) # those draw noise for the whole batch


@each_method
def test_grey_images_constant_outputs_and_zero_gradients(method):
    assert run(made(channels=1).eval(), method, torch.randn(1, 1, 16, 20)).heatmap().shape == (1, 16, 20)
    net = made().eval(); nn.init.zeros_(net.head.weight)
    h = run(net, method).heatmap()
    assert torch.isfinite(h).all()
    if method not in ("random", "centre", "eigencam", "scorecam", "opticam"): assert h.abs().max() < 1e-6 # eigencam looks at activations only; the weights of the other two add up to one, whatever the score does


@each_method
def test_bad_inputs_are_our_errors(method):
    net = made()
    for bad in (torch.zeros(1, 3, 16, 20, dtype=torch.uint8), torch.zeros(0, 3, 16, 20), torch.full((1, 3, 16, 20), torch.nan), "no_such.png"):
        with pytest.raises(InterpKitError): run(net, method, bad)


DOORS = dict(rise=lambda net, x: RISE(net, n_masks=32, cell=4).explain(x, 1).values, rise_of_a_function=lambda net, x: RISE(lambda b: Net.forward(net, b), n_masks=32, cell=4).explain(x, 1).values,
             gradcam=lambda net, x: GradCAM(net)(x, 1), ig=lambda net, x: IntegratedGradients(net).attribute(x, 1, 4), saliency=lambda net, x: saliency_map(net, x, 1),
             product=lambda net, x: gradient_times_input(net, x, 1), feature=lambda net, x: _feature_map(net, x, 2),
             **{m: lambda net, x, m=m: SaliencyMap(net, m).generate_saliency_map(x, 1, n_steps=4) for m in ("layer_conductance", "neuron_conductance", "layer_grad_cam", "noise_tunnel")},
             drise=lambda net, x: torch.cat([a.values for a in DRISE(lambda images: boxes(net, images), n_masks=32, cell=4).explain(x[0])]))


def boxes(net, images): return [dict(boxes=torch.tensor([[2., 2., 12., 12.]]), labels=torch.tensor([1]), scores=net(i[None])[:, 1].sigmoid()) for i in images]


@pytest.mark.parametrize("door", sorted(DOORS))
def test_every_door_takes_models_that_change_their_input(door):
    x = torch.randn(2, 3, 16, 20); kept = x.clone()
    got, want = (DOORS[door](made(kind).eval(), (torch.manual_seed(3), x)[1]) for kind in ("in place", "tensor"))
    assert torch.allclose(got, want, atol=1e-6) and torch.equal(x, kept)


@each_method
def test_outputs_of_many_rows_are_put_together(method): assert torch.allclose(run(made("named").eval(), method, torch.randn(12, 3, 16, 20, generator=torch.Generator().manual_seed(2)), 1).heatmap(),
    run(made().eval(), method, torch.randn(12, 3, 16, 20, generator=torch.Generator().manual_seed(2)), 1).heatmap(), atol=1e-6)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"rise"}))
def test_a_target_reaches_all_outputs(method):
    a = run(made("dict").eval(), method, target=lambda o: o["features"][:, 2])
    assert torch.allclose(a.heatmap(), run(made("dict").eval(), method, target=of_output("features", 2)).heatmap(), atol=1e-6)
    assert torch.allclose(a.heatmap(), run(made("tuple").eval(), method, target=of_output(1, 2)).heatmap(), atol=1e-6)


@each_method
def test_answers_that_are_not_finite_are_our_error(method):
    net = made().eval(); nn.init.constant_(net.head.bias, torch.nan)
    with pytest.raises(ModelError, match="NaN or inf"): run(net, method)
