"Losses of one's own say nothing of the task: targets do."
import pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from interp_kit.core import as_learner, infer_task
from interp_kit.predictions import capture

pytestmark = pytest.mark.filterwarnings("ignore")
G = torch.Generator().manual_seed(2)
X = torch.randn(9, 2, 12, 10, generator=G)
M = (X[:, 0] + .3*torch.randn(9, 12, 10, generator=G) > .2).long()


def pass_of(model, x, y, loss):
    return capture(as_learner(model, DataLoader(TensorDataset(x, y), 4), loss), progress=False)


def net(*sizes):
    torch.manual_seed(7)
    return nn.Conv2d(*sizes, 3, padding=1)


def tversky(o, t):
    p, t = o.sigmoid().flatten(1), t.flatten(1)
    hit = (p*t).sum(1)
    return (1 - (hit + 1)/(hit + .3*(p*(1 - t)).sum(1) + .7*((1 - p)*t).sum(1) + 1)).mean()


@pytest.mark.parametrize("targets", [M[:, None].float(), M.float()], ids=["B1HW", "BHW"])
def test_float_masks_of_one_channel(targets):
    model = net(2, 1)
    p = pass_of(model, X, targets, tversky)
    assert p.task == "segmentation" and p.n_classes == 2
    assert torch.equal(p.targs.long(), M) and torch.equal(p.decoded.long(), (model(X)[:, 0] > 0).long())


def test_one_hot_masks_are_masks():
    model = net(2, 3)
    three = (M + (X[:, 1] > 1).long()).clamp(max=2)
    hot = F.one_hot(three, 3).movedim(-1, 1).float()
    p, q = pass_of(model, X, hot, nn.CrossEntropyLoss()), pass_of(model, X, three, nn.CrossEntropyLoss())
    assert p.task == "segmentation" and torch.equal(p.targs, q.targs) and torch.equal(p.decoded, q.decoded)
    assert torch.allclose(p.losses, q.losses, atol=1e-6)


def test_pictures_of_pictures_are_a_regression():
    assert pass_of(net(2, 1), X, X[:, :1], lambda o, t: (o - t).abs().mean()).task == "regression"


def test_soft_labels_are_classes():
    x, soft = torch.randn(40, 5, generator=G), torch.rand(40, 4, generator=G).softmax(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.LogSoftmax(1))
    p = pass_of(model, x, soft, nn.KLDivLoss(reduction="batchmean"))
    assert p.task == "classification"
    assert torch.equal(p.targs, soft.argmax(1)) and torch.equal(p.decoded, model(x).argmax(1))


def test_labels_that_are_not_known_do_not_hide_the_task():
    labels = (torch.rand(30, 3, generator=G) > .5).float()
    labels[::4, 1] = float("nan")
    out = torch.randn(30, 3, generator=G)
    assert infer_task(out, labels) == "multilabel" and infer_task(out[:, :1], labels[:, :1]) == "classification"
    assert infer_task(out, torch.randn(30, 3, generator=G)) == "regression"
