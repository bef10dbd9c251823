"Planted faults in training that the watching callback must name, and sound trainings on which it must be silent."
import random
import numpy as np, torch
from torch import nn
from fastai.callback.progress import ProgressCallback # noqa: F401 gives learners no_bar
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from interp_kit.training.callbacks import InterpretationCallback


class Table:
    "Rows in memory, made into batches at once."
    def __init__(self, x, y): self.x, self.y = x.float(), y.long()
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i]


class TableDL(TfmdDL):
    def create_item(self, i): return i or 0
    def create_batch(self, b): return self.dataset[torch.as_tensor(b)]


def digits(seed, n=None):
    from sklearn.datasets import load_digits
    X, y = load_digits(return_X_y=True)
    some = np.random.default_rng(seed).permutation(len(X))[:n]
    return torch.tensor(X[some]/16), torch.tensor(y[some])


def blobs(seed, n=700, C=4, apart=2., d=10, share=None):
    "Normal clouds around C points; `share` is the first class's share against another's."
    r = np.random.default_rng(seed)
    mu = r.normal(size=(C, d)); mu *= apart/np.linalg.norm(mu, axis=1, keepdims=True)
    w = np.ones(C)
    if share is not None: w[0] = share
    y = r.choice(C, n, p=w/w.sum())
    return torch.tensor(mu[y] + r.normal(size=(n, d))), torch.tensor(y)


def uci(name, seed):
    import sklearn.datasets as D
    X, y = getattr(D, f"load_{name}")(return_X_y=True)
    p = np.random.default_rng(seed).permutation(len(X)); X = X[p]
    return torch.tensor((X - X.mean(0))/X.std(0)), torch.tensor(y[p])


def wrong_labels(y, share, seed):
    "A share of labels replaced by another class at random; which rows."
    r, C, y = np.random.default_rng(seed + 1000), int(y.max()) + 1, y.clone()
    bad = np.sort(r.choice(len(y), round(share*len(y)), replace=False))
    y[bad] = (y[bad] + torch.tensor(r.integers(1, C, len(bad)))) % C
    return y, bad


def learner(x, y, seed, vx=None, vy=None, h=64, bs=64):
    random.seed(seed); np.random.seed(seed); torch.manual_seed(seed)
    dls = DataLoaders(TableDL(Table(x, y), bs=bs, shuffle=True, num_workers=0), TableDL(Table(x[:64] if vx is None else vx, y[:64] if vy is None else vy), bs=256, num_workers=0))
    return Learner(dls, nn.Sequential(nn.Linear(x.shape[1], h), nn.ReLU(), nn.Linear(h, int(y.max()) + 1)), loss_func=nn.CrossEntropyLoss())


def fit(learn, cb, epochs=10, lr=3e-3):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, cbs=[cb])
    return cb


def mislabelled(seed, share=.05, data=digits, **kw):
    "(callback, planted rows) after a training on wrong labels."
    x, y = data(seed, **kw)
    y, bad = wrong_labels(y, share, seed)
    return fit(learner(x, y, seed), InterpretationCallback(on="train", plot=False)), bad


def ranking(table, bad, recall=.5):
    "Precision of the rows of smallest area under the margin where they hold half of the planted ones."
    hits = np.isin(table.row.to_numpy()[np.argsort(table.aum.to_numpy(), kind="stable")], bad).cumsum()
    k = int(np.searchsorted(hits, recall*len(bad))) + 1
    return float(hits[k - 1]/k)


def lost_class(seed):
    "A class that leaves the training data after five epochs."
    x, y = digits(seed, 900)
    learn = learner(x[:600], y[:600], seed, x[600:], y[600:])
    cb = fit(learn, InterpretationCallback(plot=False), 5)
    keep = y[:600] != seed % 10
    learn.dls.train.dataset = Table(x[:600][keep], y[:600][keep]); learn.dls.train.n = int(keep.sum())
    return fit(learn, cb, 6, 1e-2).findings()


def destroyed(seed):
    "A learning rate so large that the model loses what it had learned."
    x, y = digits(seed, 900)
    learn = learner(x[:600], y[:600], seed, x[600:], y[600:])
    cb = fit(learn, InterpretationCallback(plot=False), 5)
    return fit(learn, cb, 4, 1.).findings()


CASES = dict(
    mislabelled_5_percent=(lambda seed: mislabelled(seed)[0].findings(), "mislabelled_rows", {"forgotten_rows"}),
    mislabelled_2_percent_of_1797=(lambda seed: mislabelled(seed, .02)[0].findings(), "mislabelled_rows", {"forgotten_rows"}),
    mislabelled_10_percent_of_600=(lambda seed: mislabelled(seed, .1, n=600)[0].findings(), "mislabelled_rows", {"forgotten_rows"}),
    class_left_the_data=(lost_class, "forgotten_rows", set()),
    learning_rate_far_too_large=(destroyed, "forgotten_rows", set()))


def sound(data, epochs=8, lr=3e-3, **kw):
    def run(seed):
        x, y = data(seed, **kw); n = len(y)*2//3
        return fit(learner(x[:n], y[:n], seed, x[n:], y[n:], h=32), InterpretationCallback(on="both", plot=False), epochs, lr).findings()
    return run


def by_chance(seed):
    "Labels that have nothing to do with the rows."
    x, y = digits(seed, 400)
    return fit(learner(x, y[torch.tensor(np.random.default_rng(seed).permutation(400))], seed, h=32), InterpretationCallback(on="train", plot=False), 8).findings()


CLEAN = dict(
    digits=sound(digits, n=900), digits_many_epochs=sound(digits, n=400, epochs=16), digits_fast=sound(digits, n=900, epochs=5, lr=1e-2),
    clouds_far_apart=sound(blobs, apart=5.), clouds_that_overlap=sound(blobs), clouds_hardly_apart=sound(blobs, apart=1.), two_clouds=sound(blobs, C=2, d=3), twenty_clouds=sound(blobs, C=20, apart=3.), a_rare_cloud=sound(blobs, share=.1),
    breast_cancer=lambda seed: sound(lambda s: uci("breast_cancer", s))(seed), wine=lambda seed: sound(lambda s: uci("wine", s))(seed), iris=lambda seed: sound(lambda s: uci("iris", s))(seed), labels_by_chance=by_chance)
