"The door to Captum's eight, around any model; and images that show a feature."
import pickle, warnings
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.models import resnet18
from interp_kit.attribution.result import Attribution
from interp_kit.attribution.gradients import _completeness as completeness, _point_grads as point_grads, _rounding as rounding
from interp_kit.attribution.deeplift import _lift as lift
from interp_kit.attribution.saliency import SALIENCY_METHODS, SaliencyMap
from interp_kit.attribution.append import AppendSaliency, _append_map as append_map, _feature_map
from interp_kit.core import tapped
from interp_kit.attribution.probe import probing
from interp_kit.core import DataError, LabelError, ModelError, TaskError
from interp_kit.demo import demo_learner

pytestmark = pytest.mark.filterwarnings("ignore")
each = pytest.mark.parametrize("method", SALIENCY_METHODS)


class Net(nn.Module):
    "In-place, reused and functional ReLU, BatchNorm, dropout."
    def __init__(self, wrap=lambda o: o):
        super().__init__()
        self.a, self.bn, self.b, self.relu, self.drop, self.head, self.wrap = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True), nn.Dropout(.5), nn.Linear(8, 3), wrap
        self.fail = False
    def forward(self, x):
        x = self.relu(self.b(self.relu(self.bn(self.a(x)))))
        if self.fail: raise RuntimeError("the cable is unplugged")
        return self.wrap(self.head(self.drop(torch.relu(x).mean((2, 3)))))


def made(wrap=lambda o: o):
    torch.manual_seed(0)
    net = Net(wrap); net.train()(torch.randn(8, 3, 12, 12))
    return net


def run(net, method, x=None, target=None, **kw):
    torch.manual_seed(5); np.random.seed(5)
    x = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(3)) if x is None else x
    return SaliencyMap(net, method).generate_saliency_map(x, target, n_steps=5, stdevs=.1, **kw)


@each
def test_the_model_the_caller_and_the_random_state_are_left_alone(method):
    net = made()
    for p in net.parameters(): p.grad = torch.ones_like(p)
    tensors = {k: v.clone() for k, v in net.state_dict().items()}
    want = run(net, method)
    torch.manual_seed(5); np.random.seed(5); cpu, npy = torch.get_rng_state(), np.random.get_state()[1]
    assert torch.equal(run(net, method), want) and torch.equal(torch.get_rng_state(), cpu) and (np.random.get_state()[1] == npy).all()
    assert net.training and net.bn.training and all(torch.equal(v, net.state_dict()[k]) for k, v in tensors.items()) and all((p.grad == 1).all() and p.requires_grad for p in net.parameters())
    with torch.no_grad(): assert torch.equal(run(net, method), want)
    with torch.inference_mode(): assert torch.equal(run(net, method, torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(3))), want)
    assert torch.equal(run(net.requires_grad_(False), method), want)
    assert torch.isfinite(want).all() and want.abs().max() > 0


@each
def test_no_hook_stays_after_an_exception(method):
    net = made(); net.fail = True
    with pytest.raises(ModelError, match="unplugged"): run(net, method, target=1, layer=None if method not in ("layer_grad_cam", "layer_conductance", "neuron_conductance") else "b")
    assert all(not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks for m in net.modules()) and net.training


@each
def test_outputs_precisions_and_shapes(method):
    want = run(made(), method, target=1)
    for wrap in (lambda o: (o, o), lambda o: dict(logits=o, more=o*2)): assert torch.allclose(run(made(wrap), method, target=1), want, atol=1e-6)
    one = torch.randn(3, 12, 10)
    assert run(made(), method, one, 1).shape == run(made(), method, one[None], 1).shape[1:]
    for dtype in (torch.bfloat16, torch.float16):
        half = run(made().to(dtype), method, target=1)
        assert half.dtype == torch.float32 and float(torch.corrcoef(torch.stack([half.flatten(), want.flatten()]))[0, 1]) > .95


@each
def test_zero_gradient_is_zero_and_a_wrong_input_is_refused(method):
    net = made()
    nn.init.zeros_(net.head.weight)
    assert (run(net, method, target=1) == 0).all()
    for error, x in ((DataError, torch.zeros(3, 12, 12, dtype=torch.uint8)), (DataError, torch.full((3, 12, 12), float("nan")))):
        with pytest.raises(error): run(net, method, x)
    with pytest.raises(LabelError, match="target 7"): run(net, method, target=7)
    if method != "layer_grad_cam":
        with pytest.raises(DataError, match="baseline"): run(net, method, baseline=torch.zeros(3, 5, 5))


def test_options_that_make_no_sense():
    net, x = made(), torch.randn(1, 3, 12, 12)
    with pytest.raises(TaskError, match="integrated_gradients, gradient_shap, deep_lift, deep_lift_shap, layer_conductance, neuron_conductance, noise_tunnel, layer_grad_cam"): SaliencyMap(net, "grad_cam")
    with pytest.raises(TaskError, match="nn.Module"): SaliencyMap(lambda x: x)
    go = lambda method="noise_tunnel", **kw: SaliencyMap(net, method).generate_saliency_map(x, **kw)
    for match, kw in (("at least 1", dict(n_steps=0)), ("n_samples=0", dict(n_samples=0)), ("internal_batch_size=0", dict(internal_batch_size=0)), ("stdevs=-1", dict(stdevs=-1)), ("3 stdevs for 1", dict(stdevs=(1., 1., 1.))),
                      ("no layer 'nine'", dict(method="layer_grad_cam", layer="nine")), ("no part of", dict(method="layer_grad_cam", layer=nn.ReLU())), ("got int", dict(method="layer_grad_cam", layer=3)),
                      ("neuron_index=\\(99,\\)", dict(method="neuron_conductance", neuron_index=99)), ("has 4 numbers", dict(method="neuron_conductance", neuron_index=(0, 0, 0, 0))), ("an integer", dict(method="neuron_conductance", neuron_index=1.5)),
                      ("not run", dict(method="layer_grad_cam", layer="unused"))):
        if "unused" in kw.values(): net.unused = nn.ReLU()
        with pytest.raises((DataError, TaskError, ModelError), match=match): go(**kw)


def test_neurons():
    net = made()
    whole, channel = run(net, "neuron_conductance", target=1, layer="b"), run(net, "neuron_conductance", target=1, layer="b", neuron_index=(2, slice(None)))
    assert whole.shape == (2, 3, 12, 10) and torch.allclose(channel, run(net, "neuron_conductance", target=1, layer="b", neuron_index=2))
    a = SaliencyMap(net, "neuron_conductance").explain(torch.randn(2, 3, 12, 10), 1, n_steps=4)
    assert len(a.meta["neuron"]) == 2 and a.meta["layer"] and a.meta["single"] is False
    assert SaliencyMap(net, "deep_lift").explain(torch.randn(3, 12, 10), 1).meta == dict(single=True)
    unit = run(net, "neuron_conductance", target=1, layer="head", neuron_index=1) # the unit is the score itself: its conductance is the integrated gradient
    torch.manual_seed(5)
    from interp_kit.attribution.gradients import IntegratedGradients
    x = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(unit, IntegratedGradients(net).attribute(x, 1, 5, method="riemann_trapezoid"), rtol=1e-4, atol=1e-6)


def test_rows_at_once_are_bounded():
    net, seen = made(), []
    handle = net.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    for method in SALIENCY_METHODS:
        seen.clear(); run(net, method, torch.randn(12, 3, 12, 12), target=1, internal_batch_size=3, **(dict(layer="b") if "layer" in method or "neuron" in method else {}))
        assert max(seen) <= 8, (method, max(seen)) # the first run takes eight
    handle.remove()


def test_maps_are_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    door, x = SaliencyMap(made(), "deep_lift"), torch.randn(2, 3, 12, 12)
    got = door.generate_saliency_map(x, 1, save_maps=True)
    assert str(door.saved_to) in capsys.readouterr().out and door.saved_to.parent.name == "saliency_maps" and torch.equal(Attribution.open(door.saved_to).values, got)
    door.generate_saliency_map(x, 1, save_maps=True)
    assert len(list((tmp_path/"saliency_maps").glob("*.npz"))) == 2
    door.generate_saliency_map(x, 1, save_maps=True, save_to_path=tmp_path/"my.npz"); assert (tmp_path/"my.npz").is_file()
    door.generate_saliency_map(x, 1); assert len(list(tmp_path.rglob("*.npz"))) == 3


def test_a_learner_and_its_files(digits):
    files = list(digits.dls.valid.items[:2])
    maps = SaliencyMap(digits).generate_saliency_map(files, n_steps=5)
    assert maps.shape[0] == 2 and SaliencyMap(digits, "layer_grad_cam").generate_saliency_map(files[0]).shape[0] == 1
    named = SaliencyMap(digits).explain(files, str(digits.dls.vocab[3]), n_steps=5)
    assert named.target == [3, 3]


def test_parts_that_methods_are_made_of():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double(), torch.randn(5, 3, 2, 2).double()
    with probing(net, x, 1) as probe:
        (g,) = point_grads(probe, chunk=2)
        assert torch.allclose(g.flatten(1), net[1].weight[1].expand(5, -1))
        assert torch.equal(point_grads(probe, (x[[0, 0, 1]],), torch.tensor([0, 0, 1]))[0], g[:3])
        values, change, size = lift(probe, (x,), (x*0,), torch.arange(5), chunk=2)
        assert torch.allclose(values[0], g*x) and completeness(values, change).abs().max() < 1e-12 and torch.equal(size >= change.abs()/2, torch.ones(5, dtype=torch.bool))
    assert rounding(torch.float32) == 2**-15 and rounding(torch.bfloat16) == .05


class Pictures(Dataset):
    def __init__(self, mode="RGB"): self.mode = mode
    def __len__(self): return 4
    def __getitem__(self, i): return Image.fromarray(np.random.default_rng(i).integers(0, 255, (30, 40, 3), dtype=np.uint8)).convert(self.mode), i


def backbone():
    torch.manual_seed(0)
    return resnet18(num_classes=4).eval()


def test_feature_of_a_pooled_channel_is_its_activation_map():
    net, x = backbone(), torch.randn(2, 3, 64, 96)
    with torch.no_grad(), tapped(net.layer4) as box: net(x)
    act = torch.nn.functional.interpolate(box[0][:, 7:8], size=(64, 96), mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(_feature_map(net, x, 7), act/act.flatten(1).amax(1).clamp_min(1e-9)[:, None, None], atol=1e-4)


def test_loader_with_workers_and_unchanged_targets():
    data = TensorDataset(torch.rand(4, 3, 64, 64), torch.arange(4))
    shown = AppendSaliency(data, backbone(), 3, alpha=.5)
    here = torch.stack([shown[i][0] for i in range(4)])
    there = list(DataLoader(shown, batch_size=2, num_workers=2))
    assert torch.allclose(torch.cat([b[0] for b in there]), here, atol=1e-6) and torch.cat([b[1] for b in there]).tolist() == [0, 1, 2, 3]
    assert here.dtype == torch.float32 and 0 <= here.min() and here.max() <= 1 and not torch.equal(here, data.tensors[0])
    assert torch.allclose(pickle.loads(pickle.dumps(shown))[1][0], shown[1][0], atol=1e-6)
    assert len(list(shown)) == 4 and torch.equal(AppendSaliency(data, backbone(), 3, alpha=0)[2][0], data[2][0])
    heat = shown.heat(data[0][0])
    changed = (shown[0][0] - data[0][0]).abs().amax(0)
    assert (changed[heat == 0] == 0).all() and heat.shape == (64, 64) and 0 <= heat.min() and heat.max() <= 1


def test_nothing_is_computed_before_it_is_asked_for():
    net = backbone(); calls = []
    net.register_forward_hook(lambda *a: calls.append(1))
    AppendSaliency(Pictures(), net, 3); assert not calls


@pytest.mark.parametrize("mode", ("RGB", "L", "RGBA", "P", "1"))
def test_pictures_keep_their_kind(mode):
    img = Pictures(mode)[0][0]
    heat = torch.zeros(15, 20); heat[4:8, 4:8] = 1
    new = append_map(img, heat, alpha=.5)
    assert new.mode == mode and new.size == img.size and type(new) is Image.Image
    if mode == "RGBA": assert np.array_equal(np.asarray(new)[..., 3], np.asarray(img)[..., 3])
    if mode in ("RGB", "L"): assert (np.asarray(new) != np.asarray(img)).any() and np.array_equal(np.asarray(new)[20:], np.asarray(img)[20:])


@pytest.mark.parametrize("img", (torch.randint(0, 255, (3, 20, 30), dtype=torch.uint8), torch.rand(3, 20, 30), torch.randn(3, 20, 30), torch.rand(1, 20, 30), torch.rand(20, 30).double(), torch.rand(3, 20, 30).half(),
                                 np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8), np.random.default_rng(0).random((20, 30))), ids=lambda o: f"{type(o).__name__}-{o.dtype}-{tuple(o.shape)}")
def test_tensors_and_arrays_keep_their_kind(img):
    new = append_map(img, torch.ones(20, 30), alpha=.5)
    assert type(new) is type(img) and new.dtype == img.dtype and new.shape == img.shape
    as_float = lambda o: torch.as_tensor(np.asarray(o)).float()
    assert as_float(new).min() >= min(0, as_float(img).min() - 1e-3) and as_float(new).max() <= max(float(as_float(img).max()), 255. if "int" in str(img.dtype) else 1.) + 1e-3 and not np.array_equal(as_float(new), as_float(img))


def test_fastai_pictures(digits):
    shown = AppendSaliency(digits.dls.valid_ds, digits, 1, alpha=.5)
    (new, target), (old, want) = shown[0], digits.dls.valid_ds[0]
    assert type(new) is type(old) and new.size == old.size and new.mode == old.mode and int(target) == int(want)


def test_what_has_no_features_says_so():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data = TensorDataset(torch.rand(2, 3, 16, 16), torch.arange(2))
    with pytest.raises(ModelError, match="no linear layer"): AppendSaliency(data, conv, 0)[0]
    with pytest.raises(DataError, match="512 features"): AppendSaliency(data, backbone(), 512)[0]
    with pytest.raises(TaskError, match="transforms"): AppendSaliency(Pictures(), backbone(), 0)[0]
    for kw, match in ((dict(alpha=1.5), "alpha"), (dict(alpha="a"), "alpha"), (dict(feature_idx=-1), "feature_idx"), (dict(feature_idx="eye"), "feature_idx"), (dict(dataset=3), "dataset")):
        with pytest.raises((DataError, TaskError), match=match): AppendSaliency(**{**dict(dataset=data, model=conv, feature_idx=0), **kw})
