"""A million rows: what memory and time it takes to capture them to disk, to open them, and to ask the questions.

Added memory is the peak of RssAnon, sampled every 5 ms, minus what was held before; each step runs in a process of its own."""
import json, os, shutil, subprocess, sys, tempfile, threading, time
from pathlib import Path


def anon(): return int(next(o for o in open("/proc/self/status") if o.startswith("RssAnon")).split()[1])/1024


class Peak:
    "Added MB, wall and CPU seconds of a block."
    def __enter__(self):
        self.base, self.top, self.on = anon(), 0., True
        self.thread = threading.Thread(target=self._look); self.thread.start()
        self.t, self.c = time.perf_counter(), time.process_time()
        return self
    def _look(self):
        while self.on: self.top = max(self.top, anon()); time.sleep(.005)
    def __exit__(self, *_):
        self.wall_s, self.cpu_s, self.on = time.perf_counter() - self.t, time.process_time() - self.c, False
        self.thread.join(); self.top = max(self.top, anon())
    def facts(self, what, **kw): return dict(what=what, added_mb=round(self.top - self.base, 1), wall_s=round(self.wall_s, 3), cpu_s=round(self.cpu_s, 2), **kw)


def capture_step(path, n, c):
    import torch
    from interp_kit.predictions import capture
    from interp_kit.core import as_learner
    torch.set_num_threads(1); torch.manual_seed(0)
    x = torch.randn(n, 8); net = torch.nn.Linear(8, c)
    with torch.no_grad(): net.weight *= 2; y = torch.cat([torch.distributions.Categorical(logits=net(x[i:i+8192])).sample() for i in range(0, n, 8192)])
    with torch.no_grad(): y[: n//20] = (y[: n//20] + 1) % c
    class Batches(torch.utils.data.Dataset):
        "Whole batches at a time, so that the loader's own work is small."
        def __len__(self): return n
        def __getitem__(self, i): return x[i], y[i]
        def __getitems__(self, rows): return [(x[rows], y[rows])]
    dl = torch.utils.data.DataLoader(Batches(), batch_size=1024, collate_fn=lambda b: b[0])
    learn = as_learner(net, dl, torch.nn.CrossEntropyLoss(), vocab=[f"class {i}" for i in range(c)])
    capture(learn, dl=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[:4096], y[:4096]), batch_size=1024), path=str(path) + ".warm", progress=False)
    shutil.rmtree(str(path) + ".warm")
    with Peak() as m: capture(learn, path=path, progress=False)
    return [m.facts(f"capture {n:,} × {c} to disk", disk_mb=round(sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())/2**20))]


def questions_step(path, n, c):
    import matplotlib; matplotlib.use("agg")
    import torch, numpy as np, scipy.special, sklearn.metrics, pandas, matplotlib.pyplot as plt  # noqa: F401  warm
    from interp_kit.predictions import Predictions
    from interp_kit.interpret import ClassificationInterpretation
    torch.set_num_threads(1)
    small = Predictions.from_arrays(torch.rand(64, c).softmax(1), torch.arange(64) % c); i = ClassificationInterpretation.from_predictions(small)
    i.metrics(); i.findings(); i.plot_confusion_matrix(); i.plot_calibration(); i.to_frame(); plt.close("all")
    out, times = [], []
    for _ in range(7):
        t = time.perf_counter(); p = Predictions.open(path); times.append(time.perf_counter() - t)
    out.append(dict(what=f"open {n:,} × {c}", wall_s=round(sorted(times)[3], 4)))
    asks = dict(metrics={}, findings={}, to_frame={}, confusion_matrix={}, most_confused=dict(min_val=5), top_losses=dict(k=100), plot_confusion_matrix={},
                plot_calibration={}, plot_roc={}, classification_report={})
    for name, kwargs in asks.items():
        i = ClassificationInterpretation.from_predictions(Predictions.open(path)) # answers nothing from an earlier question
        with Peak() as m: res = getattr(i, name)(**kwargs)
        out.append(m.facts(f"{name} of {n:,} × {c} from disk")); del res; plt.close("all")
    return out


def sklearn_step(path, n, c):
    "The same numbers as `metrics()`, by scikit-learn from arrays in memory, and ours from disk, in one process."
    import numpy as np, sklearn.metrics as skm, torch
    from bench.measure import anew
    from interp_kit.predictions import Predictions, classification_metrics
    torch.set_num_threads(1)
    p = Predictions.open(path); q, y, d = p.preds.numpy().copy(), p.targs.numpy().copy(), p.decoded.numpy().copy()
    classification_metrics(Predictions.from_arrays(q[:500], y[:500]))
    opened = anew(Predictions.open(path)) # without the columns that the capture worked out
    t = time.process_time(); ours = classification_metrics(opened); t_ours = time.process_time() - t
    t = time.process_time()
    theirs = dict(accuracy=skm.accuracy_score(y, d), balanced_accuracy=skm.balanced_accuracy_score(y, d), cohen_kappa=skm.cohen_kappa_score(y, d), matthews_corrcoef=skm.matthews_corrcoef(y, d),
                  log_loss=skm.log_loss(y, q.astype(np.float64)), brier=skm.brier_score_loss(y, q.astype(np.float64)/q.astype(np.float64).sum(1, keepdims=True)), roc_auc_ovr_macro=skm.roc_auc_score(y, q.astype(np.float64)/q.astype(np.float64).sum(1, keepdims=True), multi_class="ovr"),
                  average_precision_macro=np.mean([skm.average_precision_score(y == k, q[:, k]) for k in range(c)]), top_5_accuracy=skm.top_k_accuracy_score(y, q, k=5))
    for how in ("macro", "micro", "weighted"): theirs.update({f"{k}_{how}": v for k, v in zip(("precision", "recall", "f1"), skm.precision_recall_fscore_support(y, d, average=how, zero_division=np.nan)[:3])})
    t_theirs = time.process_time() - t
    worst = max(abs(ours[k] - v) for k, v in theirs.items())
    return [dict(what=f"metrics() of {n:,} × {c} from disk against scikit-learn from memory", ours_cpu_s=round(t_ours, 2), sklearn_cpu_s=round(t_theirs, 2), ratio=round(t_ours/t_theirs, 3), largest_difference=worst)]


def run():
    out = []
    with tempfile.TemporaryDirectory() as d:
        for n, c, steps in ((1_000_000, 100, ("capture", "questions", "sklearn")), (1_000_000, 1000, ("capture", "questions"))):
            for step in steps:
                done = subprocess.run([sys.executable, "-W", "ignore", "-m", "bench.scale", step, f"{d}/{c}", str(n), str(c)], capture_output=True, text=True)
                if done.returncode: raise RuntimeError(done.stderr[-3000:])
                out += json.loads(done.stdout.splitlines()[-1])
            shutil.rmtree(f"{d}/{c}")
    return out


if __name__ == "__main__":
    step, path, n, c = sys.argv[1:]
    print(json.dumps(dict(capture=capture_step, questions=questions_step, sklearn=sklearn_step)[step](path, int(n), int(c))))
