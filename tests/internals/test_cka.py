"CKA against the definitions, over shuffled loaders, unlike models and odd layers."
import itertools, json
import numpy as np, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from interp_kit.core import DataError, InterpKitError, as_learner
from interp_kit.core import watching
from interp_kit.internals.cka import cka, linear_cka
from tests.helpers import needs


def fixture():
    r = np.random.RandomState(0)
    x = r.standard_normal((1000, 64)); a = r.standard_normal((64, 32)); y = x @ a + 4*r.standard_normal((1000, 32))
    return x, y, r.standard_normal((1000, 512))


def by_definition(x, y):
    "Song et al. 2012: the mean of K_ij L_ij + K_ij L_qr - 2 K_ij L_iq over all quadruples of different samples."
    K, L = x @ x.T, y @ y.T
    return np.mean([K[i, j]*(L[i, j] + L[q, r] - 2*L[i, q]) for i, j, q, r in itertools.permutations(range(len(x)), 4)])


def hsic(x, y):
    "The closed form, with the n×n matrices."
    K, L, n, one = x @ x.T, y @ y.T, len(x), np.ones(len(x))
    np.fill_diagonal(K, 0); np.fill_diagonal(L, 0)
    return (np.trace(K @ L) + one @ K @ one*(one @ L @ one)/((n - 1)*(n - 2)) - 2/(n - 2)*(one @ K @ L @ one))/(n*(n - 3))


def test_the_fixture():
    x, y, z = fixture()
    assert linear_cka(x, y) == pytest.approx(.4826906929, abs=1e-9) and linear_cka(x, y, unbiased=False) == pytest.approx(.4997028982, abs=1e-9)
    assert linear_cka(x, z) == pytest.approx(-.00054, abs=1e-5) and linear_cka(x, z, unbiased=False) == pytest.approx(.14229, abs=1e-5)
    r = np.random.RandomState(0)
    noise = [linear_cka(*r.standard_normal((2, 100, 2048))) for _ in range(6)]
    assert abs(noise[0]) < .02 and abs(np.mean(noise)) < .02 and max(np.abs(noise)) < .06 # spread .014
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12) and linear_cka(x, np.ones(1000)[:, None]) != linear_cka(x, y)
    assert np.isnan(linear_cka(x, np.full((1000, 3), .1)))


def test_the_unbiased_estimate_is_the_mean_over_quadruples():
    r = np.random.RandomState(1)
    for n in (4, 7):
        x, y = r.standard_normal((n, 3)) + 2, r.standard_normal((n, 5))
        want = by_definition(x, y)/np.sqrt(by_definition(x, x)*by_definition(y, y))
        assert linear_cka(x, y) == pytest.approx(want, rel=1e-9) and hsic(x, y) == pytest.approx(by_definition(x, y), rel=1e-9)
    big = r.standard_normal((700, 6)), r.standard_normal((700, 4)) # more than one block of rows
    big[1][:, 0] += big[0][:, 0]
    assert linear_cka(*big) == pytest.approx(hsic(*big)/np.sqrt(hsic(big[0], big[0])*hsic(big[1], big[1])), rel=1e-9)


class Net(nn.Module):
    "One ReLU on two shapes; a recurrent layer whose samples come second."
    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu, self.rnn, self.out = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3), nn.ReLU(inplace=True), nn.GRU(4, 5), nn.Linear(5, 3)
    def forward(self, x):
        x = self.relu(self.b(self.relu(self.a(x))))
        return self.out(self.rnn(x.flatten(2).permute(2, 0, 1))[0][-1])


def other(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 2))
def images(n=50, seed=0): return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + torch.linspace(0, 2, n)[:, None, None, None]


def features(model, x):
    kept = {}
    with torch.no_grad(), watching(model.eval(), lambda c, t: kept.setdefault(c.layer, t.transpose(0, 1) if c.type == "GRU" else t.clone())): model(x)
    return {k: t.double().flatten(1).numpy() for k, t in kept.items()}


def slow(a, b, batches):
    "All activations kept, every pair by itself."
    pairs = {}
    for x in batches:
        fa, fb, n = features(a, x), features(b, x), len(x)
        for k, l in itertools.product(fa, fb):
            pairs.setdefault((k, l), np.zeros(3))
            pairs[k, l] += n*(n - 3)*np.array([hsic(fa[k], fb[l]), hsic(fa[k], fa[k]), hsic(fb[l], fb[l])])
    return {k: v[0]/np.sqrt(v[1]*v[2]) for k, v in pairs.items()}


def test_every_pair_within_and_across_equals_the_slow_way():
    torch.manual_seed(0)
    a, b, x = Net(), other(), images()
    batches = [x[:16], x[16:32], x[32:47], x[47:]] # the last has 3 rows
    for second in (None, b):
        c = cka(a, second, batches)
        want = slow(a, second or a, batches[:3])
        assert (c.rows, c.batches, c.left_out) == (47, 3, 3) and "3 left out" in c.plot().get_title()
        for (k, l), v in want.items(): assert c.matrix.loc[k, l] == pytest.approx(v, abs=2e-6)
        assert list(c.matrix.index) == ["a", "relu", "b", "relu:2", "rnn", "out"] and c.matrix.size == len(want)
    assert c.matrix.to_numpy() == pytest.approx(cka(b, a, batches).matrix.to_numpy().T, abs=1e-9)


def test_minibatches_of_the_fixture():
    x, y, _ = fixture()
    class Both(nn.Module):
        def __init__(self): super().__init__(); self.x, self.y = nn.Hardtanh(-99, 99), nn.Hardtanh(-99, 99)
        def forward(self, v): return self.x(v[:, :64]), self.y(v[:, 64:])
    v = torch.tensor(np.concatenate([x, y], 1))
    for size, want in ((32, .48677), (128, .48062)):
        c = cka(Both().double(), None, DataLoader(v, size, drop_last=True))
        assert c.matrix.loc["x", "y"] == pytest.approx(want, abs=6e-6) and .005 < c.error.loc["x", "y"] < .03
    split = cka(Both().double(), None, [v]) # 1,000 rows at once, compared in parts of 250
    assert split.batches == 4 and split.matrix.loc["x", "y"] == pytest.approx(.4827, abs=.01)


def test_each_layer_equals_itself_whatever_the_order_of_the_loader():
    torch.manual_seed(0)
    a, data = Net(), TensorDataset(images(70), torch.zeros(70))
    for dl in (DataLoader(data, 16, shuffle=True), DataLoader(data, 16, shuffle=True, drop_last=True), DataLoader(data, 23, shuffle=True, generator=torch.Generator().manual_seed(1)), iter(DataLoader(data, 35, shuffle=True))):
        for second in (a, None) if hasattr(dl, "dataset") else (a,):
            assert np.diag(cka(a, second, dl).matrix) == pytest.approx(np.ones(6), abs=1e-6)
    import copy
    assert np.diag(cka(a, copy.deepcopy(a), DataLoader(data, 16, shuffle=True)).matrix) == pytest.approx(np.ones(6), abs=1e-6)


def test_as_torch_cka_with_an_ordered_loader():
    needs("torch_cka")
    from torch_cka import CKA as Peer
    torch.manual_seed(0)
    a, b, x = other(), nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4)), images(60)
    dl = DataLoader(TensorDataset(x, torch.zeros(60)), 20)
    peer = Peer(a.eval(), b.eval(), model1_layers=["1", "4"], model2_layers=["1", "3"], device="cpu")
    peer.compare(dl)
    ours = cka(a, b, dl, layers_a=["1", "4"], layers_b=["1", "3"]).matrix
    assert ours.to_numpy() == pytest.approx(peer.export()["CKA"].numpy(), abs=1e-4)


def test_modes_precisions_and_generators_are_left_alone():
    torch.manual_seed(0)
    a, b = Net().double(), other()
    b[2].eval()
    model, hook = {k: v.clone() for k, v in b.state_dict().items()}, torch.Generator().manual_seed(5)
    dl, state, rng = DataLoader(TensorDataset(images(40), torch.zeros(40)), 10, shuffle=True, generator=hook), hook.get_state(), torch.get_rng_state()
    c = cka(a, b, dl, n_batches=2)
    with pytest.raises(InterpKitError, match="Sequential fails on inputs"): cka(a, b, torch.ones(8, 3, 9, 9))
    assert c.rows == 20 and c.matrix.notna().all().all()
    assert torch.equal(hook.get_state(), state) and torch.equal(torch.get_rng_state(), rng)
    assert all(m.training for m in a.modules()) and [m.training for m in b.modules()] == [True, True, True, False, True, True]
    assert all(torch.equal(v, model[k]) for k, v in b.state_dict().items()) and not any(m._forward_hooks or m._forward_pre_hooks for o in (a, b) for m in o.modules())


def test_data_sorted_by_class_is_mixed_by_default():
    y = torch.arange(200) // 50
    x = 3*torch.nn.functional.one_hot(y, 4).float() + .3*torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    learn = as_learner(model, DataLoader(TensorDataset(x, y), 25), nn.CrossEntropyLoss())
    f = features(model, x)
    whole = linear_cka(f["0"], f["2"])
    assert cka(learn).matrix.loc["0", "2"] == pytest.approx(whole, abs=.02) and cka(learn).matrix.equals(cka(learn).matrix)
    assert cka(model, learn).rows == 200 # the data of the second, where the first has none


def test_odd_layers_are_nan_with_a_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.good, self.nan, self.same, self.table, self.low, self.some = nn.Linear(6, 5), nn.ReLU(), nn.Tanh(), nn.Linear(6, 2), nn.GELU(), nn.ReLU6()
        def forward(self, x):
            self.nan(x.log()); self.same(x*0 + .1); self.table(torch.ones(7, 6)); self.low(x.to(torch.bfloat16))
            if x[0, 0] > 0: self.some(x)
            return self.good(x)
    torch.manual_seed(0)
    x = torch.randn(20, 6); x[0, 0], x[10, 0] = 1., -1.
    c = cka(Odd(), None, [x[:10], x[10:]])
    assert c.reasons[0] == c.reasons[1] == dict(nan="values that are not finite", same="constant: samples do not differ", table="7 rows for 10 samples", some="ran in 1 of 2 batches")
    fine = ["low", "good"]
    assert c.matrix.loc[fine, fine].notna().all().all() and c.matrix.isna().to_numpy().sum() == 36 - 4
    t = c.table
    assert len(t) == 36 and t[t.cka.isna()].reason.str.len().gt(0).all() and t[t.cka.notna()].reason.eq("").all()
    json.dumps(c.to_dict(), allow_nan=False)
    assert np.isnan(cka(Odd(), None, [x[:10]]).error.loc["good", "low"])


def test_far_from_zero():
    class Far(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Hardtanh(-1e9, 1e9), nn.Hardtanh(-1e9, 1e9)
        def forward(self, x): return self.a(x + 1e4), self.b(x[:, :3])
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    assert cka(Far(), None, [x]).matrix.loc["a", "b"] == pytest.approx(linear_cka(x, x[:, :3]), abs=1e-4)


def test_pooled_features_several_inputs_and_nothing_to_compare():
    torch.manual_seed(0)
    a, x = Net(), images()
    f = features(a, x)
    c = cka(a, None, [x], features="pooled", layers_a=["a", "b"])
    assert c.matrix.loc["a", "b"] == pytest.approx(linear_cka(f["a"].reshape(50, 6, -1).mean(2), f["b"].reshape(50, 4, -1).mean(2)), abs=1e-5)
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.u, self.v = nn.Linear(3, 5), nn.Linear(4, 5)
        def forward(self, x, y): return self.u(x)*self.v(y)
    x2, y2 = torch.randn(30, 3), torch.randn(30, 4)
    assert cka(Two(), None, (x2, y2)).matrix.shape == cka(Two(), None, dict(y=y2, x=x2)).matrix.shape == (2, 2)
    with pytest.raises(DataError, match="fewer than 4 rows"): cka(a, None, DataLoader(x, 1))
    with pytest.raises(InterpKitError, match="did you mean"): cka(a, None, [x], layers_a=["relus"])
    with pytest.raises(DataError, match="brings no validation data"): cka(a)


def test_pictures_small_and_large():
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(5, 6), *[m for _ in range(78) for m in (nn.Linear(6, 6), nn.Tanh())])
    c = cka(deep, None, [torch.randn(20, 5)])
    assert c.matrix.shape == (157, 157) and c.error.isna().all().all()
    for o in (c, cka(deep, None, [torch.randn(8, 5)], layers_a=["0", "1", "2", "3", "4"])):
        ax = o.plot(); ax.figure.canvas.draw()
        assert ax.get_xlabel() and len(ax.get_xticklabels()) <= 40 and max(ax.figure.get_size_inches()) <= 12
