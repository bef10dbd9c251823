"A learner that trains in milliseconds."
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from torch import nn


def make(metrics=(accuracy,), n_valid=20, seed=0):
    "A linear model on 40 rows in 5 batches."
    g = torch.Generator().manual_seed(seed); x = torch.randn(60, 4, generator=g); y = (x[:, 0] > 0).long()
    rows = list(zip(x, y)); torch.manual_seed(seed)
    dls = DataLoaders.from_dsets(rows[:40], rows[40:40 + n_valid], bs=8, device="cpu", num_workers=0)
    learn = Learner(dls, nn.Linear(4, 2), loss_func=CrossEntropyLossFlat(), metrics=list(metrics))
    learn.remove_cbs([c for c in learn.cbs if c.name == "progress"]); learn.logger = lambda log: None
    return learn
