"Faults that the debugger and check_model must name, and sound models on which they must be silent."
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from interp_kit.core import as_learner
from interp_kit.internals.check_model import check_model
from interp_kit.internals.debug import ModelDebugger
from interp_kit.internals.gradient_findings import _freezing_findings


def data(n=64, width=8, classes=4, seed=0, image=False):
    "Rows of classes that can be told apart, with one label in ten wrong."
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    x = torch.randn(n, width, generator=g) + 1.5*torch.randn(classes, width, generator=g)[y]
    if image: x = x[:, :3, None, None] + torch.randn(n, 3, 8, 8, generator=g)
    y = torch.where(torch.rand(n, generator=g) < .1, torch.randint(0, classes, (n,), generator=g), y)
    return x, y


def learner(model, seed=0, loss=None, bs=32, y=None, image=False, n=64, vocab=True, **kw):
    x, t = data(n, seed=seed, image=image)
    learn = as_learner(model, DataLoader(TensorDataset(x, t if y is None else y(x, t)), bs, **kw), loss or nn.CrossEntropyLoss(), vocab=[f"class {i}" for i in range(4)] if vocab else None)
    return learn


def mlp(seed, depth=3, width=16, act=nn.ReLU, out=4, norm=None, last=(), std=None, x=8):
    torch.manual_seed(seed)
    layers = [m for i in range(depth - 1) for m in (nn.Linear(x if i == 0 else width, width), *([norm(width)] if norm else []), act())]
    model = nn.Sequential(*layers, nn.Linear(width, out), *last)
    if std:
        for m in model:
            if isinstance(m, nn.Linear): nn.init.normal_(m.weight, 0, std)
    return model


def cnn(seed, out=4):
    torch.manual_seed(seed)
    block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
    return nn.Sequential(nn.Sequential(block(3, 8), block(8, 8)), nn.Sequential(nn.MaxPool2d(2), block(8, 16)), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, out)))


def trained(learn, steps=60, lr=1e-2):
    opt = torch.optim.Adam(learn.model.parameters(), lr=lr)
    learn.model.train()
    for _ in range(steps):
        for x, y in learn.dls[0]: opt.zero_grad(); learn.loss_func(learn.model(x), y).backward(); opt.step()
    opt.zero_grad(); learn.model.eval()
    return learn


class Detached(nn.Module):
    "The middle layer's output is cut off its graph."
    def __init__(self, seed): super().__init__(); self.net = mlp(seed, 4)
    def forward(self, x):
        for i, m in enumerate(self.net):
            x = m(x)
            if i == 3: x = x.detach()
        return x


class Noisy(nn.Module):
    "Dropout that does not know of eval mode."
    def __init__(self, seed): super().__init__(); self.net = mlp(seed)
    def forward(self, x): return self.net(nn.functional.dropout(x, .5))


class Mixing(nn.Module):
    "Standardises by its own batch, in eval mode too."
    def __init__(self, seed): super().__init__(); self.net = mlp(seed)
    def forward(self, x): return self.net((x - x.mean(0))/(x.std(0) + 1e-3))


def dead_relu(seed, model=None):
    model = mlp(seed, 4) if model is None else model
    with torch.no_grad(): model[2].bias.fill_(-100)
    return learner(model, seed)


def grouped(seed, model=None):
    "A learner of three groups, as fastai's pretrained ones have."
    learn = learner(model or cnn(seed), seed, image=True)
    learn.splitter = lambda m: [list(part.parameters()) for part in m]
    return learn


def frozen_in_group(seed):
    learn = grouped(seed); learn.freeze_to(1); learn.unfreeze()
    learn.model[1][1][0].weight.requires_grad_(False)
    return learn


def thawed_body(seed):
    learn = grouped(seed); learn.freeze_to(2)
    learn.model[0][0][0].weight.requires_grad_(True)
    return learn


def frozen_after_trained(seed):
    learn = learner(mlp(seed, 4), seed)
    for p in learn.model[2].parameters(): p.requires_grad_(False)
    return learn


def replaced_head(seed):
    learn = grouped(seed); learn.create_opt(); learn.model[2][2] = nn.Linear(16, 4)
    return learn


def bad_weight(seed):
    model = mlp(seed)
    with torch.no_grad(): model[2].weight[3, 3] = float("nan")
    return learner(model, seed)


def flow(learn): return ModelDebugger(learn).check_gradient_flow().findings()
def dead(learn): return ModelDebugger(learn).detect_dead_neurons().findings()
def checks(learn, **kw): return check_model(learn, **kw).findings()


def multi_hot(x, t): return nn.functional.one_hot(t, 4).float()


CASES = {
    "dead ReLU layer": (lambda s: dead(dead_relu(s)), "dead_units", set()),
    "dead ReLU layer, backward": (lambda s: flow(dead_relu(s)), "zero_gradient", set()),
    "detached layer": (lambda s: flow(learner(Detached(s), s)), "zero_gradient", set()),
    "exploding init": (lambda s: flow(learner(mlp(s, 12, std=1.), s)), "exploding_gradients", set()),
    "deep net of sigmoids": (lambda s: flow(learner(mlp(s, 12, act=nn.Sigmoid), s)), "vanishing_gradients", set()),
    "frozen in a trained group": (lambda s: flow(frozen_in_group(s)), "frozen_by_mistake", set()),
    "trained in a frozen group": (lambda s: flow(thawed_body(s)), "frozen_by_mistake", set()),
    "frozen after a trained layer": (lambda s: flow(frozen_after_trained(s)), "frozen_by_mistake", set()),
    "head replaced after the optimiser was made": (lambda s: flow(replaced_head(s)), "frozen_by_mistake", set()),
    "softmax twice": (lambda s: checks(learner(mlp(s, last=[nn.Softmax(1)]), s)), "check_loss_fits", set()),
    "NLL on logits": (lambda s: checks(learner(mlp(s), s, nn.NLLLoss())), "check_loss_fits", set()),
    "sigmoid twice": (lambda s: checks(learner(mlp(s, last=[nn.Sigmoid()]), s, nn.BCEWithLogitsLoss(), y=multi_hot)), "check_loss_fits", set()),
    "ReLU before the loss": (lambda s: checks(learner(mlp(s, last=[nn.ReLU()]), s)), "check_loss_fits", set()),
    "targets broadcast": (lambda s: checks(learner(mlp(s, out=1), s, nn.MSELoss(), y=lambda x, t: x[:, 0] + 1, vocab=False)), "check_loss", {"check_overfit"}),
    "loss on other shapes": (lambda s: checks(learner(mlp(s), s, nn.BCEWithLogitsLoss())), "check_loss", {"check_shapes", "check_loss_fits"}),
    "too many outputs": (lambda s: checks(learner(mlp(s, out=7), s)), "check_shapes", set()),
    "too few outputs": (lambda s: checks(learner(mlp(s, out=3), s)), "check_shapes", {"check_loss"}),
    "BatchNorm with a batch of one": (lambda s: checks(learner(mlp(s, norm=nn.BatchNorm1d), s, bs=21)), "check_batchnorm", set()),
    "BatchNorm with batches of one": (lambda s: checks(learner(mlp(s, norm=nn.BatchNorm1d), s, bs=1)), "check_batchnorm", {"check_shapes"}),
    "outputs too large at the start": (lambda s: checks(learner(mlp(s, 3, std=3.), s)), "check_first_loss", set()),
    "layer without gradient": (lambda s: checks(learner(Detached(s), s)), "check_gradients", set()),
    "dead layer": (lambda s: checks(dead_relu(s)), "check_gradients", {"check_outputs", "check_overfit"}),
    "frozen by mistake": (lambda s: checks(frozen_after_trained(s)), "check_frozen", set()),
    "dropout in eval mode": (lambda s: checks(learner(Noisy(s), s)), "check_deterministic", {"check_independence"}),
    "rows mixed": (lambda s: checks(learner(Mixing(s), s)), "check_independence", set()),
    "NaN in a weight": (lambda s: checks(bad_weight(s)), "check_weights", {"check_outputs", "check_loss", "check_gradients", "check_overfit"}),
    "learning rate of 10": (lambda s: checks(learner(mlp(s), s), lr=10.), "check_learning_rate", {"check_overfit"}),
}


def everything(learn): return [*ModelDebugger(learn).check_gradient_flow().findings(), *dead(learn), *checks(learn)]


def freezing(seed):
    "All states that fastai's own freezing goes through."
    learn, found = grouped(seed), []
    for n in (1, 2, -1, 0): learn.freeze_to(n); found += _freezing_findings(learn)
    learn.freeze(); found += [*flow(learn), *checks(learn)]
    learn.create_opt(); found += _freezing_findings(learn)
    learn.unfreeze(); found += [*flow(learn), *checks(learn)]
    return found


def adapted(seed):
    "A frozen net with two small trained matrices beside a layer of its own, the second starting at 0."
    class Adapter(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.down, self.up = layer.requires_grad_(False), nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)
            nn.init.zeros_(self.up.weight)
        def forward(self, x): return self.layer(x) + self.up(self.down(x))
    model = mlp(seed, 5).requires_grad_(False)
    model[2] = Adapter(model[2])
    return everything(learner(model, seed))


CLEAN = {
    "net of 3 layers": lambda s: everything(learner(mlp(s), s)),
    "net of 3 layers with BatchNorm": lambda s: everything(learner(mlp(s, norm=nn.BatchNorm1d), s)),
    "net of 6 layers, tanh": lambda s: everything(learner(mlp(s, 6, act=nn.Tanh), s)),
    "net of 4 sigmoid layers": lambda s: flow(learner(mlp(s, 4, act=nn.Sigmoid), s)),
    "convolutions": lambda s: everything(learner(cnn(s), s, image=True)),
    "trained": lambda s: everything(trained(learner(mlp(s, norm=nn.BatchNorm1d), s))),
    "trained to a loss of 0": lambda s: everything(trained(learner(mlp(s, 3, 64), s), 120, 3e-2)),
    "regression": lambda s: everything(learner(mlp(s, out=1, last=[nn.Flatten(0)]), s, nn.MSELoss(), y=lambda x, t: 20*x[:, 0] + 100, vocab=False)),
    "labels": lambda s: everything(learner(mlp(s), s, nn.BCEWithLogitsLoss(), y=multi_hot)),
    "fastai's freezing": freezing,
    "adapters": adapted,
}
FEW = {name: 20 for name in CLEAN if name != "net of 4 sigmoid layers"} # a set trains a network several times; silence in 20 bounds false alarms by 14 % (95 %), 21 % (99 %)
CLEAN |= { # the rule that is a test by chance (`dead_units`) alone, in 400 sets: silence bounds false alarms by 0.8 % (95 %)
    "dead neurons, net of 3 layers": lambda s: dead(learner(mlp(s), s, n=128)),
    "dead neurons, net of 8 layers": lambda s: dead(learner(mlp(s, 8), s, n=128)),
    "dead neurons, few rows": lambda s: dead(learner(mlp(s, 4, 6), s, n=8)),
    "outputs of one row": lambda s: ModelDebugger(mlp(s, 4, 6)).analyze_layer_outputs(data(1, seed=s)[0]).findings(),
}
SETS = FEW # the others: as many as bench/planted.py says
