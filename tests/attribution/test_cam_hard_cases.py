"Class activation maps where other libraries fail: models, callers, layers and inputs of every kind. The model is always as before."
import copy, warnings
from collections import OrderedDict, namedtuple
import pytest, torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer, resnet18
from interp_kit.attribution.cam import CAM_METHODS, GradCAM
from interp_kit.attribution.targets import in_region, of_output
from interp_kit.attribution.probe import probing
from interp_kit.core import DataError, InterpKitError, LabelError, ModelError, TaskError

EVERY = pytest.mark.parametrize("method", CAM_METHODS)
SOME = pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "opticam"])
QUICK = dict(n_steps=2)


class Net(nn.Module):
    "Batch norm, dropout, one in-place ReLU used three times."
    def __init__(self, c=3, relu=None):
        super().__init__(); self.a, self.bn, self.b, self.bn2 = nn.Conv2d(c, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.relu, self.drop, self.fc1, self.fc2 = relu or nn.ReLU(inplace=True), nn.Dropout(.5), nn.Linear(8, 16), nn.Linear(16, 5)
    def forward(self, x):
        x = self.relu(self.bn2(self.b(self.relu(self.bn(self.a(x))))))
        assert len(x) # some models cannot run an empty batch
        return self.fc2(self.drop(self.relu(self.fc1(x.mean((2, 3))))))


@pytest.fixture
def net():
    torch.manual_seed(0); m = Net()
    with torch.no_grad():
        for bn in (m.bn, m.bn2): bn.running_mean.normal_(0, .1); bn.running_var.uniform_(.5, 2)
    return m.eval()


@pytest.fixture
def x(): return torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def run(m, x, target=None, method="gradcam", layer=None, **kw): return GradCAM(m, layer, method, **QUICK)(x, target, **kw)


def near(a, b, tol=1e-5):
    assert a.shape == b.shape and torch.isfinite(a).all()
    off, top = float((a - b).abs().max()), float(b.abs().max()); assert off <= tol*max(top, 1e-12)


def state(m):
    return dict(modes=[o.training for o in m.modules()], buffers=[b.clone() for b in m.buffers()], grads=[None if p.grad is None else p.grad.clone() for p in m.parameters()],
                needs=[p.requires_grad for p in m.parameters()], weights=[p.detach().clone() for p in m.parameters()], strides=[p.stride() for p in m.parameters()],
                hooks=[len(o._forward_hooks) + len(o._forward_pre_hooks) + len(o._backward_hooks) for o in m.modules()], rng=torch.get_rng_state())


def assert_same(a, b):
    for k in a:
        if not isinstance(a[k], list): assert torch.equal(a[k], b[k]); continue
        for p, q in zip(a[k], b[k]): assert torch.equal(p, q) if isinstance(p, torch.Tensor) else p == q, k


@EVERY
def test_everything_is_as_before_also_after_failures(net, x, method):
    net.train(); net.bn.eval(); net.a.weight.requires_grad_(False)
    net(x).sum().backward(); want = run(copy.deepcopy(net).eval(), x, 2, method)
    seen = []; net.b.register_forward_hook(lambda m, i, o: seen.append(1))
    before = state(net); near(run(net, x, 2, method), want); assert_same(before, state(net)); assert seen
    for bad, kind in ((99, LabelError), ("cat", LabelError), (1.5, TaskError), ([0, 1], DataError), (lambda o: o, TaskError)):
        with pytest.raises(kind): run(net, x, bad, method)
        assert_same(before, state(net))
    with pytest.raises(ModelError): run(net, torch.ones(1, 4, 24, 32), 0, method, "b")
    assert_same(before, state(net))
    class Breaks(Exception): pass
    def stop(m, i, o): raise Breaks
    h = net.fc1.register_forward_hook(stop); before = state(net)
    with pytest.raises(ModelError, match="Breaks"): run(net, x, 0, method, "b")
    assert_same(before, state(net)); h.remove()


@EVERY
@pytest.mark.parametrize("ctx", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_and_frozen_models(net, x, method, ctx):
    want = run(net, x, 2, method); net.requires_grad_(False)
    with ctx():
        got = run(net, x.clone(), 2, method)
        assert not got.requires_grad and not got.is_inference()
    near(got, want)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(net, x, method, dtype):
    want, got = (run(m, x, 2, method, upsample=False, relu=False) for m in (net, copy.deepcopy(net).to(dtype)))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and torch.isfinite(got).all()
    if method == "opticam": return # a few steps up a rounded slope
    for a, b in zip(got.float(), want): assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > (.97 if dtype != torch.float64 else .99999)


Pair = namedtuple("Pair", "first second")


class Out(nn.Module):
    def __init__(self, m, how): super().__init__(); self.m, self.how = m, how
    def forward(self, x): return self.how(self.m(x))


@SOME
@pytest.mark.parametrize("how", [lambda o: (o, o*2), lambda o: dict(logits=o, aux=o*2), lambda o: OrderedDict(out=o), lambda o: [o]], ids=["tuple", "dict", "out", "list"])
def test_models_that_return_tuples_and_dicts(net, x, method, how):
    near(run(Out(net, how), x, 2, method, "m.b"), run(net, x, 2, method, "b")); near(run(Out(net, how), x, None, method, "m.b"), run(net, x, None, method, "b"))


@SOME
@pytest.mark.parametrize("how", [lambda o: (o, None), lambda o: dict(n=3, a=dict(b=o)), lambda o: [o], lambda o: Pair(o, 1), lambda o: (o.mean(), o)], ids=["tuple", "dict", "list", "namedtuple", "second"])
def test_layers_that_return_tuples_and_dicts(net, x, method, how):
    class Wrapped(nn.Module):
        def __init__(self): super().__init__(); self.conv = net.b
        def forward(self, x): return how(self.conv(x))
    def unwrap(o): return o if isinstance(o, torch.Tensor) and o.ndim == 4 else next((t for v in (o.values() if isinstance(o, dict) else o if isinstance(o, (tuple, list)) else ()) if (t := unwrap(v)) is not None), None)
    class Uses(nn.Module):
        def __init__(self): super().__init__(); self.net, self.layer = net, Wrapped()
        def forward(self, x):
            n = self.net; x = n.relu(n.bn2(unwrap(self.layer(n.relu(n.bn(n.a(x)))))))
            return n.fc2(n.relu(n.fc1(x.mean((2, 3)))))
    near(run(Uses(), x, 2, method, "layer"), run(net, x, 2, method, "b"))


class Functional(nn.Module):
    def forward(self, x): return F.relu(x)


@EVERY
@pytest.mark.parametrize("layer", ["b", "bn2", "a"])
def test_in_place_reused_and_functional_relu_agree(net, x, method, layer):
    weights = net.state_dict(); maps = []
    for relu in (nn.ReLU(), nn.ReLU(inplace=True), Functional()):
        m = Net(relu=relu); m.load_state_dict(weights); maps.append(run(m.eval(), x, 2, method, layer, relu=False))
    near(maps[1], maps[0], 1e-6); near(maps[2], maps[0], 1e-6)


@EVERY
def test_none_is_the_prediction_and_each_row_its_own_class(net, x, method):
    with torch.no_grad(): top = net(x).argmax(1)
    near(run(net, x, None, method), run(net, x, top, method), 0)
    each = run(net, x, [4, 0, 2], method)
    for i, c in enumerate([4, 0, 2]):
        alone = run(net, x[i], c, method); assert alone.shape == (24, 32); near(each[i], alone); near(run(net, x[i:i+1], c, method)[0], alone, 1e-6)
    near(run(net, x, lambda o: o[:, 2], method, "b"), run(net, x, 2, method, "b"), 1e-6)


@SOME
def test_a_layer_called_twice_counts_by_its_last_call_with_places(x, method):
    class Twice(nn.Module):
        def __init__(self): super().__init__(); self.first, self.c, self.relu, self.fc = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(6, 5)
        def forward(self, x, until=None):
            x = self.relu(self.c(self.relu(self.c(self.first(x)))))
            return self.relu(self.fc(x.mean((2, 3))))*1.5
    class Unrolled(Twice):
        def __init__(self, o): super().__init__(); self.first, self.c, self.fc, self.c2, self.relu2 = o.first, o.c, o.fc, copy.deepcopy(o.c), nn.ReLU()
        def forward(self, x): return F.relu(self.fc(self.relu2(self.c2(F.relu(self.c(self.first(x))))).mean((2, 3))))*1.5
    torch.manual_seed(2); m = Twice().eval()
    with torch.no_grad(): m.fc.bias.fill_(2.)
    for once, twice in (("c2", "c"), ("relu2", "relu")): near(run(m, x, 2, method, twice), run(Unrolled(m), x, 2, method, once), 1e-6)
    assert run(m, x, 2, method).abs().sum() > 0


@EVERY
@pytest.mark.parametrize("size", [(1, 24, 32), (3, 900, 20), (3, 33, 7), (3, 1000, 1100)], ids=str)
def test_sizes(method, size):
    if max(size) > 999 and method not in ("gradcam", "eigencam"): return # hundreds of runs of a large image
    torch.manual_seed(0); m = Net(size[0]).eval(); m.a.stride = m.b.stride = (4, 4) if max(size) > 300 else (2, 2)
    image = torch.randn(size); got = run(m, image, 1, method); assert got.shape == size[1:] and torch.isfinite(got).all() and (method == "opticam" or got.min() >= 0)
    raw = run(m, image, 1, method, upsample=False); near(F.interpolate(raw[None, None], size[1:], mode="bilinear", align_corners=False)[0, 0], got)
    if got.max() > 0: assert run(m, image, 1, method, normalize=True).max() == 1


@EVERY
def test_no_evidence_is_zeros_without_nan(net, x, method):
    m = copy.deepcopy(net); nn.init.zeros_(m.fc1.weight) # no gradient anywhere
    got = run(m, x, 2, method, "b"); assert torch.isfinite(got).all()
    if method in CAM_METHODS[:4]: assert got.abs().sum() == 0 and run(m, x, 2, method, "b", normalize=True).abs().sum() == 0
    class Constant(nn.Module):
        def __init__(self): super().__init__(); self.c = nn.Conv2d(3, 4, 3)
        def forward(self, x): self.c(x); return torch.ones(len(x), 5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always"); got = run(Constant(), x, 2, method, "c")
    assert torch.isfinite(got).all()
    if method in CAM_METHODS[:4]: assert got.abs().sum() == 0 and any("No gradient" in str(w.message) for w in said)
    dead = copy.deepcopy(net); nn.init.zeros_(dead.b.weight); nn.init.zeros_(dead.b.bias) # every channel flat
    got = run(dead, x, 2, method, "b"); assert torch.isfinite(got).all() and got.abs().sum() == 0


def test_small_images_and_layers_without_places():
    torch.manual_seed(0); m = resnet18().eval(); small = torch.randn(2, 3, 32, 32)
    cam = GradCAM(m); assert cam(small).shape == (2, 32, 32) and cam.layer_name == "layer3" and cam.layer is m.layer3
    assert cam(torch.randn(1, 3, 64, 64)).abs().sum() > 0 and cam.layer_name == "layer4"
    with pytest.raises(ModelError, match="single place left. Name an earlier layer"): GradCAM(m, "layer4")(small)
    with pytest.raises(ModelError, match="'fc' is no map over places"): GradCAM(m, "fc")(small)
    with pytest.raises(ModelError, match="spatial extent"): GradCAM(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)))(torch.randn(1, 3, 3, 3))
    class Unused(nn.Module):
        def __init__(self): super().__init__(); self.c, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        def forward(self, x): return self.c(x).mean((2, 3))
    with pytest.raises(ModelError, match="not run"): GradCAM(Unused(), "other")(small)
    with pytest.raises(TaskError, match="No layer|no layer 'layr4'. Near it: layer4"): GradCAM(m, "layr4")
    with pytest.raises(TaskError, match="no part of this"): GradCAM(m, nn.ReLU())
    with pytest.raises(TaskError, match="empty"): GradCAM(m, [])
    with pytest.raises(TaskError, match="no method 'cam'"): GradCAM(m, method="cam")
    with pytest.raises(TaskError, match="is an image"): GradCAM(nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(8, 2)), "0")((torch.randn(2, 3, 6),))


def vit(**kw):
    torch.manual_seed(0); m = VisionTransformer(image_size=48, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5, **kw)
    nn.init.normal_(m.heads.head.weight); return m.eval()


@EVERY
def test_vision_transformer(method):
    m = vit(); z = torch.randn(2, 3, 48, 48); cam = GradCAM(m, None, method, **QUICK); got = cam(z, 1, upsample=False, relu=False)
    assert cam.layer_name == "encoder.layers.encoder_layer_1.ln_1" and got.shape == (2, 6, 6) and got.abs().sum() > 0
    if method != "gradcam": return
    kept = []; h = cam.layer.register_forward_hook(lambda m, i, o: kept.append(o)); s = m(z)[:, 1].sum(); h.remove(); g, = torch.autograd.grad(s, kept[0])
    near(got, ((g[:, 1:].mean(1)[:, None]*kept[0][:, 1:]).sum(2)).detach().view(2, 6, 6)) # the class token is left out


@SOME
@pytest.mark.parametrize("size", [(32, 32), (32, 64), (30, 50)], ids=str)
def test_swin(method, size):
    torch.manual_seed(0); m = SwinTransformer([4, 4], 12, [2, 1], [2, 2], [2, 2], num_classes=5).eval(); z = torch.randn(2, 3, *size); grid = tuple(-(-(s//4)//2) for s in size)
    assert run(m, z, 1, method, upsample=False).shape == (2, *grid)
    got = run(m, z, 1, method, "norm", upsample=False, relu=False)
    assert got.shape == (2, *grid); near(got, run(m, z, 1, method, "permute", upsample=False, relu=False)) # (B, H, W, C) and (B, C, H, W) of the same


class Dense(nn.Module):
    "Says pixel by pixel what it sees; returns a dict as torchvision's models do."
    def __init__(self): super().__init__(); self.down, self.mid, self.up = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
    def forward(self, x): return OrderedDict(out=F.interpolate(self.up(F.relu(self.mid(F.relu(self.down(x))), inplace=True)), x.shape[2:], mode="bilinear"), aux=x)


@EVERY
def test_a_class_over_a_region_of_a_segmentation(method):
    torch.manual_seed(0); m = Dense().eval(); z = torch.randn(2, 3, 32, 48); mask = torch.zeros(32, 48, dtype=torch.bool); mask[:12, :12] = True
    got = GradCAM(m, "down", method, **QUICK)(z, in_region(1, mask), relu=False); assert got.shape == (2, 32, 48) and torch.isfinite(got).all()
    if method in ("hirescam", "layercam"): assert got[:, 24:].abs().sum() == 0 and got[:, :, 30:].abs().sum() == 0 and got.abs().sum() > 0 # the map stays with the region
    assert GradCAM(m, None, method, **QUICK)(z).shape == (2, 32, 48)
    with pytest.raises(DataError, match="no True"): GradCAM(m, "down", method)(z, in_region(1, mask*False))


class Mixed(nn.Module):
    "An image, numbers and a category; two outputs from two branches."
    def __init__(self):
        super().__init__(); self.a, self.b, self.e, self.n = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 7, 3), nn.Embedding(4, 6), nn.Linear(2, 6); self.fa, self.fb = nn.Linear(6, 3), nn.Linear(7, 4)
    def forward(self, cat, image, numbers):
        gate = torch.sigmoid(self.e(cat)[:, 0] + self.n(numbers))
        return self.fa(F.relu(self.a(image)).mean((2, 3))*gate), self.fb(F.relu(self.b(image)).mean((2, 3)))


@EVERY
def test_several_inputs_and_outputs(method):
    torch.manual_seed(0); m = Mixed().eval(); xs = torch.tensor([[0], [3]]), torch.randn(2, 3, 20, 24), torch.randn(2, 2)
    cam = GradCAM(m, None, method, **QUICK); first = cam(xs, 1); assert first.shape == (2, 20, 24) and cam.layer_name == "a"
    second = cam(xs, of_output(1, 3)); assert cam.layer_name == "b" and second.abs().sum() > 0
    near(cam(xs, lambda o: o[1][:, 3]), second)
    for i in range(2): near(run(m, tuple(t[i:i+1] for t in xs), 1, method, "a"), first[i:i+1])
    with pytest.raises(LabelError, match="no output 2"): cam(xs, of_output(2))


@SOME
def test_several_layers_are_averaged_and_do_not_cut_each_other_off(net, x, method):
    one = [GradCAM(net, k, method, **QUICK)(x, 2) for k in ("a", "b")]; cam = GradCAM(net, ["a", net.b], method, **QUICK)
    assert cam.layer_name == ["a", "b"] and cam.layer == [net.a, net.b]
    near(cam(x, 2), sum(m/m.amax((1, 2), keepdim=True).clamp_min(1e-30) for m in one)/2); assert cam(x, 2, upsample=False).shape == (3, 12, 16)


def test_masked_images_come_in_bounded_batches_and_flat_channels_cost_one(net, x):
    rows = []; net.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    want = GradCAM(net, "relu", "scorecam", batch_size=5)(x, 2); assert max(rows) <= 5 and sum(rows) <= 3 + 1 + 3*8 + 3
    near(GradCAM(net, "relu", "scorecam")(x, 2), want)
    assert GradCAM(net, "relu", "scorecam", batch_size=5).explain(x, 2).meta == dict(layer="relu", relu=True, batch_size=5)
    with torch.no_grad(): net.bn2.bias[:6] = -100 # six of eight channels are silent behind the ReLU
    rows.clear(); GradCAM(net, "relu", "scorecam", batch_size=5)(x, 2); assert sum(rows) == 3 + 1 + 3*2 + 3
    rows.clear(); GradCAM(net, "b", "opticam", n_steps=2, batch_size=2)(x, 2); assert max(rows[1:]) <= 2


def test_opticam_is_deterministic_and_never_below_equal_weights(net, x):
    cam = GradCAM(net, "relu", "opticam", n_steps=20); a = cam(x, 2); torch.manual_seed(9); assert torch.equal(a, cam(x, 2))
    assert a.min() >= -1e-6 and a.max() <= 1 + 1e-6
    equal = GradCAM(net, "relu", "opticam", n_steps=0)(x, 2)
    with torch.no_grad(): kept, before = (net(x*m[:, None])[:, 2] for m in (a, equal))
    assert (kept >= before - 1e-5).all() and (kept > before + 1e-3).any()


def test_one_run_and_no_more_when_the_layer_is_known(net, x):
    rows = []; net.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    cam = GradCAM(net, net.b); cam(x); assert rows == [3] and cam.layer_name == "b"
    rows.clear(); cam = GradCAM(net); cam(x); assert rows == [1, 3]; cam(x); assert rows == [1, 3, 3] # looked for once
    with probing(net, x, 2) as probe: maps = cam._maps(probe, normalize=True)
    near(maps, cam(x, 2, normalize=True)); assert rows == [1, 3, 3, 3, 3]


def test_learner_with_pictures(digits):
    item = digits.dls.valid_ds.items[0] if hasattr(digits.dls, "valid_ds") else None
    batch = digits.dls.valid.one_batch()[0].as_subclass(torch.Tensor)[:2]; cam = GradCAM(digits)
    assert cam(batch).shape == (2, *batch.shape[2:]) and repr(cam).startswith("GradCAM(") and "method='gradcam'" in repr(cam)
    names = [str(c) for c in digits.dls.vocab]; near(cam(batch, names[3]), cam(batch, 3), 0)
    with pytest.raises(InterpKitError): cam("/nowhere/none.png")
