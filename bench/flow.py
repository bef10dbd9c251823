"""Information flow and CKA: what they add to a bare forward pass, their memory, and what they save against keeping every activation.

ResNet-50 (torchvision, random weights), 64 pixels, batches of 32. CPU seconds on one thread; memory is the peak of RssAnon, sampled every 5 ms, each in a process of its own."""
import json, subprocess, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from bench.measure import paired
from interp_kit.core import watching
from interp_kit.internals.cka import cka
from interp_kit.internals.flow import information_flow

PICTURES = Path(__file__).parent/"pictures"


def resnet():
    from torchvision.models import resnet50
    torch.manual_seed(0)
    return resnet50(weights=None).eval().requires_grad_(False)


class Noise:
    "n images in batches of 32, made as they are asked for, so that they take no memory."
    def __init__(self, n): self.n = n
    def __iter__(self):
        g = torch.Generator().manual_seed(0)
        for i in range(0, self.n, 32): yield torch.randn(min(32, self.n - i), 3, 64, 64, generator=g)


def bare(net, n):
    with torch.no_grad():
        for x in Noise(n): net(x)


def naive(net, n):
    "Every activation kept, then the singular values of the flattened, centred matrix of each call."
    kept, ranks = {}, {}
    with torch.no_grad(), watching(net, lambda c, x: kept.setdefault(c.layer, []).append(x.clone())):
        for x in Noise(n): net(x)
    for k, o in kept.items():
        a = torch.cat(o).flatten(1).numpy()
        s = np.linalg.svd(a - a.mean(0), compute_uv=False)
        p = s/s.sum()
        ranks[k] = float(np.exp(-(p*np.log(p + 1e-9)).sum()))
    return ranks


STEPS = {"forward": bare, "naive": naive, "flow": lambda net, n: information_flow(net, Noise(n)), "cka": lambda net, n: cka(net, None, Noise(n)),
         "flattened": lambda net, n: information_flow(net, Noise(n), rank="flattened")}


def step(name, n):
    "One run in this process, after a small one that warms up."
    from bench.scale import Peak
    torch.set_num_threads(1)
    net = resnet()
    bare(net, 32)
    if name != "naive": STEPS[name](net, 32)
    with Peak() as m: done = STEPS[name](net, n)
    row = m.facts(f"{name}, {n} images")
    if name == "naive": row["mean_rank"] = float(np.mean(list(done.values())))
    if name == "flattened": row["mean_rank"] = float(done.table.effective_rank.mean())
    if name in ("flow", "flattened"): row["calls"] = len(done.table)
    return row


def alone(name, n):
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "bench.flow", name, str(n)], capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def against_forward():
    net = resnet()
    yield dict(what="information flow with pooled ranks against forward passes, 192 images", **paired(lambda: STEPS["flow"](net, 192), lambda: bare(net, 192), n=7))
    yield dict(what="information flow with pooled ranks against forward passes, 1,000 images", **paired(lambda: STEPS["flow"](net, 1000), lambda: bare(net, 1000), n=1, warm=0))
    yield dict(what="CKA of 157 by 157 calls against forward passes, 192 images", **paired(lambda: STEPS["cka"](net, 192), lambda: bare(net, 192), n=3))


def crops(n=256, size=64):
    "Random squares of photographs."
    from bench.photos import lite0_pictures
    photos, rng = list(lite0_pictures().values()), np.random.RandomState(0)
    cut = lambda p, y, x: p[:, y:y + size, x:x + size]
    return torch.stack([cut(photos[rng.randint(len(photos))], *rng.randint(0, 112 - size, 2)) for _ in range(n)])


class Grey(nn.Module):
    "A network for colour, given grey pictures."
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x): return self.net(x.expand(-1, 3, -1, -1))


def pictures():
    import matplotlib; matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from torchvision.models import resnet18
    from interp_kit.demo import demo_learner
    def keep(ax, name): np.ravel(ax)[0].figure.savefig(PICTURES/f"flow_{name}.png", dpi=80); plt.close("all")
    learn, x = demo_learner(), crops()
    torch.manual_seed(0)
    deep = Grey(resnet18(weights=None).eval())
    keep(information_flow(resnet(), list(x.split(32))).plot(), "resnet50")
    keep(information_flow(learn).plot(), "digits")
    keep(information_flow(learn, layers=[nn.Conv2d]).plot(), "three_calls")
    keep(cka(learn).plot(), "cka_digits")
    keep(cka(learn, deep, n_batches=4, names=("digits demo, trained", "ResNet-18, untrained")).plot(), "cka_across")
    keep(cka(resnet(), None, list(x.split(64))).plot(), "cka_resnet50")
    keep(cka(learn, layers_a=[nn.Conv2d, nn.Linear], names=("digits demo",)*2).plot(), "cka_small")


def run():
    torch.set_num_threads(1)
    pictures()
    rows = list(against_forward())
    ours, kept, forward = alone("flow", 192), alone("naive", 192), alone("forward", 192)
    rows += [forward, ours, kept, alone("flattened", 192), alone("flow", 1000), alone("forward", 1000), alone("cka", 192)]
    return rows + [dict(what="keeping every activation, against pooled and streamed, 192 images", times_cpu=kept["cpu_s"]/ours["cpu_s"], times_memory=kept["added_mb"]/ours["added_mb"])]


if __name__ == "__main__": print(json.dumps(step(sys.argv[1], int(sys.argv[2]))))
