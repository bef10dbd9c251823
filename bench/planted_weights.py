"""Faults planted in weights: networks that were trained on digits (real ones, 8 × 8) in a fifth of a second, or are as initialised.

CASES: name -> (function(seed) -> findings, the type that must be there, types that may come along). CLEAN: name -> function(seed) -> findings above 'info' that should not be there."""
import copy
from functools import lru_cache
import torch
from torch import nn
from interp_kit.internals.weight_findings import weight_findings
from interp_kit.internals.weights import weight_table


@lru_cache
def pictures():
    from sklearn.datasets import load_digits
    d = load_digits()
    return torch.tensor(d.images, dtype=torch.float32)[:, None]/16, torch.tensor(d.target)


def fresh(seed, kind="conv", init=None):
    torch.manual_seed(seed)
    if kind == "mlp": net = nn.Sequential(nn.Flatten(), nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 60), nn.ReLU(), nn.Linear(60, 10))
    elif kind == "rnn": net = nn.Sequential(nn.Embedding(60, 30, padding_idx=0), nn.LSTM(30, 32, 2), nn.Linear(32, 3))
    elif kind == "attention": net = nn.Sequential(nn.Linear(20, 32), nn.TransformerEncoderLayer(32, 4, 64), nn.Linear(32, 2))
    else: net = nn.Sequential(nn.Conv2d(1, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32, padding=1), nn.Conv2d(32, 40, 1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 10))
    for m in net.modules():
        if init is not None and isinstance(m, (nn.Conv2d, nn.Linear)): init(m.weight)
    return net


@lru_cache(64)
@torch.enable_grad()
def _trained(seed, kind):
    net, (x, y) = fresh(seed, kind), pictures()
    opt = torch.optim.Adam(net.parameters(), 5e-3)
    g = torch.Generator().manual_seed(seed)
    for _ in range(60):
        i = torch.randint(len(x), (128,), generator=g)
        opt.zero_grad(); nn.functional.cross_entropy(net(x[i]), y[i]).backward(); opt.step()
    return net


def trained(seed, kind="conv"):
    net = copy.deepcopy(_trained(seed, kind))
    torch.manual_seed(seed + 500)
    return net


def find(net): return weight_findings(weight_table(net))


@torch.no_grad()
def not_finite(seed):
    net = trained(seed); net[2].weight.view(-1)[seed] = float("nan" if seed % 2 else "inf")
    return find(net)


@torch.no_grad()
def dead(seed):
    net = trained(seed); net[2].weight[torch.randperm(32)[:8]] *= 1e-4
    return find(net)


@torch.no_grad()
def one_zero_channel(seed):
    net = trained(seed, "mlp"); net[3].weight[seed] = 0
    return find(net)


@torch.no_grad()
def collapsed(seed):
    net = trained(seed, "mlp"); w = net[1].weight
    rows = torch.sign(torch.randn(80, 1))*(.5 + torch.rand(80, 1)) # none near 0, which would be a dead channel
    w.copy_(w.std()*rows @ torch.randn(1, 64) + .01*w)
    return find(net)


def equal_rows(seed):
    net = trained(seed, "mlp"); net[3].weight.data[:] = net[3].weight.data[:1].clone()
    return find(net)


def uncentred(seed):
    net = trained(seed); net[5].weight.data += 2*net[5].weight.data.std()
    return find(net)


def whole_model(seed): return find(fresh(seed, ("conv", "mlp", "attention")[seed % 3]))


def one_layer(seed):
    net = trained(seed, "mlp"); torch.manual_seed(seed + 1000); net[3].reset_parameters()
    return find(net)


def zeroed_layer(seed):
    net = trained(seed, "mlp"); net[3].weight.data.zero_()
    return find(net)


CASES = {
    "a NaN or an infinity in one layer": (not_finite, "not_finite_weights", {"dead_channels"}),
    "a quarter of the channels of a layer at a ten-thousandth": (dead, "dead_channels", {"untrained_layer"}),
    "one channel of a layer zeroed": (one_zero_channel, "dead_channels", set()),
    "a layer collapsed onto one direction": (collapsed, "collapsed_weights", set()),
    "all rows of a layer equal": (equal_rows, "collapsed_weights", set()),
    "an offset of two standard deviations": (uncentred, "uncentred_weights", {"collapsed_weights"}),
    "a model as initialised": (whole_model, "untrained_layer", set()),
    "a layer of zeros in a trained model": (zeroed_layer, "dead_channels", {"untrained_layer"}),
    "one layer as initialised in a trained model": (one_layer, "untrained_layer", set()),
}


def above_info(found, but=()): return [f for f in found if f.severity != "info" and f.type not in but]


def _fresh_clean(kind, init=None): return lambda seed: above_info(find(fresh(seed, kind, init)), but=("untrained_layer",))


CLEAN = {f"fresh {kind}": _fresh_clean(kind) for kind in ("mlp", "conv", "rnn", "attention")}
CLEAN |= {f"fresh conv, {init.__name__}": _fresh_clean("conv", init) for init in (nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_, nn.init.orthogonal_, nn.init.trunc_normal_)}
CLEAN |= {f"trained {kind}": (lambda seed, kind=kind: list(find(trained(seed, kind)))) for kind in ("mlp", "conv")} # no finding of any severity
