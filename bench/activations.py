"""Statistics of activations: what they add to the bare forward passes, their memory, and the callback against fastai's. Pictures too.

CPU seconds on one thread; ratios are medians of paired alternations. Memory is the peak of RssAnon, sampled every 5 ms, in a process of its own."""
import json, statistics, subprocess, sys
from pathlib import Path
import torch
from torch import nn
from bench.measure import cpu, paired
from interp_kit.internals.activations import ActivationStats
from interp_kit.core import run_batches

PICTURES = Path(__file__).parent/"pictures"


def resnet(n=1000, bs=32, px=64):
    from torchvision.models import resnet50
    torch.manual_seed(0)
    net, x = resnet50(weights=None).eval(), torch.randn(n, 3, px, px)
    return net, list(x.split(bs))


def speed(alternations=15):
    net, batches = resnet(2*32)
    ours = lambda: ActivationStats(net, with_hist=True).stats_by_layer(batches)
    yield dict(what=f"157 calls of a ResNet-50, {len(batches)} batches of 32 images at 64 px, with histograms, against bare forward passes", **paired(ours, lambda: run_batches(net, batches), n=alternations))


def thousand():
    "Once over 1,000 images, next to the bare passes, batch by batch in turn."
    net, batches = resnet()
    from interp_kit.internals.activation_sums import ActivationSums
    s, ours, bare = ActivationSums(), [], []
    def watched(b):
        from interp_kit.core import watching
        with torch.no_grad(), watching(net, s._see): net(b)
    def plain(b):
        with torch.no_grad(): net(b)
    plain(batches[0])
    for b in batches: bare.append(cpu(lambda: plain(b))); ours.append(cpu(lambda: watched(b)))
    return dict(what="157 calls of a ResNet-50 over 1,000 images at 64 px, against bare forward passes, batch by batch in turn", ours_s=sum(ours), other_s=sum(bare), ratio=sum(ours)/sum(bare), median_ratio=statistics.median(a/b for a, b in zip(ours, bare)), rows=s[0].sums.rows)


def memory_step(what, n):
    from bench.scale import Peak
    torch.set_num_threads(1)
    net, batches = resnet(n)
    run_batches(net, batches[:1])
    with Peak() as m:
        if what == "forward": run_batches(net, batches)
        else: ActivationStats(net, with_hist=what == "hist").stats_by_layer(batches)
    print(json.dumps(m.facts(dict(forward="bare forward passes", stats="ActivationStats", hist="ActivationStats with histograms")[what] + f", {n:,} images at 64 px, ResNet-50")))


def memory():
    for what, n in (("forward", 1000), ("stats", 192), ("stats", 1000), ("hist", 1000)):
        done = subprocess.run([sys.executable, "-W", "ignore", "-m", "bench.activations", what, str(n)], capture_output=True, text=True)
        if done.returncode: raise RuntimeError(done.stderr[-3000:])
        yield json.loads(done.stdout.splitlines()[-1])


def training(alternations=7):
    "An epoch of a small convolutional net on digits-sized images: with our callback and fastai's, both with histograms, both seeing every layer with weights."
    import fastai.callback.progress # noqa: F401  gives Learner no_bar
    from fastai.callback.hook import ActivationStats as Theirs
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.data.load import DataLoader
    torch.manual_seed(0)
    block = lambda i, o: [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
    net = nn.Sequential(*block(3, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    data = [(x, int(y)) for x, y in zip(torch.randn(512, 3, 32, 32), torch.randint(0, 10, (512,)))]
    dls = DataLoaders(DataLoader(data, bs=64), DataLoader(data[:64], bs=64))
    def epoch(make):
        learn = Learner(dls, net, nn.CrossEntropyLoss())
        with learn.no_logging(), learn.no_bar(): learn.fit(1, cbs=make())
    weights = [m for m in net if list(m.parameters())]
    both = dict(ours=lambda: [ActivationStats(with_hist=True, layers=weights)], bare=lambda: [], all=lambda: [ActivationStats(with_hist=True)], theirs=lambda: [Theirs(with_hist=True)])
    for name, a, b in (("ours with histograms, every call, against training without", "all", "bare"), ("ours with histograms, layers with weights, against training without", "ours", "bare"), ("fastai's with histograms, layers with weights, against training without", "theirs", "bare")):
        yield dict(what=f"an epoch of a small convolutional net: {name}", **paired(lambda: epoch(both[a]), lambda: epoch(both[b]), n=alternations))


def draw():
    import matplotlib; matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from interp_kit.internals.activation_charts import dead_chart, hist_chart
    def save(axs, name): fig = np.ravel(axs)[0].figure; fig.savefig(PICTURES/f"activations_{name}.png", dpi=70); plt.close(fig)
    net, batches = resnet(64)
    s = ActivationStats(net, with_hist=True); s.stats_by_layer(batches)
    save(s.plot_layer_stats(), "resnet50_stats"); save(dead_chart(s), "resnet50_dead"); save(hist_chart(s), "resnet50_hist")
    with torch.no_grad(): dict(net.named_modules())["layer3.2.bn2"].bias -= 1000
    s.stats_by_layer(batches); save(dead_chart(s), "resnet50_dead_planted")
    small = ActivationStats(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))); small.stats_by_layer(torch.randn(200, 8))
    save(small.plot_layer_stats(), "three_calls"); save(dead_chart(small, figsize=(7, 2.5)), "three_calls_dead")
    cb = watched_training()
    save(cb.plot_layer_stats(), "training"); save(cb.plot_layer_stats(2), "training_one_call"); save(cb.color_dim(2), "training_hist"); save(hist_chart(cb, figsize=(12, 7)), "training_hists")
    return dict(what="pictures", findings_of_the_planted_resnet=[str(f) for f in s.findings()])


def watched_training():
    "Fashion-MNIST, a learning rate far too large from the twentieth batch on."
    import fastai.callback.progress # noqa: F401
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from bench.real import fashion
    from functools import partial
    torch.manual_seed(0)
    x, y = fashion()
    data = list(zip(x[:4096, None].float()/255, y[:4096].long()))
    class Jump(Callback):
        def before_batch(self):
            if self.train_iter == 20 and self.training: self.opt.set_hyper("lr", 1.5)
    relu = lambda i, o: [nn.Conv2d(i, o, 3, padding=1, stride=2), nn.ReLU()]
    net = nn.Sequential(*relu(1, 16), *relu(16, 32), *relu(32, 32), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
    from fastai.optimizer import SGD
    learn = Learner(DataLoaders(DataLoader(data, bs=64, shuffle=True), DataLoader(data[:64], bs=64)), net, nn.CrossEntropyLoss(), opt_func=partial(SGD, mom=.9), lr=.1)
    cb = ActivationStats(with_hist=True)
    with learn.no_logging(), learn.no_bar(): learn.fit(1, cbs=[cb, Jump()])
    return cb


def run():
    torch.set_num_threads(1)
    return [thousand(), *speed(), *memory(), *training(), draw()]


if __name__ == "__main__": memory_step(sys.argv[1], int(sys.argv[2]))
