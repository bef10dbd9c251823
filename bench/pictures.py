"Draw what people will see, into bench/pictures/; look at it, and say in its README what was seen."
from pathlib import Path
import matplotlib, numpy as np, torch

HERE = Path(__file__).parent/"pictures"


def _made(C, n=20_000, names=None, seed=0):
    "A classifier of C classes with some that are alike."
    from interp_kit.interpret import ClassificationInterpretation
    from interp_kit.predictions import Predictions
    r = np.random.default_rng(seed); y = r.integers(0, C, n); z = r.normal(size=(n, C)).astype(np.float32); z[range(n), y] += 4
    for a in range(0, C - 1, max(2, C//8)): m = (y == a) & (r.random(n) < .4); z[m, a + 1] += 4
    q = torch.from_numpy(z).softmax(1)
    return ClassificationInterpretation.from_predictions(Predictions.from_arrays(q, y, vocab=names or [f"class {i}" for i in range(C)]))


def _labels(C, n=5000, seed=0):
    "A multilabel model of C labels, some alike, some with odd names."
    from interp_kit.interpret import MultilabelInterpretation
    from interp_kit.predictions import Predictions
    r = np.random.default_rng(seed); z = r.normal(size=(n, C))*2 - 1.5; y = r.random((n, C)) < 1/(1 + np.exp(-z)); z[:, 1::5] *= .3
    names = (["prix en $", "Füße und 猫", "a label with a name that goes on and on, far longer than an axis would like"] + [f"label {i}" for i in range(C)])[:C]
    interp = MultilabelInterpretation.from_predictions(Predictions.from_arrays(1/(1 + np.exp(-z)), y, vocab=names, task="multilabel"))
    interp.inputs = torch.from_numpy(np.cumsum(r.normal(size=(n, 3, 24, 24)), 2)).float(); return interp


def _scenes(C, H, W, names, n=40, seed=0):
    "Masks of C classes: round things on ground, wrong along a side and in a spot of each image, the first lines not labelled."
    from interp_kit.interpret import SegmentationInterpretation
    r = np.random.default_rng(seed); yy, xx = np.mgrid[:H, :W]; t = np.zeros((n, H, W), dtype=int); x = np.full((n, 3, H, W), .15)
    disc = lambda lo, hi: (yy - r.integers(0, H))**2 + (xx - r.integers(0, W))**2 < r.integers(lo, hi)**2
    for m, im in zip(t, x):
        for _ in range(8): o = disc(H//12, H//4); m[o] = r.integers(0, C); im[:, o] = r.random((3, 1))
    d = np.roll(t, (2, 3), (1, 2))
    for m in d: m[disc(H//8, H//7)] = r.integers(0, C)
    wrong = (d != t).mean((1, 2)); t[:, :H//12] = 255
    preds = torch.zeros(1, C, 1, 1).expand(n, C, H, W)
    interp = SegmentationInterpretation(None, torch.from_numpy(x + .04*r.normal(size=x.shape)).float(), preds, torch.from_numpy(t), torch.from_numpy(d), torch.from_numpy(wrong).float(), ignore_index=255)
    interp.predictions.vocab = names
    return interp


def run(only=""):
    "Draw all pictures, or those whose names begin with `only`."
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from interp_kit.demo import demo_learner
    from interp_kit.interpret import PredictionAnalyzer, interpret
    odd = ["Füße", "猫 und Hund", "чай", "a class with a name that goes on and on, far longer than an axis would like"] + [f"Ordinary {i}" for i in range(6)]
    jobs = {f"confusion_{C}": (lambda C=C: _made(C).plot_confusion_matrix()) for C in (2, 10, 100, 1000)}
    jobs.update({"confusion_names": lambda: _made(10, names=odd).plot_confusion_matrix(normalize=True), "roc_10": lambda: _made(10).plot_roc(), "roc_1000": lambda: _made(1000).plot_roc(), "pr_100": lambda: _made(100).plot_pr(),
                 "calibration": lambda: _made(10).plot_calibration(), "errors_1000": lambda: PredictionAnalyzer(_made(1000).predictions).error_analysis().plot(),
                 "distribution_100": lambda: PredictionAnalyzer(_made(100).predictions).prediction_distribution().plot()})
    for C in (3, 80): jobs.update({f"labels_confusion_{C}": lambda C=C: _labels(C).plot_confusion_matrix(), f"labels_top_losses_{C}": lambda C=C: _labels(C).plot_top_losses(6, ncols=3), f"labels_roc_{C}": lambda C=C: _labels(C).plot_roc()})
    jobs.update({"labels_calibration": lambda: _labels(80).plot_calibration(), "labels_top_losses_of_one": lambda: _labels(3).plot_top_losses(3, ncols=3, label=2)})
    for task in ("classification", "tabular", "text"): jobs[f"top_losses_{task}"] = lambda task=task: interpret(demo_learner(task), progress=False).plot_top_losses(6, ncols=3)
    long = [*odd[:4], "price in $x_1$", "_hidden"] + [f"pavement {i}" for i in range(200)]
    for C, H, W in ((2, 60, 60), (11, 120, 160), (32, 200, 100), (150, 90, 200)):
        made = lambda C=C, H=H, W=W: _scenes(C, H, W, long[:C])
        jobs.update({f"masks_{C}": lambda made=made: made().plot_top_losses(4, figsize=(11, 11)), f"masks_confusion_{C}": lambda made=made: made().plot_confusion_matrix(), f"masks_iou_{C}": lambda made=made: made().plot_iou()})
    res = []
    for name, draw in jobs.items():
        if not name.startswith(only): continue
        fig = np.ravel(draw())[0].figure; fig.savefig(HERE/f"{name}.png", dpi=70); plt.close(fig)
        res.append(dict(picture=f"{name}.png", kib=round((HERE/f"{name}.png").stat().st_size/1024)))
    return res
