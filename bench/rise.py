"""RISE: what it adds to the bare forward passes, its masks against other implementations', and its memory.

CPU seconds on one thread, medians of paired alternations; memory is the peak of RssAnon, sampled every 5 ms, in a process of its own."""
import json, statistics, subprocess, sys
import numpy as np, torch
from torch import nn
from bench.measure import cpu, paired
from interp_kit.attribution.rise import (
    RISE, _MaskSource as MaskSource, _MaskSums as MaskSums, _build_masks as build_masks,
    _mask_weights as mask_weights)


def resnet():
    from torchvision.models import resnet18
    torch.manual_seed(0)
    return resnet18().eval().requires_grad_(False)


def cheap():
    "A network with next to no cost and the same images."
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 1000)).eval().requires_grad_(False)


def whole(n=32, bs=16, alternations=15):
    "RISE of n masks against n bare forward passes of the same batches, on ResNet-18 at 224 pixels."
    net, x = resnet(), torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(0))
    batch = x.expand(bs, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    def bare():
        with torch.no_grad():
            for _ in range(n//bs): net(batch)
    rows = []
    for what, targets in (("the predicted class", None), ("all 1,000 classes", "all")):
        explain = lambda: RISE(net, n_masks=n, batch_size=bs).explain(x, targets)
        rows.append(dict(what=f"RISE, {n} masks, {what}, against as many bare forward passes (ResNet-18, 224 px, batches of {bs}, channels last)", **paired(explain, bare, n=alternations if targets is None else 3)))
    return rows


def own(n=256, bs=16):
    "CPU ms a mask of what RISE does beside the model, at 224 pixels."
    w, x = mask_weights(224, 7), torch.randn(3, 224, 224)
    for k in (1, 20, 1000):
        scores = torch.rand(bs, k)
        def make():
            s = MaskSource((7, 7), (8, 8))
            for _ in range(n//bs): build_masks(*s.take(bs), w, w)
        def hide():
            m = build_masks(*MaskSource((7, 7), (8, 8)).take(bs), w, w)
            out = torch.empty((bs, 3, 224, 224), memory_format=torch.channels_last)
            for _ in range(n//bs): torch.mul(x[None], m[:, None], out=out)
        def add():
            s, sums = MaskSource((7, 7), (8, 8)).take(bs), MaskSums(k, w, w)
            for _ in range(n//bs): sums.add(scores, *s)
        for name, f in (("masks", make), ("masking", hide)) if k == 1 else (): yield name, statistics.median(cpu(f) for _ in range(7))/n*1000
        yield f"sums of {k} classes", statistics.median(cpu(add) for _ in range(7))/n*1000
        sums = MaskSums(k, w, w); sums.add(scores, *MaskSource((7, 7), (8, 8)).take(bs))
        yield f"enlarging the sums of {k} classes, once", statistics.median(cpu(lambda: sums.maps("centred", .5)) for _ in range(3))*1000


def eclique_masks(n, s=7, p=.5, size=224):
    "Masks as the paper's authors make them, with scikit-image."
    from skimage.transform import resize
    side = int(np.ceil(size/s)); up = (s + 1)*side
    grid = (np.random.rand(n, s, s) < p).astype("float32")
    masks = np.empty((n, size, size))
    for i in range(n):
        y, x = np.random.randint(0, side, 2)
        masks[i] = resize(grid[i], (up, up), order=1, mode="reflect", anti_aliasing=False)[y:y + size, x:x + size]
    return masks


def peers(n=64):
    from xaitk_saliency.impls.perturb_image.rise import RISEGrid
    w, image = mask_weights(224, 7), np.zeros((224, 224, 3), np.uint8)
    def ours():
        s = MaskSource((7, 7), (8, 8))
        for _ in range(n//16): build_masks(*s.take(16), w, w)
    def interpolate():
        g = (torch.rand(n, 1, 7, 7) < .5).float()
        for i in range(0, n, 16): torch.nn.functional.interpolate(g[i:i + 16], size=256, mode="bilinear", align_corners=False)[..., 5:229, 9:233].contiguous()
    for name, f in (("eclique/RISE's code (scikit-image)", lambda: eclique_masks(n)), ("xaitk RISEGrid", lambda: RISEGrid(n=n, s=7, p1=.5, seed=0, threads=0).perturb(image)), ("torch interpolate and crop", interpolate)):
        m = paired(ours, f, n=15)
        yield dict(what=f"masks at 224 px against {name}", ours_ms=m["ours_s"]/n*1000, other_ms=m["other_s"]/n*1000, ratio=m["ratio"], alternations=15)


def memory_step(net, n, targets, size):
    from bench.scale import Peak
    torch.set_num_threads(1)
    model, x = dict(resnet=resnet, cheap=cheap)[net](), torch.randn(3, size, size)
    with torch.no_grad(): model(x[None])
    with Peak() as m: a = RISE(model, n_masks=n).explain(x, None if targets == "one" else "all")
    return m.facts(f"RISE, {n:,} masks, {'the predicted class' if targets == 'one' else f'all {len(a):,} classes, whose maps alone are {a.values.nbytes/2**20:.0f} MB'}, {size} px, "
                   f"{'ResNet-18' if net == 'resnet' else 'a network of next to no cost'}", batch=a.meta["batch_size"], arithmetic_of_all_masks_mb=round(n*size*size*4/2**20))


def memory():
    for args in (("cheap", 4000, "one", 224), ("cheap", 4000, "all", 224), ("resnet", 64, "one", 224), ("resnet", 6, "one", 900)):
        done = subprocess.run([sys.executable, "-W", "ignore", "-m", "bench.rise", *map(str, args)], capture_output=True, text=True)
        if done.returncode: raise RuntimeError(done.stderr[-3000:])
        yield json.loads(done.stdout.splitlines()[-1])


def run():
    torch.set_num_threads(1)
    rows = whole()
    rows += [dict(what=f"RISE at 224 px: {name}", cpu_ms=v) for name, v in own()]
    rows += list(peers())
    return rows + list(memory())


if __name__ == "__main__":
    net, n, targets, size = sys.argv[1:]
    print(json.dumps(memory_step(net, int(n), targets, int(size))))
