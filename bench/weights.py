"""Weights: exact spectra of ResNet-50 against NumPy's largest singular values, bounded answers for large layers, and how often noise is called structure.

CPU seconds on one thread, medians of paired alternations. The pictures go to bench/pictures/weights_*.png."""
import copy, statistics
from pathlib import Path
import numpy as np, torch
from torch import nn
from bench.measure import cpu, paired
from interp_kit.internals.matrices import _weights_of
from interp_kit.internals import noise
from interp_kit.internals.noise import _LEVEL, Spectrum, _find_spikes
from interp_kit.internals.spectra import operator_norm, _singular_values
from interp_kit.internals.weight_charts import plot_weights
from interp_kit.internals.weight_findings import weight_findings
from interp_kit.internals.weights import critical_weights, weight_table

PICTURES = Path(__file__).parent/"pictures"
FRESH = ("resnet18", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_32", "swin_t", "squeezenet1_0", "googlenet", "inception_v3", "shufflenet_v2_x1_0",
         "regnet_y_400mf", "mnasnet0_5", "resnext50_32x4d")


def torchvision_net(name, seed=0):
    import torchvision
    torch.manual_seed(seed)
    return getattr(torchvision.models, name)(**(dict(init_weights=True) if name in ("googlenet", "inception_v3") else {}))


def speed():
    net = torchvision_net("resnet50")
    blocks = [w.blocks() for w in _weights_of(net)]
    flat = [b[0].numpy() for b in blocks]
    truth = [float(torch.linalg.svdvals(b[0].double())[0]) for b in blocks]
    error = max(abs(_singular_values(b)[0]/t - 1) for b, t in zip(blocks, truth))
    numpy_error = max(abs(float(np.linalg.norm(w, 2))/t - 1) for w, t in zip(flat, truth))
    yield dict(what="all singular values of ResNet-50 (54 weights), against a loop of np.linalg.norm(W, 2)", **paired(lambda: [_singular_values(b) for b in blocks], lambda: [np.linalg.norm(w, 2) for w in flat], n=15),
               relative_error=error, relative_error_of_numpy=numpy_error)
    noise._noise_of.cache_clear()
    yield dict(what="weight_table of ResNet-50, everything", first_cpu_s=cpu(lambda: weight_table(net)), again_cpu_s=statistics.median(cpu(lambda: weight_table(net)) for _ in range(3)))
    w = torch.randn(1024, 1024)
    yield dict(what="critical_weights of 1024 × 1024, 20 rows", cpu_s=statistics.median(cpu(lambda: critical_weights(w)) for _ in range(7)), rows=len(critical_weights(w)))
    torch.manual_seed(0)
    for c in (64, 128):
        conv = nn.Conv2d(c, c, 3)
        yield dict(what=f"operator_norm of Conv2d({c}, {c}, 3) at 16 × 16", cpu_s=statistics.median(cpu(lambda: operator_norm(conv, 16)) for _ in range(3)))


def noise_called_structure(n=400):
    "Untrained matrices that have a spike, of n for each shape; once in 10,000 is the intent."
    g = np.random.default_rng(0)
    for p, q, blocks in ((1, 9, 64), (4, 3, 1), (16, 27, 1), (64, 64, 1), (64, 576, 1), (200, 300, 1), (32, 144, 4)):
        wrong = sum(_find_spikes(_singular_values(torch.from_numpy(g.standard_normal((blocks, p, q)))), p, q, blocks)[0] > 0 for _ in range(n))
        yield dict(what=f"Gaussian matrices with a spike: {blocks} of {p} × {q}", wrong=wrong, of=n, level=_LEVEL)


def fresh():
    "torchvision's networks as they are initialised."
    spiky = weights = 0
    others, said = [], []
    for name in FRESH:
        t = weight_table(torchvision_net(name, 1), null_draws=5)
        found = {f.type for f in weight_findings(t)}
        spiky += int((t.spikes > 0).sum()); weights += len(t); others += sorted(found - {"untrained_layer"}); said.append("untrained_layer" in found)
    yield dict(what=f"{len(FRESH)} networks of torchvision as initialised", weights=weights, with_spikes=spiky, other_findings=len(others), said_untrained=sum(said))


def resnet18_on_garments(steps=120):
    "A ResNet-18 trained for a minute on Fashion-MNIST at 32 pixels."
    from bench.photos import fashion
    x, y = fashion("train")
    x = nn.functional.pad(x[:20000, None].float()/255 - .286, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    net = torchvision_net("resnet18"); net.fc = nn.Linear(512, 10)
    before, opt = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 2e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        i = torch.randint(len(x), (64,), generator=g)
        opt.zero_grad(); loss = nn.functional.cross_entropy(net(x[i]), y[i]); loss.backward(); opt.step()
    return before, net, float(loss)


def trained():
    from bench.photos import lite0
    from interp_kit.demo import demo_learner
    before, net, loss = resnet18_on_garments()
    for name, model in (("ResNet-18 before training", before), ("ResNet-18 after 120 steps on Fashion-MNIST", net), ("EfficientNet-lite0, ImageNet weights", lite0()), ("the digits demo", demo_learner().model)):
        t = weight_table(model)
        yield dict(what=name, weights=len(t), with_spikes=int((t.spikes > 0).sum()), median_spike_share=float(t.spike_share.median()), tail_heavier_than_noise=int((t.alpha < t.alpha_low).sum()), median_health=float(t.health.median()),
                   findings="; ".join(str(f)[:110] for f in weight_findings(t)) or "none")
    pictures(before, net)


def pictures(before, net):
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from bench.photos import lite0
    big = weight_table(lite0())
    plot_weights(big, title="EfficientNet-lite0: 50 weights"); plt.savefig(PICTURES/"weights_lite0.png", dpi=70); plt.close()
    tables = {"ResNet-18 before": weight_table(before), "ResNet-18 after": weight_table(net), "EfficientNet-lite0": big, "ResNet-50 as initialised": weight_table(torchvision_net("resnet50"))}
    plot_weights(tables, "spectral_norm"); plt.savefig(PICTURES/"weights_models.png", dpi=70); plt.close()
    _, axs = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
    for ax, m, when in zip(axs, (before, net), ("before", "after")):
        Spectrum.of(m.layer4[0].conv2.weight.detach().flatten(1), f"layer4.0.conv2 {when}").plot(ax)
    plt.savefig(PICTURES/"weights_spectrum.png", dpi=70); plt.close()


def run():
    torch.set_num_threads(1)
    return [*speed(), *noise_called_structure(), *fresh(), *trained()]
