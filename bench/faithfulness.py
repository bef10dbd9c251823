"""Methods judged on a small CNN of Fashion-MNIST (40 test images) and on the demo learner of 2×2 collages (40 images with known boxes), each beside random and centre maps.

Needs `apt-get install dataset-fashion-mnist` for the first."""
import time, warnings
import numpy as np, torch
from torch import nn
from .real import FASHION, NAMES, PICTURES, fashion, net, train
from interp_kit.attribution.faithfulness import judge, plot_curves, plot_measures, plot_methods

METHODS = ("gradcam", "layercam", "hirescam", "eigencam", "integrated_gradients", "deep_lift", "gradient_times_input", "saliency", "rise")
OPTIONS = dict(rise=dict(n_masks=1000), integrated_gradients=dict(n_steps=32, tol=None))
SHOWN = ("insertion", "deletion", "margin", "infidelity", "sensitivity", "randomised", "completeness", "pointing")


def _save(axs, name):
    import matplotlib.pyplot as plt
    from PIL import Image
    fig, file = np.ravel(axs)[0].figure, PICTURES/f"faithfulness_{name}.png"
    fig.savefig(file, dpi=64); plt.close(fig)
    with Image.open(file) as im: small = im.convert("RGB").quantize(96)
    small.save(file, optimize=True)


def _rows(what, result, seconds):
    t = result.table()
    _save(plot_methods(result, 4), f"{what}_maps"); _save(plot_curves(result), f"{what}_curves"); _save(plot_measures(result), f"{what}_measures")
    res = [dict(what=what, images=result.n, ranking=result.ranking, agreement_with_deletion=result.agreement, mean_score=result.meta["score"], seconds=seconds)]
    for m, r in t.iterrows():
        res.append(dict(what=what, method=m, remark=r["ranking"], **{k: [round(float(r[o]), 4) for o in (k, f"{k}_low", f"{k}_high")] for k in SHOWN if k in t and r[k] == r[k]}))
    return res


def on_fashion(n=40):
    torch.manual_seed(0)
    x, y = fashion(); x = x[:, None].float()/255; y = y.long()
    model = train(net(10), x[:12_000], y[:12_000], nn.CrossEntropyLoss(), 3)
    some = x[60_000:60_000 + n]; t = time.perf_counter()
    r = judge(model, some, METHODS, options=OPTIONS, masks=some[:, 0] > .1, activation=lambda o: o.softmax(1))
    for a in r.maps.values(): a.labels = [NAMES[c] for c in a.target]
    return _rows("fashion", r, time.perf_counter() - t)


def on_collages(n=40):
    from interp_kit.demo import demo_learner, digit_scenes
    learn = demo_learner("multilabel")
    images, targets = digit_scenes(300, 1, size=48, grid=True, held_out=True)
    x = (torch.stack(list(images))*255).round()/255
    with torch.no_grad(): p = learn.model.eval()(x).sigmoid()
    found = [(i, c) for i, t in enumerate(targets) for c in t["labels"].unique().tolist() if p[i, c] > .5 and (t["labels"] != c).any()]
    rows = {}; [rows.setdefault(i, c) for i, c in found]
    at = list(rows)[:n]; target = [rows[i] for i in at]
    boxes = [targets[i]["boxes"][targets[i]["labels"] == c].tolist() for i, c in zip(at, target)]
    t = time.perf_counter()
    r = judge(learn, x[at], METHODS, target=target, options=OPTIONS, boxes=boxes)
    share = np.mean([sum((b[2] - b[0])*(b[3] - b[1]) for b in of)/48**2 for of in boxes])
    return [dict(what="collages", area_of_the_boxes=float(share)), *_rows("collages", r, time.perf_counter() - t)]


def run():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*(on_fashion() if FASHION.exists() else []), *on_collages()]
