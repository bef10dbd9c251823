"Statistics of activations against slow, literal versions, on models and data of every shape."
import pickle, types
from collections import OrderedDict
from dataclasses import dataclass
import fastai.callback.progress, fastai.callback.schedule # give Learner its verbs
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from interp_kit.core import DataError, ModelError, as_learner
from interp_kit.demo import demo_learner
from interp_kit.internals.activation_charts import dead_chart, _draw_hists, hist_chart, _plot_by_type, _sums_of, _type_colors
from interp_kit.internals.activation_findings import (
    _collapsed_layers, _dead_units, _exploding_activations, _not_finite_activations, _saturated_layers)
from interp_kit.internals.activation_sums import ActivationSums
from interp_kit.internals.activations import ActivationStats
from interp_kit.core import Call, input_batches, kept_order, run_model
from interp_kit.core.layers import _first_float
from interp_kit.internals.channel_sums import ChannelSums
from interp_kit.internals.flow import _square_sum
from interp_kit.predictions import Features, capture
from interp_kit.predictions.folder import _pack_state, _unpack_state


@pytest.fixture(autouse=True)
def one_thread():
    "Tensors are tiny, and threads that wait for one another cost more than they bring."
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def literal(batches, channel_dim, eps=.05):
    "One number after another, in double precision; rows first, channels as a list of arrays."
    per_channel = {}
    for b in batches:
        a = b.detach().double().numpy()
        a = a if a.ndim > 1 else a[:, None]
        for c in range(a.shape[channel_dim]): per_channel.setdefault(c, []).append(np.take(a, c, channel_dim).ravel())
    chans = [np.concatenate(v) for _, v in sorted(per_channel.items())]
    ok = [v[np.isfinite(v)] for v in chans]
    every = np.concatenate(ok)
    return dict(mean=every.mean(), std=every.std(), near_zero=(np.abs(every) < eps).mean(), min=every.min(), max=every.max(), channels=len(chans), rows=sum(len(b) for b in batches),
                dead_fraction=np.mean([(v <= 0).all() for v in ok]), not_finite=sum(int((~np.isfinite(v)).sum()) for v in chans))


def agree(got, want, tol=1e-6):
    for k in ("channels", "rows", "not_finite"): assert got[k] == want[k], k
    for k in ("std", "near_zero", "min", "max"): assert got[k] == pytest.approx(want[k], rel=tol, abs=1e-9), k
    assert got["mean"] == pytest.approx(want["mean"], rel=tol, abs=tol*want["std"])
    if not np.isnan(got["dead_fraction"]): assert got["dead_fraction"] == pytest.approx(want["dead_fraction"], abs=1e-12)


@pytest.mark.parametrize("bs", [1, 7, 32])
@pytest.mark.parametrize("level,size", [(0, 1), (1e4, 1), (-3, 1e-3), (1e25, 1e24), (0, 1e-15)])
@pytest.mark.parametrize("shape,dim", [((4, 6, 7), 1), ((4,), 1), ((9, 4), -1), ((3, 40, 40), 1), ((700, 2, 2), 1)])
def test_streamed_moments_are_those_of_the_whole(bs, level, size, shape, dim):
    x = torch.randn(65, *shape, generator=torch.Generator().manual_seed(0))*size + level
    s = ChannelSums()
    for b in x.split(bs): s.add(b, dim)
    axes = [i for i in range(x.ndim) if i != dim % x.ndim]
    var, mean = torch.var_mean(x.double(), axes, correction=0)
    assert (s.var/var - 1).abs().max() < 1e-6
    assert ((s.mean - mean).abs()/(mean.abs() + var.sqrt())).max() < 1e-6
    assert torch.equal(s.min, x.double().amin(axes)) and torch.equal(s.max, x.double().amax(axes))
    assert torch.allclose(s.positive, (x > 0).double().mean(axes), atol=1e-12)


def test_memory_layouts_and_precisions_give_the_same():
    x = torch.randn(20, 6, 8, 8)
    for y in (x.to(memory_format=torch.channels_last), x.flip(0).flip(0), x[:, :, ::1].permute(0, 1, 3, 2)):
        a, b = ChannelSums(), ChannelSums(); a.add(y); b.add(y.contiguous())
        assert torch.allclose(a.mean, b.mean, atol=1e-7) and torch.allclose(a.var, b.var, rtol=1e-6) and torch.equal(a.max, b.max)
    for t in (torch.float16, torch.bfloat16):
        a, b = ChannelSums(), ChannelSums(); a.add(x.to(t)); b.add(x.to(t).double())
        assert torch.allclose(a.var, b.var, rtol=1e-6) and torch.allclose(a.mean, b.mean, atol=1e-7)


def collect(module, run, name=None):
    "Clones of the outputs of one module, by a hook of our own."
    got = []
    h = module.register_forward_hook(lambda m, i, o: got.append((o[0] if isinstance(o, tuple) else o).clone()))
    try: run()
    finally: h.remove()
    return got


@dataclass
class Pair:
    note: str
    out: torch.Tensor


class ModelOutput(OrderedDict):
    "As transformers has it: a dict whose entries are attributes too."
    def __getattr__(self, k): return self[k]


class Zoo(nn.Module):
    "Several inputs, outputs of every kind, a shared module on tensors of different shapes."
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(5, 8), nn.Linear(3, 12), nn.ReLU()
        self.lstm, self.attend, self.norm = nn.LSTM(4, 6, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True), nn.LayerNorm(6)
        self.pair, self.named = Wraps(nn.Linear(6, 7), lambda o: Pair("text", o)), Wraps(nn.Linear(6, 7), lambda o: ModelOutput(loss=None, logits=o))
    def forward(self, x, y):
        u, v = self.act(self.a(x)), self.act(self.b(y))
        s, _ = self.lstm(torch.cat([u, v], 1).view(len(x), 5, 4))
        s = self.norm(self.attend(s, s, s, need_weights=False)[0])
        return dict(out=(self.pair(s).out, self.named(s).logits), none=None)


class Wraps(nn.Module):
    def __init__(self, m, f): super().__init__(); self.weight, self.f = m.weight, f
    def forward(self, x): return self.f(nn.functional.linear(x, self.weight))


def test_several_inputs_outputs_of_every_kind_and_a_shared_module():
    torch.manual_seed(0)
    net, x, y = Zoo().eval(), torch.randn(23, 5), torch.randn(23, 3)
    batches = [(x[i:i+9], y[i:i+9]) for i in (0, 9, 18)]
    table = ActivationStats(net).stats_by_layer((x, y)).set_index("layer")
    assert list(table.index) == ["a", "act", "b", "act:2", "lstm", "attend", "norm", "pair", "named"]
    def run(): [net(*b) for b in batches]
    relu = collect(net.act, run)
    agree(table.loc["act"], literal(relu[::2], -1)); agree(table.loc["act:2"], literal(relu[1::2], -1))
    for name in ("a", "b", "lstm", "attend", "norm"): agree(table.loc[name], literal(collect(getattr(net, name), run), -1))
    u = net.norm(torch.ones(1, 5, 6))
    assert table.loc["pair", "shape"] == table.loc["named", "shape"] == (5, 7) and u is not None
    named = ActivationStats(net).stats_by_layer(dict(y=y, x=x)).set_index("layer")
    pd.testing.assert_frame_equal(named, table)
    streamed = ActivationStats(net).stats_by_layer([(*b, torch.zeros(len(b[0]))) for b in batches]).set_index("layer") # with targets
    pd.testing.assert_frame_equal(streamed, table, rtol=1e-6, atol=1e-6) # means of a LayerNorm are 0


def test_a_layer_of_nan_is_flagged_and_the_others_are_analysed():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad(): net[2].weight[3] = np.nan
    x = torch.randn(150, 4)
    s = ActivationStats(net); t = s.stats_by_layer(x)
    first = collect(net[1], lambda: net(x))
    agree(t.iloc[1], literal(first, 1)); assert t.not_finite.tolist() == [0, 0, 150, 150, 300]
    agree(t.iloc[2], literal(collect(net[2], lambda: net(x)), 1))
    assert t["mean"].iloc[4:].isna().all() and t.reason.iloc[4] == "no value is finite" and "not finite and left out" in t.reason.iloc[2]
    assert [f.type for f in s.findings()] == ["not_finite_activations"] and s.findings()[0].evidence["layer"] == "2"
    import json; json.dumps(s.to_dict(), allow_nan=False)
    dead_chart(s); s.plot_layer_stats()


def test_batches_of_one_shuffled_dropped_and_iterators():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(33, 1, 6, 6)
    data, want = TensorDataset(x, torch.zeros(33)), literal(collect(net.eval()[2], lambda: net(x)), 1)
    for dl in (DataLoader(data, 16), DataLoader(data, 16, shuffle=True), iter(DataLoader(data, 8)), x, [x[:32], x[32:]], (b for b in x.split(1))):
        agree(ActivationStats(net).stats_by_layer(dl).iloc[2], want)
    agree(ActivationStats(net).stats_by_layer(DataLoader(data, 16, drop_last=True)).iloc[2], literal(collect(net[2], lambda: net(x[:32])), 1))
    with pytest.raises(DataError, match="no batches"): ActivationStats(net).stats_by_layer([])


class Fails(nn.Module):
    def __init__(self, at): super().__init__(); self.at, self.n = at, 0
    def forward(self, x):
        self.n += 1
        if self.n > self.at: raise ZeroDivisionError("inside")
        return x*1


def hooks(model): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_an_exception_leaves_no_hooks_and_the_modes():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Fails(1), nn.Linear(4, 2))
    net.train(); net[1].eval()
    modes = [m.training for m in net.modules()]
    s = ActivationStats(net)
    with pytest.raises(ModelError, match="inside"): s.stats_by_layer([torch.randn(4, 3)]*3)
    assert hooks(net) == 0 and [m.training for m in net.modules()] == modes and not len(s.seen)
    learn = as_learner(nn.Sequential(nn.Linear(3, 2), Fails(1)), DataLoader(TensorDataset(torch.randn(12, 3), torch.zeros(12).long()), 4), nn.CrossEntropyLoss())
    with pytest.raises(ZeroDivisionError): capture(learn, observers=[ActivationStats()], progress=False)
    assert hooks(learn.model) == 0


def test_layers_that_cannot_be_summed_up_stay_in_the_table():
    class Widens(nn.Module):
        n = 3
        def forward(self, x): self.n += 1; return x.repeat(1, self.n)
    class Empty(nn.Module):
        def forward(self, x): return x[:, :0]
    class Several(nn.Module):
        def __init__(self): super().__init__(); self.w, self.e, self.l = Widens(), Empty(), nn.Linear(4, 4)
        def forward(self, x): self.w(x); self.e(x); return self.l(x)
    t = ActivationStats(Several()).stats_by_layer([torch.randn(6, 4)]*3).set_index("layer")
    assert "channels changes" in t.loc["w", "reason"] and t.loc["e", "reason"] == "it holds no values" and np.isfinite(t.loc["l", "mean"])
    assert t.loc[["w", "e"], ["mean", "std", "min", "max", "near_zero", "row_spread"]].isna().all(None)
    q = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), dtype=torch.qint8)
    assert np.isfinite(ActivationStats(q).stats_by_layer(torch.randn(9, 4))["mean"]).all()
    half = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).bfloat16()
    assert np.isfinite(ActivationStats(half).stats_by_layer(torch.randn(9, 4))["mean"]).all()
    meta = ActivationStats(nn.Linear(4, 4, device="meta")).stats_by_layer(torch.randn(9, 4))
    assert "meta" in meta.reason[0] and np.isnan(meta["mean"][0])


def test_the_one_pass_gives_the_same_numbers_as_a_pass_of_its_own(count_rows):
    learn = demo_learner()
    want = ActivationStats(learn, with_hist=True).stats_by_layer()
    rode, both = ActivationStats(with_hist=True), Features()
    seen = count_rows(learn)
    p = capture(learn, observers=[rode, both], progress=False)
    table, findings = rode.stats_by_layer(), rode.findings()
    assert sum(seen) == len(p) and findings == []
    pd.testing.assert_frame_equal(table, want, rtol=1e-6)
    assert hooks(learn.model) == 1 and int(rode.sums[0].hist.sum()) > 0 # the counter's own


def test_shards_on_disk_are_merged_and_a_second_run_runs_nothing(tmp_path, count_rows):
    torch.manual_seed(0)
    x, y = torch.randn(700, 6), torch.randint(0, 3, (700,))
    learn = as_learner(nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 3)), DataLoader(TensorDataset(x, y), 50), nn.CrossEntropyLoss())
    want = ActivationStats(learn).stats_by_layer()
    a = ActivationStats(); capture(learn, observers=[a], path=tmp_path/"p", progress=False)
    seen, b = count_rows(learn), ActivationStats()
    capture(learn, observers=[b], path=tmp_path/"p", progress=False)
    assert not seen
    for s in (a, b): pd.testing.assert_frame_equal(s.stats_by_layer(), want, rtol=1e-6)
    state = _unpack_state(*_pack_state(a.state()))
    again = ActivationSums(); again.merge(state)
    pd.testing.assert_frame_equal(again.table, want, rtol=1e-6)


def train(learn, *cbs, n=1, **kw):
    with learn.no_logging(), learn.no_bar(): learn.fit(n, 1e-2, cbs=list(cbs), **kw)


def test_means_and_deviations_in_training_are_fastais():
    from fastai.callback.hook import ActivationStats as FastaiStats, flatten_model, has_params
    ours, theirs, learn = ActivationStats(), FastaiStats(with_hist=False), demo_learner("tabular")
    train(learn, ours, theirs, n=2)
    names = {m: n for n, m in learn.model.named_modules()}
    calls = [names[m] for m in flatten_model(learn.model) if has_params(m)]
    assert len(ours.stats) == len(theirs.stats) and len(calls) > 3
    for i, n in enumerate(calls):
        np.testing.assert_allclose(ours.layer_stats(n)[0], theirs.layer_stats(i)[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(ours.layer_stats(n)[1], theirs.layer_stats(i)[1], rtol=1e-4)


def test_training_records_survive_what_is_not_training():
    cb = ActivationStats(with_hist=True, every=2)
    learn = demo_learner("text"); learn.add_cb(cb)
    train(learn); n = len(cb.stats)
    assert n == (len(learn.dls.train) + 1)//2 and any("LSTM" in type(dict(learn.model.named_modules())[k.split(":")[0]]).__name__ for k in cb.layer_names)
    with learn.no_logging(), learn.no_bar():
        learn.get_preds(); learn.validate(); learn.lr_find(show_plot=False, num_it=3, suggest_funcs=None); learn.predict("a good film")
    assert len(cb.stats) == n
    capture(learn, progress=False); cb.stats_by_layer()
    assert len(cb.stats) == n and len(cb.table) >= len(cb.layer_names)
    train(learn); assert len(cb.stats) == 2*n and hooks(learn.model) == 0
    assert len(pickle.loads(pickle.dumps(cb.steps)).batches) == 2*n
    assert cb.stats[0][0]["hist"].sum() > 0 and set(cb.stats[0][0]) == {"mean", "std", "near_zero", "hist"}
    cb.plot_layer_stats(0); cb.plot_layer_stats(); hist_chart(cb)


def test_training_that_fails_or_is_cancelled_leaves_no_hooks():
    from fastai.callback.core import CancelBatchException, CancelFitException, Callback
    class Stops(Callback):
        def __init__(self, event, error): self.event, self.error = event, error
        def __call__(self, name):
            if name == self.event and self.learn.training: raise self.error
    for event in ("before_batch", "after_pred", "after_loss", "after_batch"):
        for error in (ValueError("stop"), CancelBatchException(), CancelFitException()):
            learn = demo_learner("tabular"); cb = ActivationStats()
            learn.add_cb(cb)
            try: train(learn, Stops(event, error))
            except (ValueError, CancelBatchException): pass
            assert hooks(learn.model) == 0, (event, error)


def test_each_layer_is_asked_for_no_number_while_the_batch_runs(monkeypatch):
    learn, cb = demo_learner("tabular"), ActivationStats(with_hist=True)
    asked = []
    for name in ("item", "tolist", "__float__", "__bool__", "cpu"):
        real = getattr(torch.Tensor, name)
        def f(self, *a, real=real, name=name, **k):
            if cb.steps.pending and sys_inside(): asked.append(name)
            return real(self, *a, **k)
        monkeypatch.setattr(torch.Tensor, name, f)
    train(learn, cb)
    assert not asked and len(cb.steps)


def sys_inside():
    "Whether `TrainingSteps.see` is on the stack."
    import sys
    f = sys._getframe()
    while f is not None:
        if f.f_code.co_name == "see" and f.f_code.co_filename.endswith("activations.py"): return True
        f = f.f_back
    return False


def test_views_of_the_tables():
    learn = demo_learner()
    s = ActivationStats(learn)
    t = s.channel_table(2)
    assert list(t.columns) == ["channel", "mean", "std", "near_zero", "positive", "min", "max", "dead"] and len(t) == s.table.channels[2]
    assert "<table" in s._repr_html_() and ActivationStats()._repr_html_() is None
    assert isinstance(s, types.SimpleNamespace) is False and len(s.to_dict()["calls"]) == len(s.table)


def test_each_rule_reads_only_its_columns_and_keeps_to_its_threshold():
    t = pd.DataFrame(dict(layer=list("abcd"), type="X", rows=200, channels=20, dead_fraction=[.5, .9, np.nan, 1.], saturated_fraction=[.89, .9, np.nan, 1.], not_finite=[0, 0, 3, 0],
                          mean=0., std=[1., 1e4, 1.1e4, np.nan], min=-1., max=1., row_spread=[.1, 1e-3, 9e-4, 1.]))
    assert [(f.evidence["layer"], f.severity) for f in _dead_units(t)] == [("b", "high"), ("d", "critical")]
    assert [(f.evidence["layer"], f.severity) for f in _dead_units(t.assign(rows=99))] == [("d", "critical")]
    small = t.assign(channels=4, dead_fraction=[0., .5, np.nan, 1.])
    assert [[f.severity for f in _dead_units(o)] for o in (t.assign(rows=15), small.assign(rows=99), small.assign(rows=100))] == [["info"], ["info"], ["critical"]]
    assert [f.evidence["layer"] for f in _saturated_layers(t)] == ["b"] # the last call is the output
    assert [f.evidence["layer"] for f in _not_finite_activations(t)] == ["c"]
    assert [(f.evidence["first_beyond"], f.severity) for f in _exploding_activations(t)] == [("c", "medium")] and not _exploding_activations(t.iloc[:2])
    assert [f.evidence["layer"] for f in _collapsed_layers(t)] == ["c"] and not _collapsed_layers(t.iloc[:3])


def test_charts_take_statistics_and_arrays():
    s = ActivationStats(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), with_hist=True); s.stats_by_layer(torch.randn(9, 3))
    assert _sums_of(s) is s.sums and len(_sums_of(dict(a=np.ones((2, 3))))) == 1
    ax = _draw_hists(s.sums[0].hist[:, None].numpy(), title="one")
    assert ax.get_title() == "one" and "activation" in ax.get_ylabel()
    with pytest.raises(DataError, match="with_hist=True"): hist_chart(ActivationSums().run(nn.Linear(3, 2), torch.randn(4, 3)))


def test_a_callback_knows_its_learner_after_the_fit_and_draws_its_training():
    learn, cb = demo_learner("tabular"), ActivationStats(with_hist=True)
    train(learn, cb)
    assert cb.learn is None and cb.plot_layer_stats()[0].get_xlabel() == "training batch"
    table = cb.stats_by_layer(); dead_chart(cb)
    pd.testing.assert_frame_equal(table, ActivationStats(learn).stats_by_layer())
    assert cb.plot_layer_stats()[0].get_xlabel() == hist_chart(cb)[-1].get_xlabel() == "training batch"
    again = pickle.loads(pickle.dumps(cb))
    assert len(again.steps) == len(cb.steps) and again.trained is None


def test_numbers_that_do_not_fit_are_told():
    for every in (0, -1, 2.5):
        with pytest.raises(DataError, match="whole number from 1"): ActivationStats(every=every)
    s = ActivationStats(nn.Linear(3, 2)); s.stats_by_layer(torch.randn(4, 3))
    with pytest.raises(ModelError, match="No call 99"): s.channel_table(99)
    learn, cb = demo_learner("tabular"), ActivationStats(every=np.int64(3)); train(learn, cb)
    for wrong in (99, -99, 1.5):
        with pytest.raises(DataError, match="no call"): cb.layer_stats(wrong)
    for chart in (dead_chart, hist_chart):
        with pytest.raises(DataError, match="single number"): chart(dict(a=np.float32(3)))


def test_colours_by_type_leave_the_rare_ones_grey():
    kinds = pd.Series(["A"]*3 + ["B"]*2 + ["C"])
    colors = _type_colors(kinds, 2)
    ax = _plot_by_type(plt.figure().gca(), kinds, np.arange(6), colors)
    assert list(colors) == ["A", "B"] and ax.get_legend_handles_labels()[1] == ["A", "B", "other"]
    assert [len(c.get_offsets()) for c in ax.collections] == [3, 2, 1]


def test_parts_that_compute_a_weight_are_no_calls():
    torch.manual_seed(0)
    def net(wrap): torch.manual_seed(0); return nn.Sequential(wrap(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Flatten(), wrap(nn.Linear(64, 2)))
    x = torch.randn(9, 1, 6, 6)
    plain = ActivationStats(net(lambda m: m)).stats_by_layer(x)
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        t = ActivationStats(net(wrap)).stats_by_layer(x)
        assert t.layer.tolist() == plain.layer.tolist() and t.type.tolist() == plain.type.tolist() and t["shape"].tolist() == plain["shape"].tolist()


def test_pieces_below():
    assert _first_float((None, dict(a=torch.ones(2).long(), b=[torch.zeros(3)]))).shape == (3,) and _first_float("text") is None
    net = nn.Linear(3, 2).double()
    assert [b[0].dtype for b in input_batches(net, torch.randn(70, 3))] == [torch.float64]*2
    with pytest.raises(ModelError, match="Linear fails"): run_model(net, (torch.randn(2, 5).double(),))


def test_what_other_notebooks_share():
    x = torch.randn(6, 4, 5)
    call = lambda module, dim: Call("m", "m", "M", 0, dim, module)
    assert call(nn.ReLU(), 1).samples_first(x, 6) is x
    assert call(nn.ReLU(), 1).samples_first(x, 3) is x # two rows a sample
    assert torch.equal(call(nn.LSTM(2, 2), -1).samples_first(x, 4), x.transpose(0, 1))
    assert call(nn.ReLU(), 1).samples_first(x, 5) is None
    assert torch.allclose(call(nn.ReLU(), 1).channel_means(x), x.mean(2))
    assert torch.allclose(call(nn.ReLU(), -1).channel_means(x), x.mean(1))
    v = torch.randn(5001)
    assert _square_sum(v) == pytest.approx(float((v.double()**2).sum()), rel=1e-6) and _square_sum(v[:0]) == 0
    dl = demo_learner().dls.train; state, rng = dl.rng.getstate(), dl.rng
    with kept_order(dl): next(iter(dl)); assert dl.rng is not rng
    assert dl.rng is rng and rng.getstate() == state
