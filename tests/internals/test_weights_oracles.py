"Numbers of weights against NumPy, SciPy, WeightWatcher, and published tables of them."
import numpy as np, pytest, torch
from scipy import stats
from torch import nn
from tests.helpers import needs
from interp_kit.internals.matrices import _as_blocks, _weights_of
from interp_kit.internals.noise import _find_spikes, _fit_power_law
from interp_kit.internals.spectra import entropy_rank, _gini, operator_norm, _singular_values
from interp_kit.internals.weights import critical_weights, _weight_moments, weight_quantiles, weight_table


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def layers():
    torch.manual_seed(0)
    for c in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        for groups in (1, 3): yield c(6, 9, 3, groups=groups, bias=False)
    yield nn.Conv2d(8, 8, 3, groups=8)
    yield nn.Conv2d(5, 40, 1)
    yield nn.Linear(7, 30)
    yield nn.Linear(30, 7)
    yield nn.Embedding(20, 6)
    yield nn.Bilinear(3, 4, 5)


def literal_matrix(layer):
    "Rows: output channels; one column for each value of a patch, channel by channel; 0 where a group does not look."
    w = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.Embedding): return w.T
    if isinstance(layer, nn.Bilinear): return w.reshape(len(w), -1)
    if w.ndim == 2: return w
    g, taps = layer.groups, int(np.prod(layer.kernel_size))
    res = np.zeros((layer.out_channels, layer.in_channels*taps))
    per_out, per_in = layer.out_channels//g, layer.in_channels//g
    for o in range(layer.out_channels):
        for i in range(layer.in_channels):
            if o//per_out != i//per_in: continue
            kernel = w[i, o % per_out] if layer.transposed else w[o, i % per_in]
            res[o, i*taps:(i + 1)*taps] = kernel.ravel()
    return res


@pytest.mark.parametrize("layer", layers(), ids=str)
def test_spectra_equal_the_decomposition_of_the_laid_out_matrix(layer):
    s = np.linalg.svd(literal_matrix(layer), compute_uv=False)
    ours = _singular_values(_weights_of(layer)[0].blocks())
    np.testing.assert_allclose(ours, s[:len(ours)], rtol=0, atol=1e-9*s[0])
    assert (s[len(ours):] < 1e-12*s[0]).all()
    row = weight_table(layer, null_draws=2).iloc[0]
    np.testing.assert_allclose(row.spectral_norm, s[0], rtol=1e-9)
    np.testing.assert_allclose(row.stable_rank, (s**2).sum()/s[0]**2, rtol=1e-9)


def test_columns_equal_numpy_and_scipy():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 40), nn.Conv1d(4, 30, 9))
    for (_, r), layer in zip(weight_table(net, null_draws=2).iterrows(), net):
        w = layer.weight.detach().double().numpy().ravel()
        want = dict(l1=abs(w).sum(), l2=np.linalg.norm(w), rms=np.sqrt((w**2).mean()), max=abs(w).max(), mean=w.mean(), std=w.std(), skew=stats.skew(w), kurtosis=stats.kurtosis(w),
                    sparsity=(abs(w) < 1e-3*np.sqrt((w**2).mean())).mean(), zeros=0, n=w.size)
        for k, v in want.items(): np.testing.assert_allclose(r[k], v, rtol=1e-9, atol=1e-12, err_msg=k)
        np.testing.assert_allclose(r["median"], np.median(w), rtol=1e-6)
        s = np.linalg.svd(w.reshape(len(layer.weight), -1), compute_uv=False); p = s/s.sum()
        np.testing.assert_allclose(r.entropy_rank, np.exp(stats.entropy(p)), rtol=1e-9)
        e = np.sort(s**2); np.testing.assert_allclose(r.gini, abs(e[:, None] - e).mean()/(2*e.mean()), rtol=1e-9)


def test_seeded_resnet50_gives_the_numbers_of_a_64_bit_decomposition():
    resnet50 = pytest.importorskip("torchvision.models").resnet50
    torch.manual_seed(0)
    state = resnet50().state_dict()
    want = {"conv1.weight": (188.025104, 2.431423, .504200, 23.254915, 59.9343, 2.147099e-2, -6.546920e-4),
            "layer4.2.conv3.weight": (26139.889554, 31.996106, 2.120962, 227.577098, 494.7453, -4.733194e-3, -1.515077e-3),
            "fc.weight": (22625.478703, 18.253855, .980160, 346.828805, 927.9376, -1.665421e-3, -1.199836)}
    t = weight_table({k: state[k] for k in want}, null_draws=2).set_index("name")
    for name, (l1, l2, sigma, stable, entropy, skew, kurt) in want.items():
        r = t.loc[name]
        np.testing.assert_allclose([r.l1, r.l2, r.spectral_norm, r.stable_rank, r.entropy_rank], [l1, l2, sigma, stable, entropy], rtol=1.2e-6)
        np.testing.assert_allclose([r["skew"], r["kurtosis"]], [skew, kurt], rtol=0, atol=6e-7) # the table has seven digits
        w = state[name].double().numpy().ravel(); s = np.linalg.svd(w.reshape(len(state[name]), -1), compute_uv=False) if name != "fc.weight" else None
        np.testing.assert_allclose([r["skew"], r["kurtosis"]], [stats.skew(w), stats.kurtosis(w)], rtol=0, atol=1e-9)
        if s is not None: np.testing.assert_allclose([r.spectral_norm, r.stable_rank], [s[0], (s**2).sum()/s[0]**2], rtol=1e-9)


def planted(alpha):
    r = np.random.RandomState(0)
    lam = (1 - r.random_sample(500))**(-1/(alpha - 1))
    u, v = np.linalg.qr(r.standard_normal((500, 500)))[0], np.linalg.qr(r.standard_normal((800, 500)))[0]
    return torch.from_numpy((u*np.sqrt(lam)) @ v.T).float()


TABLE = {2: (1.98588, 1.02109, 4.44039, 2.93817), 2.5: (2.47882, 1.01401, 15.50415, 1.95878), 3: (2.97176, 1.01049, 33.71293, 1.46909), 4: (3.95764, 1.00698, 78.84795, .97939),
         6: (5.92940, 1.00418, 161.88991, .58763)}


@pytest.mark.parametrize("true", TABLE)
def test_planted_power_laws_come_back_as_weightwatcher_has_them(true):
    alpha, xmin, stable, log_norm = TABLE[true]
    r = weight_table({"w": planted(true)}, null_draws=2).iloc[0]
    np.testing.assert_allclose([r.alpha, r.xmin, r.D], [alpha, xmin, .02887], atol=1e-4, rtol=0)
    assert r.n_tail == 487
    np.testing.assert_allclose([r.stable_rank, 2*np.log10(r.spectral_norm)], [stable, log_norm], rtol=2e-5)


def weightwatcher_fit():
    "WeightWatcher's fit, without running its package's __init__, which wants packages that the fit does not."
    import importlib.util, sys, types
    stub = types.ModuleType("weightwatcher"); stub.__path__ = list(importlib.util.find_spec("weightwatcher").submodule_search_locations)
    had = {k: v for k, v in sys.modules.items() if k.split(".")[0] == "weightwatcher"}
    sys.modules["weightwatcher"] = stub
    try: return importlib.import_module("weightwatcher.WW_powerlaw").WWFit
    finally:
        for k in [k for k in sys.modules if k.split(".")[0] == "weightwatcher"]: del sys.modules[k]
        sys.modules.update(had)


def test_power_law_fit_is_weightwatchers_on_any_spectrum():
    needs("weightwatcher", "powerlaw")
    WWFit = weightwatcher_fit()
    rng = np.random.default_rng(0)
    for x in (rng.lognormal(size=300), rng.pareto(2., 80) + 1, rng.exponential(size=57), np.linalg.eigvalsh(np.cov(rng.standard_normal((40, 200)))), rng.random(20)):
        theirs, ours = WWFit(x), _fit_power_law(x)
        np.testing.assert_allclose([ours.alpha, ours.xmin, ours.D], [theirs.alpha, theirs.xmin, theirs.D], rtol=1e-9)
        assert ours.n_tail == len(theirs.data)


def test_gaussian_matrix_has_no_spikes_and_says_so():
    torch.manual_seed(0)
    r = weight_table({"w": torch.randn(500, 1000)}).iloc[0]
    np.testing.assert_allclose([r.spectral_norm**2, r.stable_rank], [2863.189, 174.9827], rtol=1e-6)
    assert r.spikes == 0 and r.structure == "none above noise" and r.looks_like == "normal" and r.alpha_low <= r.alpha <= r.alpha_high


def test_untrained_matrices_of_any_shape_have_no_spikes():
    torch.manual_seed(0)
    draws = [nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_, nn.init.trunc_normal_, nn.init.orthogonal_]
    found = [_find_spikes(_singular_values(init(torch.empty(p, n))), p, n)[0] > 0 for p, n in ((2, 2), (3, 50), (16, 27), (32, 32), (10, 300), (64, 144)) for init in draws for _ in range(15)]
    assert sum(found) <= 2, f"{sum(found)} of {len(found)}"


def test_spikes_are_those_planted():
    torch.manual_seed(0)
    for k in (1, 4, 9):
        q, r = torch.linalg.qr(torch.randn(100, k))[0], torch.linalg.qr(torch.randn(250, k))[0]
        w = torch.randn(100, 250) + (q*torch.linspace(45, 400, k)) @ r.T
        assert _find_spikes(_singular_values(w), 100, 250)[0] == k


def test_gini_of_uniform_and_one_hot():
    assert abs(_gini(np.ones(100))) < 1e-12 and abs(_gini(np.eye(100)[3]) - .99) < 1e-12 and entropy_rank(np.eye(100)[3]) == 1


def test_operator_norm_of_the_seeded_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, bias=False)
    assert abs(operator_norm(conv, 16) - 1.152274) < 1e-5
    k = np.fft.fft2(conv.weight.detach().double().numpy(), (16, 16)).transpose(2, 3, 0, 1) # the formula of the paper
    assert abs(operator_norm(conv, 16) - np.linalg.norm(k, 2, axis=(2, 3)).max()) < 1e-9
    t = weight_table(conv, operator_size=16, null_draws=2).iloc[0]
    np.testing.assert_allclose([t.operator_norm, t.spectral_norm], [1.152274, .748935], atol=1e-5)


def test_operator_norm_beyond_the_stride_is_a_reason_and_stops_nothing():
    t = weight_table(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3), nn.Embedding(5, 4)), operator_size=7, null_draws=2)
    assert t.operator_norm.isna().tolist() == [True, False, True] and "does not divide" in t.reason[0]


def test_large_sides_still_give_the_exact_norm():
    torch.manual_seed(0)
    w = torch.randn(90, 70)
    r = weight_table({"w": w}, max_side=32).iloc[0]
    np.testing.assert_allclose([r.spectral_norm, r.stable_rank], [np.linalg.norm(w.double().numpy(), 2), float(w.double().square().sum())/np.linalg.norm(w.double().numpy(), 2)**2], rtol=1e-9)
    assert np.isnan(r.alpha) and "max_side=32" in r.reason


def test_critical_weights_are_those_of_a_full_decomposition():
    torch.manual_seed(0)
    for w, kw in ((torch.randn(80, 300), {}), (torch.randn(12, 4, 3), dict(groups=3)), (torch.randn(6, 4, 2, 2), dict(groups=2, out_dim=1))):
        blocks = _as_blocks(w, kw.get("groups", 1), kw.get("out_dim", 0)).double()
        m = torch.block_diag(*blocks).numpy()
        u, s, v = np.linalg.svd(m, full_matrices=False)
        share = m*((u[:, :3]*s[:3]) @ v[:3])/(s[:3]**2).sum()
        found = critical_weights(w, 10, **kw)
        np.testing.assert_allclose(found.share, np.sort(share.ravel())[::-1][:10], rtol=1e-7)
        assert all(w[i].item() == v for i, v in zip(found["index"], found["value"])) and len(found) == 10


def test_quantiles_and_moments_of_known_distributions():
    torch.manual_seed(0)
    v = weight_quantiles({"a": torch.randn(400, 300)*.03, "b": torch.rand(9, 9).double()}, (.05, .5))
    np.testing.assert_allclose(v.loc["a"].astype(float), [0, np.log10(.03), -1.645, 0], atol=.02)
    assert v.loc["b", "depth"] == 1
    m = _weight_moments(torch.tensor([1., -1., 3., 0.])); assert (m["l1"], m["max"], m["median"], m["zeros"]) == (5, 3, .5, .25)
