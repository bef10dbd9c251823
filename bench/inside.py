"""A real network inside: a ResNet-18 is trained on half of the Fashion-MNIST classes, then fine-tuned in the fastai way on all ten with 5 % wrong labels, watched all along.

Needs `apt-get install dataset-fashion-mnist`. Pictures go to bench/pictures/inside_*.png."""
import copy, warnings
import numpy as np, torch
from torch import nn
from torch.utils.data import TensorDataset
from .real import NAMES, _save, fashion


def garments(n_train=6000, n_valid=2000, wrong=.05, seed=0):
    "(training set, validation set, rows of the training set whose label is wrong)."
    x, y = fashion(); r = np.random.default_rng(seed)
    rows = torch.as_tensor(r.choice(60_000, n_train, replace=False)); valid = torch.as_tensor(60_000 + r.choice(10_000, n_valid, replace=False))
    given = y[rows].long().clone()
    bad = np.sort(r.choice(n_train, int(wrong*n_train), replace=False))
    given[bad] = (given[bad] + torch.as_tensor(r.integers(1, 10, len(bad)))) % 10
    pixels = lambda i: x[i][:, None].float()/255
    return TensorDataset(pixels(rows), given), TensorDataset(pixels(valid), y[valid].long()), bad


def body(n_out):
    from torchvision.models import resnet18
    model = resnet18(weights=None, num_classes=n_out)
    model.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    return model


def learner(model, train, valid, **kw):
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.metrics import accuracy
    dls = DataLoaders.from_dsets(train, valid, bs=64, device="cpu")
    dls.vocab = NAMES
    halves = lambda m: [[p for n, p in m.named_parameters() if not n.startswith("fc.")], list(m.fc.parameters())]
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss(), metrics=accuracy, splitter=halves, **kw)


def fine_tuned(train, valid, callbacks):
    "(learner fine-tuned on ten classes, a copy of the model before)."
    torch.manual_seed(0)
    few = TensorDataset(*(t[train.tensors[1] < 5] for t in train.tensors))
    first = learner(body(10), few, few)
    with first.no_bar(), first.no_logging(): first.fit_one_cycle(1, 2e-3)
    model = first.model; model.fc = nn.Linear(512, 10)
    before = copy.deepcopy(model)
    learn = learner(model, train, valid, cbs=callbacks)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(4, 1e-3)
    return learn, before
