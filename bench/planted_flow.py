"Planted faults of information flow, which must be found, and clean networks, trained and untrained, about which nothing must be said."
import numpy as np, torch
from torch import nn
from interp_kit.internals.flow import information_flow


def digits(seed, n=200):
    "Handwritten digits of 8×8 pixels and their classes."
    from sklearn.datasets import load_digits
    x, y = load_digits(return_X_y=True)
    rows = np.random.RandomState(seed).permutation(len(x))[:n]
    return torch.as_tensor(x[rows].reshape(-1, 1, 8, 8)/8 - 1, dtype=torch.float32), torch.as_tensor(y[rows])


def mlp(seed, width=48, out=10):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def convolutional(seed, norm=True, out=10):
    torch.manual_seed(seed)
    block = lambda i, o: [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o)] if norm else []), nn.ReLU()]
    return nn.Sequential(*block(1, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, out))


class Residual(nn.Module):
    "Blocks whose branches are switched off by a zero scale at the start, as many are."
    def __init__(self, off):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16, 10)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)) for _ in range(3))
        for b in self.blocks: nn.init.constant_(b[1].weight, 0. if off else .5)
        self.act = nn.ReLU()
    def forward(self, x):
        x = self.act(self.stem(x))
        for b in self.blocks: x = self.act(x + b(x))
        return self.head(x.mean((2, 3)))


def train(net, seed, classes=10, steps=60):
    x, y = digits(seed + 1000, 256)
    opt = torch.optim.Adam(net.parameters(), 3e-3)
    net.train()
    for _ in range(steps): opt.zero_grad(); nn.functional.cross_entropy(net(x), y % classes).backward(); opt.step()
    return net.eval()


def found(net, seed, n=200): return information_flow(net, digits(seed, n)[0]).findings()


def edit(net, f):
    with torch.no_grad(): f(net)
    return net


def one_direction(layer):
    def f(net):
        w = net[layer].weight.flatten(1)
        net[layer].weight.copy_(torch.outer(torch.randn(len(w)), torch.randn(w.shape[1])).reshape(net[layer].weight.shape)*w.std())
    return f


def deep(seed):
    "Eighty linear layers without normalisation or skip connections: each stretches some directions and shrinks others."
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *[nn.Linear(16, 16, bias=False) for _ in range(80)], nn.Linear(16, 10))
    for m in net:
        if isinstance(m, nn.Linear): nn.init.normal_(m.weight, std=m.in_features**-.5)
    return net


LOW, GONE = "low_rank_layer", "collapsed_layer"
CASES = {
    "a linear layer of rank 1": (lambda s: found(edit(mlp(s), one_direction(3)), s), LOW, set()),
    "a linear layer of rank 1 in a trained network": (lambda s: found(edit(train(mlp(s), s), one_direction(3)), s), LOW, set()),
    "a convolution of rank 1": (lambda s: found(edit(convolutional(s, False), one_direction(5)), s), LOW, set()),
    "rank lost with depth": (lambda s: found(deep(s), s), LOW, set()),
    "a dead layer": (lambda s: found(edit(mlp(s), lambda n: n[3].bias.fill_(-100.)), s), GONE, set()),
    "a dead convolution": (lambda s: found(edit(convolutional(s, False), lambda n: n[2].bias.fill_(-100.)), s), GONE, set()),
    "outputs that do not depend on the input": (lambda s: found(edit(mlp(s), lambda n: n[5].weight.zero_()), s), GONE, set()),
}
CLEAN = {
    "untrained, linear": lambda s: found(mlp(s), s),
    "untrained, convolutional": lambda s: found(convolutional(s), s),
    "untrained, without normalisation": lambda s: found(convolutional(s, False), s),
    "untrained, residual": lambda s: found(Residual(False), s),
    "untrained, branches switched off": lambda s: found(Residual(True), s),
    "trained, linear": lambda s: found(train(mlp(s), s), s),
    "trained, convolutional": lambda s: found(train(convolutional(s), s, steps=30), s),
    "trained on two classes": lambda s: found(train(mlp(s, out=2), s, classes=2), s),
    "trained, few samples": lambda s: found(train(mlp(s), s), s, 20),
    "trained, four classes": lambda s: found(train(mlp(s, out=4), s, classes=4, steps=150), s),
}
