"Information flow against slow references, over odd networks and odd loaders; the network left as found."
import json, random
from dataclasses import dataclass
import numpy as np, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from interp_kit.core import DataError, InterpKitError, as_learner
from interp_kit.core import run_batches, watching
from interp_kit.internals.flow import FlowObserver, information_flow, _shuffled_loader
from interp_kit.internals.flow_findings import _flow_findings
from interp_kit.internals.ranks import _StreamedCovariance, effective_rank


def slow_rank(x):
    "The definition, on everything at once: singular values of the centred matrix."
    x = np.asarray(x, dtype=np.float64)
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = s[s > 0]/s[s > 0].sum()
    return float(np.exp(-np.sum(p*np.log(p))))


class Net(nn.Module):
    "One ReLU on tensors of three shapes."
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b, self.c, self.relu, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3), nn.Linear(9, 5), nn.ReLU(inplace=True), nn.Dropout(.5)
    def forward(self, x):
        x = self.relu(self.b(self.relu(self.bn(self.a(x)))))
        return self.relu(self.c(self.drop(x.mean((2, 3)))))


def images(n=40, seed=0): return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + torch.linspace(0, 2, n)[:, None, None, None]


def net(seed=0): torch.manual_seed(seed); return Net()


def slow_table(model, x):
    "Every activation kept as float64, then the definitions."
    kept = {}
    model = model.eval()
    with torch.no_grad(), watching(model, lambda c, t: kept.setdefault(c.layer, t.double().clone())): model(x)
    rows = {}
    for k, t in kept.items():
        a = t.numpy()
        rank = slow_rank(a.mean((2, 3)) if a.ndim == 4 else a)
        sparsity, positive = np.mean(np.abs(a) < 1e-5), np.mean(a > 0)
        ratio = rank/min(len(a) - 1, a.shape[1])
        rows[k] = dict(mean=a.mean(), std=a.std(), sparsity=sparsity, positive_ratio=positive, effective_rank=rank, rank_ratio=ratio, specialization=((1 - sparsity) + (1 - 2*abs(positive - .5)) + ratio)/3)
    return rows


@pytest.mark.parametrize("size", [1, 7, 32, 40])
def test_batches_of_any_size_give_the_definition(size):
    model, x = net(), images()
    want, t = slow_table(model, x), information_flow(model, DataLoader(x, size)).table.set_index("layer")
    assert list(t.index) == list(want) == ["a", "bn", "relu", "b", "relu:2", "c", "relu:3"]
    for k, row in want.items():
        for column, v in row.items(): assert t.loc[k, column] == pytest.approx(v, rel=2e-5 if "rank" in column or column == "specialization" else 1e-6, abs=1e-7), (k, column)
    assert (t.rank_n == 40).all() and t.rank_dim.tolist() == [6, 6, 6, 9, 9, 5, 5] and (t.reason == "").all()


@pytest.mark.parametrize("shape,scale", [((30, 200), 0.), ((200, 30), 0.), ((64, 64), 1e4), ((500, 40), 1e4)])
def test_ranks_by_gram_and_by_batches_equal_those_by_svd(shape, scale):
    r = np.random.RandomState(0)
    x = r.standard_normal(shape) @ np.diag(np.geomspace(1, .01, shape[1])) + scale
    want = slow_rank(x)
    assert effective_rank(x) == pytest.approx(want, rel=1e-6)
    assert effective_rank(np.cov(x.T), kind="covariance") == pytest.approx(want, rel=1e-4)
    for size in (1, 7, 32):
        s = _StreamedCovariance()
        for b in torch.tensor(x).split(size): s.add(b)
        assert s.effective_rank() == pytest.approx(want, rel=1e-6)


def test_a_covariance_keeps_no_more_than_channels_squared():
    s = _StreamedCovariance()
    for seed in range(50): s.add(torch.randn(100, 30, generator=torch.Generator().manual_seed(seed)))
    assert s.n == 5000 and sum(r.numel() for r in s.rows) + s.scatter.numel() <= 3*30**2


def test_mean_and_spread_far_from_zero():
    class Far(nn.Module):
        def __init__(self): super().__init__(); self.same = nn.Hardtanh(-1e9, 1e9)
        def forward(self, x): return self.same(x)
    x = torch.randn(200, 4, 5, generator=torch.Generator().manual_seed(0)) + 1e4
    for size in (1, 7, 32):
        t = information_flow(Far(), list(x.split(size))).table.iloc[0]
        var, mean = torch.var_mean(x.double(), correction=0)
        assert t["std"]**2 == pytest.approx(float(var), rel=1e-6) and t["mean"] == pytest.approx(float(mean), rel=1e-9)
        assert t.effective_rank == pytest.approx(slow_rank(x.double().mean(1)), rel=1e-5)


@dataclass
class Answer:
    logits: torch.Tensor
    extra: object = None


class Outputs(nn.Module):
    "Layers that return tuples, dicts, dataclasses, None beside a tensor, and text."
    class Pack(nn.Module):
        def __init__(self, how): super().__init__(); self.how = how
        def forward(self, x):
            return dict(tuple=lambda: (None, x*2), dict=lambda: dict(note="text", v=x*3), dataclass=lambda: Answer(x*4), text=lambda: "nothing")[self.how]()
    def __init__(self):
        super().__init__()
        self.t, self.d, self.c, self.s = (self.Pack(o) for o in ("tuple", "dict", "dataclass", "text"))
        self.rnn, self.attend, self.gru = nn.LSTM(6, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True), nn.GRU(8, 5)
    def forward(self, x):
        self.t(x); self.d(x); self.c(x); self.s(x)
        h = self.rnn(x)[0]
        h = self.attend(h, h, h, need_weights=False)[0]
        return self.gru(h.transpose(0, 1))[1]


def test_outputs_of_every_kind():
    torch.manual_seed(0)
    x = torch.randn(33, 7, 6)
    t = information_flow(Outputs(), list(x.split(10))).table.set_index("layer")
    assert list(t.index) == ["t", "d", "c", "rnn", "attend", "gru"] and (t.rank_n == 33).all() and t.effective_rank.notna().all()
    assert t.loc["d", "std"] == pytest.approx(1.5*t.loc["t", "std"], rel=1e-6) and t.loc["t", "effective_rank"] == pytest.approx(slow_rank(x.mean(1)), rel=1e-5)


class Inputs(nn.Module):
    def __init__(self): super().__init__(); self.a, self.b = nn.Linear(4, 3), nn.Embedding(10, 3)
    def forward(self, x, ids): return self.a(x)*self.b(ids)


def test_several_inputs_as_tuple_dict_and_loader():
    torch.manual_seed(0)
    model, x, ids = Inputs(), torch.randn(50, 4), torch.randint(10, (50,))
    rows = [information_flow(model, d).table for d in ((x, ids), dict(ids=ids, x=x), [dict(x=x, ids=ids, labels=ids)], DataLoader(TensorDataset(x, ids, torch.zeros(50)), 8))]
    for t in rows[1:]: assert t.effective_rank.to_numpy() == pytest.approx(rows[0].effective_rank.to_numpy(), rel=1e-6)


def test_loaders_of_every_kind():
    model, x = net(), images(41)
    want = information_flow(model, x).table
    data = TensorDataset(x, torch.zeros(41))
    for dl in (DataLoader(data, 10), DataLoader(data, 8, shuffle=True), iter(DataLoader(data, 20)), [x[:1], x[1:]]): # 10: a last batch of one
        t = information_flow(model, dl).table
        assert t.effective_rank.to_numpy() == pytest.approx(want.effective_rank.to_numpy(), rel=1e-5) and t.rank_n.eq(41).all()
    assert information_flow(model, DataLoader(data, 8, drop_last=True)).rows == 40
    with pytest.raises(DataError, match="no batches"): information_flow(model, iter(()))


def sorted_learner():
    y = torch.arange(120) // 30
    x = torch.nn.functional.one_hot(y, 4).float() + .05*torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return as_learner(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), DataLoader(TensorDataset(x, y), 10), nn.CrossEntropyLoss()), y


def test_the_first_batches_of_data_sorted_by_class_are_mixed():
    learn, y = sorted_learner()
    assert len(torch.cat([b[1] for _, b in zip(range(3), _shuffled_loader(learn, 0))]).unique()) == 4
    state = torch.get_rng_state()
    ours, first = information_flow(learn, n_batches=3), information_flow(learn, learn.dls[1], n_batches=3)
    assert torch.equal(state, torch.get_rng_state())
    assert ours.table["std"][0] > first.table["std"][0] and ours.rows == first.rows == 30
    assert information_flow(learn, n_batches=3, seed=1).table["std"][0] != ours.table["std"][0] == information_flow(learn, n_batches=3).table["std"][0]


def test_a_fastai_loader_is_mixed_and_left_alone(digits):
    state = digits.dls.valid.rng.getstate()
    rows = [torch.cat([b[1] for _, b in zip(range(2), _shuffled_loader(digits, s))]).tolist() for s in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2] and digits.dls.valid.rng.getstate() == state
    assert rows[0] != torch.cat([b[1] for _, b in zip(range(2), digits.dls.valid)]).tolist()


def test_left_as_found_also_after_a_failure():
    model = net().train()
    model.bn.eval()
    model.a.weight.requires_grad_(False)
    before, rng = {k: v.clone() for k, v in model.state_dict().items()}, (torch.get_rng_state(), random.getstate())
    information_flow(model, images())
    with pytest.raises(InterpKitError, match="fails on inputs"): information_flow(model, torch.ones(4, 5, 8, 8))
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True, True] and not model.a.weight.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and torch.equal(rng[0], torch.get_rng_state()) and rng[1] == random.getstate()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Broken(nn.Module):
    def __init__(self): super().__init__(); self.a, self.nan, self.inf, self.last = nn.Linear(4, 6), nn.Tanh(), nn.ReLU(), nn.Linear(6, 4)
    def forward(self, x):
        h = self.a(x)
        self.nan(h*np.nan); self.inf(torch.where(h > 1, np.inf, h))
        return self.last(h)


def test_values_that_are_not_finite_stay_where_they_are():
    torch.manual_seed(0)
    x = torch.randn(60, 4)
    f = information_flow(Broken(), x)
    t = f.table.set_index("layer")
    assert np.isnan(t.loc["nan", ["mean", "effective_rank", "specialization"]].astype(float)).all() and "360 values are not finite, 60 samples" in t.reason["nan"]
    assert t.rank_n["inf"] < 60 and t.effective_rank["inf"] > 1 and t.reason["a"] == t.reason["last"] == "" and t.effective_rank["last"] > 2
    json.dumps(f.to_dict(), allow_nan=False)


@pytest.mark.parametrize("make", [lambda: net().half(), lambda: net().bfloat16(), lambda: net().double()])
def test_precisions(make):
    t = information_flow(make(), images()).table
    want = information_flow(net(), images()).table
    assert t["std"].to_numpy() == pytest.approx(want["std"].to_numpy(), rel=.03) and t.effective_rank.to_numpy() == pytest.approx(want.effective_rank.to_numpy(), rel=.1)


def test_odd_layers_say_why():
    class Odd(nn.Module):
        def __init__(self): super().__init__(); self.empty, self.scalar, self.changes, self.out = nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.Linear(3, 2)
        def forward(self, x): self.empty(x[:, :0]); self.scalar(x.sum()); self.changes(x[:, :len(x)]); return self.out(x)
    x = torch.randn(5, 3)
    t = information_flow(Odd(), [x[:3], x[3:]]).table.set_index("layer")
    assert list(t.index) == ["empty", "changes", "out"] and t.reason["empty"] == "no values" and "width changed" in t.reason["changes"] and t.rank_n["out"] == 5
    meta = information_flow(nn.Sequential(nn.Linear(3, 2)).to("meta"), torch.randn(4, 3)).table
    assert "meta" in meta.reason[0] and np.isnan(meta["mean"][0])


def test_samples_in_groups_of_rows():
    class Windows(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Linear(5, 4)
        def forward(self, x): return self.w(x.reshape(-1, 2, 5)).reshape(len(x), -1)
    x = torch.randn(20, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = Windows()
    t = information_flow(model, x).table.iloc[0]
    assert t.rank_n == 20 and t.effective_rank == pytest.approx(slow_rank(model.w(x).detach().mean(1)), rel=1e-5)


def test_pictures_of_few_and_many_calls(digits):
    deep = nn.Sequential(nn.Linear(6, 8), *[m for _ in range(60) for m in (nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, 4))
    for f in (information_flow(deep, torch.randn(30, 6)), information_flow(Broken(), torch.randn(9, 4)), information_flow(digits, n_batches=1, layers=[nn.Linear])):
        axs = f.plot()
        axs[0].figure.canvas.draw()
        assert len(axs) == 4 and all(a.get_title() for a in axs) and len(axs[3].get_xticklabels()) <= 50


def test_only_the_calls_asked_for_and_no_silent_nothing():
    model = net()
    assert list(information_flow(model, images(8), layers=[nn.Conv2d]).table.layer) == ["a", "b"]
    with pytest.raises(InterpKitError, match="did you mean"): information_flow(model, images(8), layers=["relus"])
    o = FlowObserver()
    with pytest.raises(DataError, match="No call was seen"): o.result()
    assert _flow_findings(information_flow(model, images(8))) == []
