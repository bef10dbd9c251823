"""Faults planted in activations, and sound networks, untrained and trained, on few rows and on many.

CASES: name -> (function(seed) -> findings, the type that must be there, types that may come along). CLEAN: name -> function(seed) -> findings, none above 'info' wanted."""
import torch
from torch import nn
from interp_kit.internals.activations import ActivationStats


def chain(act=nn.ReLU, widths=(12, 48, 48, 48), n_out=4, gain=None):
    net = nn.Sequential(*[m for i, o in zip(widths, widths[1:]) for m in (nn.Linear(i, o), act())], nn.Linear(widths[-1], n_out))
    if gain is not None:
        for m in net:
            if isinstance(m, nn.Linear): nn.init.kaiming_normal_(m.weight); nn.init.zeros_(m.bias)
        for m in net[:-1]:
            if isinstance(m, nn.Linear): m.weight.data *= gain
    return net


def convs(norm=True):
    block = lambda i, o: [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o)] if norm else []), nn.ReLU()]
    return nn.Sequential(*block(1, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


def rows(n, *shape): return torch.randn(n, *(shape or (12,)))


def fit(net, x, steps=40, lr=1e-2):
    "A short training on labels that a random linear map gives."
    y = (x.flatten(1) @ torch.randn(x[0].numel(), 4)).argmax(1)
    opt = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps): opt.zero_grad(); nn.functional.cross_entropy(net(x), y).backward(); opt.step()
    return net.eval()


def found(net, x):
    s = ActivationStats(net); s.stats_by_layer(x)
    return s.findings()


@torch.no_grad()
def dead_relu(seed):
    torch.manual_seed(seed); net = chain()
    net[2].bias -= 30
    return found(net, rows(256))


def dead_half_after_a_step(seed):
    "A step with far too large a learning rate, as it happens in training, pushes most units below zero."
    torch.manual_seed(seed); net, x = chain(), rows(256)
    with torch.no_grad(): net[2].bias[:44] -= 30 + 10*torch.rand(44)
    return found(net, x)


@torch.no_grad()
def dead_convolution(seed):
    torch.manual_seed(seed); net = convs()
    net[4].bias -= 100 # of the second batch norm
    return found(net, rows(128, 1, 12, 12))


@torch.no_grad()
def saturated_tanh(seed):
    torch.manual_seed(seed); net = chain(nn.Tanh)
    net[2].weight *= 500
    return found(net, rows(256))


@torch.no_grad()
def saturated_sigmoid_by_its_bias(seed):
    torch.manual_seed(seed); net = chain(nn.Sigmoid)
    net[2].bias += 20
    return found(net, rows(256))


def exploding_init(seed):
    torch.manual_seed(seed); return found(chain(widths=(12, *[48]*8), gain=6.), rows(256))


@torch.no_grad()
def nan_weight(seed):
    torch.manual_seed(seed); net = chain()
    net[2].weight[5, 7] = float("nan")
    return found(net, rows(256))


@torch.no_grad()
def collapse(seed):
    torch.manual_seed(seed); net = chain()
    net[2].weight *= 1e-6
    return found(net, rows(256))


CASES = dict(
    dead_relu=(dead_relu, "dead_units", set()), most_units_dead=(dead_half_after_a_step, "dead_units", set()), dead_convolution=(dead_convolution, "dead_units", set()),
    saturated_tanh=(saturated_tanh, "saturated_layer", set()), saturated_sigmoid_by_its_bias=(saturated_sigmoid_by_its_bias, "saturated_layer", set()),
    exploding_init=(exploding_init, "exploding_activations", set()), nan_weight=(nan_weight, "not_finite_activations", set()), collapse=(collapse, "collapsed_layer", set()))


def untrained(make, *shape):
    def f(seed):
        torch.manual_seed(seed); net = make()
        n = (1, 3, 16, 128, 300)[seed % 5]
        return found(net, rows(n, *shape))
    return f


def trained(make, *shape, n=128):
    def f(seed):
        torch.manual_seed(seed); x = rows(n, *shape)
        return found(fit(make(), x), x)
    return f


CLEAN = dict(
    untrained_relu=untrained(chain), untrained_small=untrained(lambda: chain(widths=(12, 16, 16))), untrained_deep_kaiming=untrained(lambda: chain(widths=(12, *[40]*12), gain=1.)),
    untrained_tanh=untrained(lambda: chain(nn.Tanh)), untrained_gelu=untrained(lambda: chain(nn.GELU)), untrained_convs=untrained(convs, 1, 8, 8), untrained_convs_without_norm=untrained(lambda: convs(False), 1, 8, 8),
    trained_relu=trained(chain), trained_tanh=trained(lambda: chain(nn.Tanh)), trained_convs=trained(convs, 1, 8, 8, n=64))


def run(seeds=20, sets=400):
    res = []
    for name, (f, wanted, along) in CASES.items():
        types = [{o.type for o in f(s) if o.severity != "info"} for s in range(seeds)]
        res.append(dict(what=f"planted: {name}", found=sum(wanted in t for t in types), of=seeds, with_others=sum(bool(t - {wanted} - along) for t in types)))
    for name, f in CLEAN.items():
        n = sets if name.startswith("untrained") else max(20, sets//10)
        loud = [s for s in range(n) if any(o.severity != "info" for o in f(s))]
        res.append(dict(what=f"clean: {name}", false_alarms=len(loud), of=n))
    return res


if __name__ == "__main__":
    torch.set_num_threads(1)
    for r in run(): print(r, flush=True)
