"""What watching costs a training (plot=False), and what it finds: CPU seconds of trainings in turn, one thread; precision of the ranking by area under the margin; false alarms.

The perceptron is so cheap that nearly all of its time is fastai's loop; the demo's segmentation has a net of a few thousand weights, so that its many pixels show beside it. ResNet-18 is at 64 pixels, batches of 16."""
import random, statistics, time
import numpy as np, torch
from torch import nn
from bench.planted_watch import CLEAN, Table, TableDL, digits, learner, mislabelled, ranking
from interp_kit.training.callbacks import InterpretationCallback
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner


def resnet(n=96):
    from torchvision.models import resnet18
    x, y = digits(0, n)
    x = nn.functional.interpolate(x.float().view(n, 1, 8, 8).expand(-1, 3, -1, -1), size=64)
    torch.manual_seed(0)
    dls = DataLoaders(TableDL(Table(x, y), bs=16, shuffle=True, num_workers=0), TableDL(Table(x[:32], y[:32]), bs=32, num_workers=0))
    return Learner(dls, resnet18(num_classes=10), loss_func=nn.CrossEntropyLoss())


def cnn(n=1280, valid=256):
    "Two convolutions on 8×8 digits, as in a first lesson; above 1,797 rows the digits are repeated with noise."
    x, y = digits(0, min(n, 1797))
    torch.manual_seed(0); some = torch.arange(n) % len(x)
    x, y = x[some].view(n, 1, 8, 8) + (.1*torch.randn(n, 1, 8, 8) if n > len(x) else 0), y[some]
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    dls = DataLoaders(TableDL(Table(x, y), bs=64, shuffle=True, num_workers=0), TableDL(Table(x[:valid], y[:valid]), bs=64, num_workers=0))
    return Learner(dls, net, loss_func=nn.CrossEntropyLoss())


def lraspp(n=64):
    "LR-ASPP on MobileNetV3 (Howard et al. 2019), a light network for segmentations, on scenes of digits at 144 pixels, batches of 8."
    from fastai.losses import CrossEntropyLossFlat
    from interp_kit.demo import demo_learner
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
        def forward(self, x): return self.net(x)["out"]
    rows = [demo_learner("segmentation").dls.valid_ds[i] for i in range(n)]
    larger = lambda t, mode: nn.functional.interpolate(t.float(), size=144, mode=mode)
    x, y = larger(torch.stack([torch.as_tensor(np.asarray(a)).permute(2, 0, 1) for a, _ in rows]), "bilinear")/255, larger(torch.stack([torch.as_tensor(np.asarray(b)) for _, b in rows])[:, None], "nearest")[:, 0].long()
    torch.manual_seed(0)
    dls = DataLoaders(TableDL(Table(x, y), bs=8, shuffle=True, num_workers=0), TableDL(Table(x[:16], y[:16]), bs=8, num_workers=0))
    return Learner(dls, Net(), loss_func=CrossEntropyLossFlat(axis=1))


def mlp(n=1280):
    x, y = digits(0, n)
    return learner(x, y, 0, x[:256], y[:256])


def clock(n=10_000):
    "CPU seconds between two looks at the clock with nothing between them."
    return statistics.median(-time.process_time() + time.process_time() for _ in range(n))


class Timed(InterpretationCallback):
    "Adds up the CPU seconds that it takes itself, those of looking at the clock too."
    spent, events = 0., 0
    def __call__(self, event_name):
        t = time.process_time()
        try: super().__call__(event_name)
        finally: Timed.spent += time.process_time() - t; Timed.events += 1


class Empty(Callback):
    "A callback that does nothing, at the same place."
    order = InterpretationCallback.order
    def __init__(self, **kwargs): pass


def fit(learn, on, epochs, kind=InterpretationCallback):
    cbs = [] if on is None else [kind(on=on, plot=False)]
    t = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-3, cbs=cbs)
    return time.process_time() - t


def inside(learn, on, epochs, n=3):
    "Share of the time of a watched training that is spent in the callback: the ratio again, without the noise of comparing two trainings. Does not count noting the order of a sweep."
    shares, look = [], clock()
    for _ in range(n):
        Timed.spent, Timed.events = 0., 0
        rest = fit(learn, on, epochs, Timed) - Timed.spent - Timed.events*look # each event looks twice: once within what is counted, once beside it
        shares.append((Timed.spent - Timed.events*look)/rest)
    return statistics.median(shares)


def cost(make, on, epochs, n):
    "Ratios of the median times of `n` trainings each: watched, and with a callback that does nothing, against plain; in turn, in random order."
    learn, rows = make(), []
    learn.model.register_forward_hook(lambda m, x, out: rows.append(len(x[0])))
    kinds = dict(plain=lambda: fit(learn, None, epochs), empty=lambda: fit(learn, "", epochs, Empty), ours=lambda: fit(learn, on, epochs))
    for f in kinds.values(): f()
    spent, seen, order = {k: [] for k in kinds}, set(), random.Random(0)
    for _ in range(n):
        for k in order.sample(sorted(kinds), len(kinds)): rows.clear(); spent[k].append(kinds[k]()); seen.add(tuple(rows))
    if len(seen) != 1: raise AssertionError("watching runs the model on other rows")
    plain, empty, ours = (statistics.median(spent[k]) for k in ("plain", "empty", "ours"))
    return dict(inside=inside(learn, on, epochs, 5), ratio=ours/plain, ratio_of_an_empty_callback=empty/plain, ratio_of_fastest=min(spent["ours"])/min(spent["plain"]), ms_a_batch=1000*plain/epochs/(len(learn.dls.train) + len(learn.dls.valid)), trainings=n)


def trainings():
    "(name, maker of a Learner, epochs, trainings of each kind)"
    from bench.features import titanic, titanic_learner
    from interp_kit.demo import demo_learner
    yield "ResNet-18, 64 px, batches of 16", resnet, 1, 5
    yield "two convolutions on 8×8 digits, 12,800 rows and 2,560 of validation, batches of 64", lambda: cnn(12800, 2560), 2, 7
    yield "the same net, 1,280 rows and 256 of validation", cnn, 8, 13
    yield "64-64-10 perceptron, batches of 64", mlp, 12, 21
    for task, epochs, n in (("classification", 2, 5), ("tabular", 12, 21), ("tabular_regression", 12, 9), ("multilabel", 1, 5), ("segmentation", 1, 5)): yield f"demo learner, {task}", lambda: demo_learner(task), epochs, n
    yield "LR-ASPP segmenting scenes of 144 px, batches of 8", lraspp, 1, 5
    if titanic() is not None: yield "Titanic, fastai's tabular learner", lambda: titanic_learner(titanic())[0], 4, 9


def costs():
    for name, make, epochs, n in trainings():
        for on in ("valid", "both"): yield dict(what=f"training watched (on={on!r}, plot=False) against plain: {name}", **cost(make, on, epochs, n))


def found(seeds=20):
    "Planted 5 % of wrong labels among 1,797 digits."
    at, named, recall = [], [], []
    for s in range(seeds):
        cb, bad = mislabelled(s)
        at.append(ranking(cb.cartography(), bad))
        f = next((f for f in cb.findings() if f.type == "mislabelled_rows"), None)
        named.append(np.nan if f is None else np.isin(f.rows, bad).mean()); recall.append(0. if f is None else np.isin(bad, f.rows).mean())
    return dict(what=f"5 % wrong labels among 1,797 digits, {seeds} seeds", precision_at_recall_half_worst=min(at), precision_at_recall_half_mean=float(np.mean(at)),
                found=int(np.isfinite(named).sum()), precision_of_rows_named_worst=float(np.nanmin(named)), precision_of_rows_named_mean=float(np.nanmean(named)), recall_of_rows_named_mean=float(np.mean(recall)))


def silent(seeds=31):
    "False alarms over sound trainings; at most 5 % is the bound, with 400 of them."
    from scipy.stats import beta
    n, alarms = 0, []
    for name, f in CLEAN.items():
        for s in range(seeds): n += 1; alarms += [name] if any(x.severity != "info" for x in f(s)) else []
    return dict(what=f"sound trainings, {len(CLEAN)} kinds", trainings=n, false_alarms=len(alarms), rate=len(alarms)/n, upper_99=float(beta.ppf(.99, len(alarms) + 1, n - len(alarms))), kinds=", ".join(sorted(set(alarms))))


def run():
    torch.set_num_threads(1)
    return [*costs(), found(), silent()]
