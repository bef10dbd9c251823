"Gradients, checks and the debugger: oracles, odd models, and everything left as found."
import importlib, json, random
from functools import partial
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from interp_kit.core import DataError, InterpKitError, ModelError, TaskError, as_learner
from interp_kit.demo import demo_learner
from interp_kit.internals.cka import cka
from interp_kit.internals.debug import ModelDebugger
from interp_kit.internals.flow import information_flow, _shuffled_loader
from interp_kit.internals.gradient_findings import _freezing_findings
from interp_kit.internals.gradient_flow import _gradient_flow

checks = importlib.import_module("interp_kit.internals.check_model") # the room has a function of this name
check_model = partial(checks.check_model, seconds=600) # the machine may be busy
TASKS = ("classification", "multilabel", "segmentation", "regression", "tabular", "tabular_regression", "text")


def learner(model, x=None, y=None, loss=None, bs=8):
    x = torch.randn(24, 4) if x is None else x
    xs = x if isinstance(x, tuple) else (x,)
    return as_learner(model, DataLoader(TensorDataset(*xs, torch.randint(0, 3, (len(xs[0]),)) if y is None else y), bs), loss or nn.CrossEntropyLoss())


def random_states():
    "Of torch, NumPy (with its position) and Python."
    return torch.get_rng_state().tolist(), [o.tolist() if isinstance(o, np.ndarray) else o for o in np.random.get_state()], random.getstate()


def snapshot(learn):
    "What must be the same afterwards, and a function that compares."
    model = learn.model
    params = [(p, p.data_ptr(), p.detach().clone(), p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    buffers = {k: b.clone() for k, b in model.named_buffers()}
    modes, hooks = [m.training for m in model.modules()], [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    attrs, cbs, opt = set(vars(learn)), list(learn.cbs), learn.opt
    state = None if opt is None else (opt.frozen_idx, [dict(h) for h in opt.hypers], {id(p): dict(s) for p, s in opt.state.items()})
    dl_rng = getattr(learn.dls[0], "rng", None); dl_state = dl_rng.getstate() if dl_rng is not None else None
    rng = random_states()
    def compare():
        for (p, at, v, needs, grad), q in zip(params, model.parameters(), strict=True):
            assert p is q and q.data_ptr() == at and torch.equal(q, v) and q.requires_grad == needs and (q.grad is None) == (grad is None) and (grad is None or torch.equal(grad, q.grad))
        assert all(torch.equal(b, buffers[k]) for k, b in model.named_buffers())
        assert modes == [m.training for m in model.modules()]
        assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
        assert attrs == set(vars(learn)) and cbs == list(learn.cbs) and learn.opt is opt
        if opt is not None: assert state == (opt.frozen_idx, [dict(h) for h in opt.hypers], {id(p): dict(s) for p, s in opt.state.items()})
        assert dl_rng is getattr(learn.dls[0], "rng", None) and (dl_rng is None or dl_rng.getstate() == dl_state)
        assert rng == random_states()
    return compare


def item(learn, task):
    "Something as the data set has it."
    items = learn.dls[1].items if task.startswith("tabular") else learn.dls.valid_ds.items
    return "the film was a joy." if task == "text" else items.iloc[0] if isinstance(items, pd.DataFrame) else items[0]


@pytest.mark.parametrize("task", TASKS)
def test_demo_learners_are_silent_and_left_alone(task):
    learn = demo_learner(task)
    learn.model.train(); next(m for m in learn.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)).eval()
    next(learn.model.parameters()).grad = torch.ones_like(next(learn.model.parameters()))
    x = learn.dls[1].one_batch()[:learn.dls.n_inp]
    same, debugger = snapshot(learn), ModelDebugger(learn)
    result = check_model(learn)
    assert [f for f in result.findings()] == [] and all(c.status == "pass" or c.name in ("first_loss", "overfit") and c.status == "skip" for c in result.checks), result
    same()
    assert [f for f in debugger.check_gradient_flow().findings() if f.severity != "info"] == [] and debugger.detect_dead_neurons().findings() == []
    debugger.analyze_layer_outputs(tuple(x) if len(x) > 1 else x[0])
    debugger.analyze_layer_outputs(item(learn, task))
    assert [f for f in debugger.weight_distribution_analysis().findings() if f.severity != "info"] == []
    same()
    _shuffled_loader(learn); information_flow(learn, n_batches=1); cka(learn, n_batches=1)
    same()


def test_all_rows_of_a_batch_are_looked_at():
    net, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), torch.zeros(200, 6)
    x[150:] = float("nan")
    table = ModelDebugger(net).analyze_layer_outputs(x).table
    assert table.rows.tolist() == [200, 200] and table.not_finite.tolist() == [200, 200]
    digits = demo_learner()
    assert ModelDebugger(digits).analyze_layer_outputs(list(digits.dls.valid_ds.items[:70])).table.rows[0] == 70


@pytest.mark.parametrize("task", ["classification", "tabular"])
def test_batches_with_targets_and_single_samples_are_inputs(task):
    learn = demo_learner(task); debugger, n = ModelDebugger(learn), learn.dls.n_inp
    batch = tuple(learn.dls[1].one_batch())
    pd.testing.assert_frame_equal(debugger.analyze_layer_outputs(batch).table, debugger.analyze_layer_outputs(batch[:n]).table)
    one = tuple(t[0] for t in batch)
    for x in (one, one[:n]): assert debugger.analyze_layer_outputs(x).table.rows[0] == 1
    if task == "tabular":
        row = learn.dls[1].items.iloc[0]
        new = row.drop(list(learn.dls[1].y_names)) # no target, as a new row
        pd.testing.assert_frame_equal(debugger.analyze_layer_outputs(new).table, debugger.analyze_layer_outputs(row).table)
    else:
        plain = learner(nn.Sequential(nn.Linear(4, 3)))
        assert ModelDebugger(plain).analyze_layer_outputs(next(iter(plain.dls[0]))).table.rows[0] == 8


def test_functional_rectifiers_are_seen_once_and_in_their_place():
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.a, self.act, self.b, self.c = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.Linear(5, 6)
        def forward(self, x): return nn.functional.gelu(self.c(torch.relu_(self.b(self.act(self.a(x.relu())))).mean((2, 3))))
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(130, 1, 6, 6)
    with torch.no_grad():
        net.b.bias[:2] = -50
        want = (net.b(net.a(x.relu()).relu()).amax((0, 2, 3)) <= 0).tolist()
    table = ModelDebugger(net).detect_dead_neurons(x).table
    assert table.layer.tolist() == ["relu of the input", "act", "relu after b", "gelu after c"] and table.rows.tolist() == [130]*4
    assert table.dead_channels[2] == tuple(i for i, d in enumerate(want) if d) and want[:2] == [True, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_no_check_is_skipped_where_all_can_run():
    "A bug in a check shows itself as 'skip', so count them."
    torch.manual_seed(0)
    for model in (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))):
        assert {c.name: c.status for c in check_model(learner(model), seconds=60).checks} == dict.fromkeys(checks._CHECKS, "pass")
    out = check_model(learner(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), y=torch.randn(24), loss=nn.MSELoss()), seconds=60)
    assert [c.name for c in out.checks if c.status == "skip"] == ["first_loss"] and not [c for c in out.checks if "Could not be run" in c.said]


@pytest.mark.parametrize("last,seen", [(nn.Sigmoid(), True), (nn.Hardtanh(-1, 1), True), (nn.ReLU6(), True), (nn.Softsign(), True), (nn.Hardtanh(-99, 99), False), (nn.LeakyReLU(), False)])
def test_targets_beyond_the_last_layers_bounds(last, seen):
    learn = learner(nn.Sequential(nn.Linear(4, 1), last, nn.Flatten(0)), y=torch.linspace(-5, 9, 24), loss=nn.MSELoss())
    assert (check_model(learn)["loss_fits"].status != "pass") == seen


def test_fresh_resnet18_is_silent():
    from torchvision.models import resnet18
    torch.manual_seed(0)
    learn = learner(resnet18(num_classes=3), torch.randn(8, 3, 32, 32))
    result = check_model(learn)
    assert result.findings() == [] and result["first_loss"].status == "pass", result
    assert ModelDebugger(learn).check_gradient_flow().findings() == []


@pytest.mark.parametrize("model", ["xresnet18", "convnext_tiny"])
def test_branches_that_start_near_zero_are_no_fault(model):
    "A last BatchNorm that starts at 0, and a LayerScale of 1e-6."
    import torchvision.models
    from fastai.vision.models import xresnet
    torch.manual_seed(0)
    net = xresnet.xresnet18(n_out=3) if model == "xresnet18" else torchvision.models.convnext_tiny(num_classes=3)
    flow = _gradient_flow(learner(net, torch.randn(4, 3, 32, 32)))
    assert flow.findings() == []
    assert ("waiting" in set(flow.table.state)) == (model == "xresnet18")


def test_vision_learner_that_fastai_froze(tmp_path):
    from fastai.vision.all import vision_learner, resnet18
    learn = vision_learner(demo_learner().dls, resnet18, pretrained=False)
    for change in (learn.freeze, lambda: learn.freeze_to(1), learn.unfreeze, learn.freeze):
        change()
        assert _freezing_findings(learn) == []
    assert _gradient_flow(learn).findings() == []
    learn.path = tmp_path; learn.export("frozen.pkl") # makes the optimiser anew
    assert {f.severity for f in _freezing_findings(learn)} <= {"info"}
    learn.unfreeze(); learn.model[0][5][0].conv1.weight.requires_grad_(False)
    assert [(f.severity, f.classes) for f in _freezing_findings(learn)] == [("high", ("0.5.0.conv1.weight",))]


def test_signal_at_a_call_is_the_gradient_there():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    learn = learner(model)
    x, y = next(iter(learn.dls[0]))
    a = model[0](x); h = a.clone().relu(); out = model[2](h)
    want = torch.autograd.grad(nn.functional.cross_entropy(out, y), [a, h, out])
    got = _gradient_flow(learn)
    np.testing.assert_allclose(got.calls.signal, [float(g.norm()) for g in want], rtol=1e-6)
    assert got.calls.relative.iloc[-1] == 1


def test_gradients_of_several_batches_are_their_root_mean_square():
    model = nn.Sequential(nn.Linear(4, 3)); learn = learner(model)
    norms = []
    for x, y in learn.dls[0]: norms.append(float(torch.autograd.grad(nn.functional.cross_entropy(model(x), y), [model[0].weight])[0].norm()))
    assert _gradient_flow(learn, n_batches=3).table.grad_norm.iloc[0] == pytest.approx(np.sqrt(np.mean(np.square(norms))))
    assert _gradient_flow(learn, n_batches=3).n_batches == 3


class TwoIn(nn.Module):
    "Two inputs, a layer called twice with other shapes, an LSTM and attention; a tuple comes out."
    def __init__(self): super().__init__(); self.a, self.act, self.rnn, self.att, self.out = nn.Linear(4, 6), nn.ReLU(), nn.LSTM(6, 6, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)
    def forward(self, x, z):
        h, (last, _) = self.rnn(self.act(self.a(x)))
        w, _ = self.att(h, h, h, need_weights=False)
        return self.act(self.out(w.mean(1) + z)), None


@pytest.mark.filterwarnings("ignore")
def test_several_inputs_shared_layers_and_tuples():
    learn = learner(TwoIn(), (torch.randn(16, 5, 4), torch.randn(16, 6)), loss=lambda out, y: nn.functional.cross_entropy(out[0], y))
    flow = _gradient_flow(learn)
    assert flow.findings() == [] and {"act", "act:2", "rnn", "att"} <= set(flow.calls.layer)
    result = check_model(learn)
    assert result["loss"].status == "pass" and result["overfit"].status == "pass", result
    outputs = ModelDebugger(learn).analyze_layer_outputs((torch.randn(2, 5, 4), torch.randn(2, 6)))
    assert {"act", "act:2"} <= set(outputs.table.layer)
    for r in (flow, result, outputs, ModelDebugger(learn).detect_dead_neurons(), ModelDebugger(learn).weight_distribution_analysis(), ModelDebugger(learn).summary()):
        json.dumps(r.to_dict(), allow_nan=False); r._repr_html_()
        if not isinstance(r, type(flow)): assert r.plot() is not None
    assert len(result.plot().texts) == 3*len(result.checks)
    ax = flow.plot()
    assert sum(len(c.get_offsets()) for c in ax.collections if hasattr(c, "get_offsets") and c.get_label()[:1] != "_") == flow.table.matrix.sum()


def test_a_layer_with_nan_is_named_and_the_others_are_measured():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad(): model[2].weight[0, 0] = float("nan")
    learn = learner(model)
    outputs = ModelDebugger(learn).analyze_layer_outputs(torch.randn(5, 4))
    assert np.isfinite(outputs.table["mean"][:2]).all() and [f.evidence["layer"] for f in outputs.findings() if f.type == "not_finite_activations"] == ["2"]
    assert [f.type for f in _gradient_flow(learn).findings()] == ["exploding_gradients"]
    result = check_model(learn)
    assert result["weights"].status == result["loss"].status == "fail" and result["frozen"].status == "pass"
    json.dumps(result.to_dict(), allow_nan=False)
    json.dumps(_gradient_flow(learn).to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", ["half", "bfloat16", "weight_norm", "tied", "empty", "sparse", "scalar", "complex"])
@pytest.mark.filterwarnings("ignore")
def test_odd_parameters(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), None
    if kind in ("half", "bfloat16"): model = getattr(model, kind)()
    if kind == "weight_norm": model[0] = nn.utils.parametrizations.weight_norm(model[0])
    if kind == "tied": model.insert(1, nn.Linear(4, 4)); model[1].weight = model[0].weight
    if kind == "empty": model.register_parameter("nothing", nn.Parameter(torch.zeros(0, 3)))
    if kind == "scalar": model.register_parameter("unused", nn.Parameter(torch.tensor(1.)))
    if kind == "sparse": model, x = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3)), torch.randint(0, 9, (24, 2))
    if kind == "complex":
        class Complex(nn.Module):
            def __init__(self): super().__init__(); self.w, self.out = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64)), nn.Linear(4, 3)
            def forward(self, x): return self.out((x.to(torch.complex64) @ self.w).abs())
        model = Complex()
    learn = learner(model, x)
    flow = _gradient_flow(learn)
    assert set(flow.table.parameter) == {n for n, _ in model.named_parameters()}
    assert {f.type for f in flow.findings()} == ({"zero_gradient"} if kind == "scalar" else set())
    if kind == "empty": assert flow.table.set_index("parameter").reason["nothing"] == "empty"
    result = check_model(learn)
    assert result["gradients"].status == ("fail" if kind == "scalar" else "pass"), result
    assert [c.name for c in result.checks if c.status == "fail"] == (["gradients"] if kind == "scalar" else []), result
    json.dumps(flow.to_dict(), allow_nan=False)


def test_models_that_cannot_be_trained_say_so():
    frozen = learner(nn.Sequential(nn.Linear(4, 3)).requires_grad_(False))
    with pytest.raises(ModelError, match="nothing in Sequential is trainable"): _gradient_flow(frozen)
    assert check_model(frozen)["frozen"].status == "warn"
    class Argmax(nn.Module):
        def __init__(self): super().__init__(); self.a = nn.Linear(4, 3)
        def forward(self, x): return self.a(x).detach()
    with pytest.raises(ModelError, match="detached"): _gradient_flow(learner(Argmax()))
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear})
    assert check_model(learner(quantised))["overfit"].status == "skip"
    with pytest.raises(TaskError, match="as_learner"): ModelDebugger(nn.Linear(4, 3)).check_gradient_flow()
    with pytest.raises(TaskError): ModelDebugger("model")
    with pytest.raises(DataError, match="above 0"): check_model(frozen, lr=0)


class Spiteful(nn.Module):
    "Fails in its n-th call."
    def __init__(self, at): super().__init__(); self.net, self.calls, self.at = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)), [], at
    def forward(self, x):
        self.calls.append(1)
        if len(self.calls) >= self.at: raise ValueError("spite")
        return self.net(x)


@pytest.mark.parametrize("at", [1, 3, 6, 20])
def test_a_failing_model_is_left_as_found_and_stops_no_check(at):
    learn = learner(Spiteful(at)); learn.create_opt()
    same = snapshot(learn)
    result = check_model(learn)
    assert [c.name for c in result.checks] == list(checks._CHECKS) and result["weights"].status == "pass"
    assert learn.model.calls == []
    same()
    for f in (lambda d: d.check_gradient_flow(), lambda d: d.analyze_layer_outputs(torch.zeros(3, 4)), lambda d: d.detect_dead_neurons()):
        learn.model.at = 1
        with pytest.raises(InterpKitError, match="spite"): f(ModelDebugger(learn))
        learn.model.calls.clear()
    learn.model.at = at
    same()


def test_a_check_that_raises_is_told_and_leaves_no_trace(monkeypatch):
    def broken(case):
        with checks.trial(case.learn, change=True) as model:
            model.train(); next(model.parameters()).data.add_(1)
            raise KeyError("oops")
    monkeypatch.setitem(checks._CHECKS, "overfit", broken)
    learn = demo_learner(); same = snapshot(learn)
    result = check_model(learn)
    assert result["overfit"].status == "warn" and "KeyError" in result["overfit"].said and result["learning_rate"].status == "pass"
    same()


def test_interrupt_leaves_everything_as_found(monkeypatch):
    learn = demo_learner("text"); same = snapshot(learn)
    monkeypatch.setattr(checks, "_fell", lambda losses: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): check_model(learn)
    same()


def test_a_loss_with_parameters_is_left_alone_too():
    class Weighted(nn.Module):
        def __init__(self): super().__init__(); self.log_scale = nn.Parameter(torch.zeros(1))
        def forward(self, out, y): return nn.functional.cross_entropy(out*self.log_scale.exp(), y)
    loss = Weighted(); learn = learner(nn.Sequential(nn.Linear(4, 3)), loss=loss)
    check_model(learn)
    _gradient_flow(learn)
    assert loss.log_scale.grad is None and float(loss.log_scale.detach()) == 0


@pytest.mark.parametrize("case", ["binary", "ignored", "masks", "sum", "last_of_one", "one_row"])
def test_sound_set_ups_that_look_odd(case):
    torch.manual_seed(0)
    x, y, loss, bs, model = torch.randn(24, 4), torch.randint(0, 3, (24,)), nn.CrossEntropyLoss(), 8, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    if case == "binary": model, y, loss = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)), torch.randint(0, 2, (24,)).float(), nn.BCEWithLogitsLoss()
    if case == "ignored": y[::5] = 99; loss = nn.CrossEntropyLoss(ignore_index=99)
    if case == "masks": x, y, loss, model = torch.randn(16, 3, 6, 6), torch.randint(0, 4, (16, 6, 6)), nn.CrossEntropyLoss(ignore_index=3), nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    if case == "sum": loss = nn.CrossEntropyLoss(reduction="sum")
    if case == "last_of_one": x, y = x[:17], y[:17]
    if case == "one_row": x, y, bs = x[:1], y[:1], 1
    result = check_model(learner(model, x, y, loss, bs))
    assert result.findings() == [], result


def test_items_of_every_kind_are_analysed():
    import pandas as pd
    from interp_kit.demo.pictures import digit_folder
    digits, text, table = demo_learner(), demo_learner("text"), demo_learner("tabular")
    file = sorted(digit_folder().rglob("*.png"))[0]
    x = next(iter(digits.dls.test_dl([file], num_workers=0)))[0]
    a, b = ModelDebugger(digits).analyze_layer_outputs(file), ModelDebugger(digits).analyze_layer_outputs(x)
    pd.testing.assert_frame_equal(a.table, b.table)
    assert len(ModelDebugger(text).analyze_layer_outputs("the film was a joy.").table) > 3
    row = table.dls.train_ds.items.iloc[0] if hasattr(table.dls.train_ds, "items") else None
    if row is not None: assert len(ModelDebugger(table).analyze_layer_outputs(row).table) > 3
    with pytest.raises(DataError, match="cannot be turned into an input"): ModelDebugger(digits).analyze_layer_outputs("no such file.png")
