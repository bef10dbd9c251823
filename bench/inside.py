"""A real network inside: a ResNet-18 is trained on half of the Fashion-MNIST classes, then fine-tuned in the fastai way on all ten with 5 % wrong labels, watched all along.

Needs `apt-get install dataset-fashion-mnist`. Pictures go to bench/pictures/inside_*.png."""
import copy, warnings
import numpy as np, torch
from torch import nn
from torch.utils.data import TensorDataset
from .real import NAMES, _save, fashion


def garments(n_train=4000, n_valid=1000, wrong=.05, seed=0):
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
    import fastai.callback.all # noqa: F401 (fine_tune, no_bar)
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.metrics import accuracy
    dls = DataLoaders.from_dsets(train, valid, bs=64, device="cpu", num_workers=0)
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
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(5, 2e-3)
    return learn, before


def _found(rows, bad):
    "Precision at recall .5 of `rows`, most suspicious first, for the wrong labels `bad`."
    hits = np.isin(rows, bad).cumsum()
    at = np.searchsorted(hits, .5*len(bad))
    return float(hits[at]/(at + 1))


def run():
    warnings.simplefilter("ignore")
    from interp_kit.internals import ActivationStats, cka, check_model, information_flow, weight_findings, weight_table
    from interp_kit.internals.debug import ModelDebugger
    from interp_kit.training import InterpretationCallback, TrainingHistory, dynamics, plot_metrics
    from interp_kit.internals.weight_charts import plot_weights
    train, valid, bad = garments()
    watch, acts = InterpretationCallback(on="both", plot=False), ActivationStats(with_hist=True, every=20)
    learn, before = fine_tuned(train, valid, [watch, acts])
    res = [dict(what="fine-tuned", epochs=len(watch.history)//2, accuracy=float(learn.recorder.values[-1][-1]))]
    c = watch.cartography()
    res.append(dict(what="5 % wrong labels by area under the margin", rows=len(bad), precision_at_recall_half=_found(c.sort_values("aum")["row"].to_numpy(), bad),
                    findings=[f.title for f in watch.findings()]))
    _save(watch.plot_cartography(), "inside_cartography"); _save(watch.plot_aum(), "inside_aum"); _save(watch.plot_worst("train"), "inside_top_losses")
    d = dynamics(TrainingHistory.from_learner(learn))
    res.append(dict(what="dynamics", **{k: v for k, v in d.to_dict().items() if isinstance(v, (int, float))}, findings=[f.title for f in d.findings()]))
    _save(plot_metrics(learn), "inside_metrics"); _save(acts.plot_layer_stats(), "inside_training_activations")
    stats = ActivationStats(learn)
    stats.stats_by_layer()
    res.append(dict(what="activations", calls=len(stats.table), findings=[f.title for f in stats.findings()])); _save(stats.plot_layer_stats(), "inside_activations")
    flow = information_flow(learn)
    res.append(dict(what="information flow", calls=len(flow.table), findings=[f.title for f in flow.findings()])); _save(flow.plot(), "inside_flow")
    table = weight_table(learn)
    res.append(dict(what="weights", tensors=len(table), with_structure=int((table["spikes"] > 0).sum()), findings=[f.title for f in weight_findings(table)])); _save(plot_weights(table), "inside_weights")
    res.append(dict(what="freshly made weights", with_structure=int((weight_table(body(10))["spikes"] > 0).sum())))
    same = cka(before, learn.model, learn.dls.valid, n_batches=16)
    res.append(dict(what="CKA of each layer with itself before fine-tuning", first=float(np.diag(same.matrix)[0]), last=float(np.diag(same.matrix)[-1]))); _save(same.plot(), "inside_cka")
    bug = ModelDebugger(learn)
    grads = bug.check_gradient_flow()
    res.append(dict(what="debugger", gradients=[f.title for f in grads.findings()], dead=[f.title for f in bug.detect_dead_neurons().findings()], weights=[f.title for f in bug.weight_distribution_analysis().findings()]))
    _save(grads.plot(), "inside_gradients")
    res.append(dict(what="checks", **{c.name: c.status for c in check_model(learn).checks}))
    return res
