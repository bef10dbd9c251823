"The model is left as found: bitwise, also after an exception or an interrupt in the middle of a pass."
import copy, random
import numpy as np, pytest, torch
from torch import nn
from fastai.vision.all import ActivationStats, Callback, CrossEntropyLossFlat, Learner, accuracy
from interp_kit.all import (ClassificationInterpretation, PredictionAnalyzer, as_learner, capture, find_layer, plot_predictions, show_results)


def trained(digits):
    "A learner in training mode, with gradients, hooks, a recorder that has recorded, and statistics that a pass would reset."
    learn = Learner(digits.dls, copy.deepcopy(digits.model), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=ActivationStats(with_hist=True))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    learn.model.train(); learn.model[0][0].eval()
    x, y = learn.dls.train.one_batch(); learn.loss_func(learn.model(x), y).backward()
    learn.model[1][-1].bias.requires_grad_(False); learn.model.register_forward_hook(lambda *_: None)
    return learn


def snapshot(learn):
    m = learn.model
    return dict(params=[(p.clone(), p.requires_grad, None if p.grad is None else p.grad.clone(), p.device) for p in m.parameters()], grads=[id(p.grad) for p in m.parameters()],
        buffers=[b.clone() for b in m.buffers()], modes=[o.training for o in m.modules()], hooks=[list(o._forward_hooks) + list(o._forward_pre_hooks) + list(o._backward_hooks) for o in m.modules()],
        cbs=list(map(id, learn.cbs)), names=[c.name for c in learn.cbs], attrs=sorted(vars(learn)), loss=id(learn.loss_func), metrics=list(map(id, learn.metrics)),
        recorder=copy.deepcopy((learn.recorder.values, learn.recorder.losses, learn.recorder.lrs, learn.recorder.iters, learn.recorder.log, learn.recorder.smooth_loss.val, learn.recorder.smooth_loss.count)),
        stats=len(learn.activation_stats.stats), reduction=learn.loss_func.func.reduction, rng=(random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()), dls=[(d.shuffle, d.drop_last, d.bs) for d in learn.dls.loaders])


def same(a, b):
    if isinstance(a, torch.Tensor): return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray): return np.array_equal(a, b)
    if isinstance(a, (list, tuple)) or type(a).__name__ == "L": return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


def check(before, after):
    for k in before: assert same(before[k], after[k]), f"{k} changed"


ACTS = dict(capture=lambda l: capture(l, progress=False), train_set=lambda l: capture(l, ds_idx=0, progress=False), interpretation=lambda l: ClassificationInterpretation.from_learner(l).plot_top_losses(3),
            analyzer=lambda l: PredictionAnalyzer(l).error_analysis(), pictures=lambda l: (plot_predictions(l, max_n=2), show_results(l, max_n=2)), layer=find_layer)


@pytest.mark.parametrize("act", list(ACTS))
def test_nothing_changes(digits, act):
    learn = trained(digits); before = snapshot(learn)
    assert before["stats"] > 0
    ACTS[act](learn); check(before, snapshot(learn))


class Fails(Callback):
    order = 2000
    def __init__(self, e): self.e = e
    def after_pred(self):
        if self.iter == 3: raise self.e


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=["exception", "interrupt"])
def test_nothing_changes_when_the_pass_fails_in_the_middle(digits, error):
    learn = trained(digits); learn.add_cb(Fails(error)); before = snapshot(learn)
    with pytest.raises(type(error)): capture(learn, progress=False)
    check(before, snapshot(learn))


def test_a_failing_observer_or_loss_leaves_no_hooks(digits):
    from interp_kit.all import Features
    class Bad(Features):
        def on_batch(self, *a): raise ValueError("no")
    learn = trained(digits); before = snapshot(learn)
    with pytest.raises(ValueError): capture(learn, observers=[Bad()], progress=False)
    check(before, snapshot(learn))
    learn.loss_func = lambda p, t: 1/0; before = dict(snapshot_without_reduction(learn))
    with pytest.raises(Exception): capture(learn, progress=False)
    check(before, dict(snapshot_without_reduction(learn)))


def snapshot_without_reduction(learn):
    keep, learn.loss_func = learn.loss_func, CrossEntropyLossFlat()
    s = snapshot(learn); learn.loss_func = keep; s["loss"] = id(keep)
    return s


def test_training_goes_on_as_if_nothing_had_happened(digits):
    def run(look):
        torch.manual_seed(1); random.seed(1); np.random.seed(1)
        learn = Learner(digits.dls, copy.deepcopy(digits.model), loss_func=CrossEntropyLossFlat())
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-3)
            if look: ClassificationInterpretation.from_learner(learn).plot_top_losses(2)
            learn.fit(1, 1e-3)
        return [p.detach() for p in learn.model.parameters()]
    digits.dls.train.rng = random.Random(0); a = run(False)
    digits.dls.train.rng = random.Random(0); b = run(True)
    assert same(a, b)


def test_plain_model_keeps_mode_and_batchnorm():
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train(); data = [(torch.randn(8, 2), torch.randint(0, 2, (8,))) for _ in range(3)]
    state = copy.deepcopy(net.state_dict())
    with pytest.warns(UserWarning, match="CrossEntropyLoss"): learn = as_learner(net, data)
    capture(learn, progress=False)
    assert net.training and all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and learn.model is net
