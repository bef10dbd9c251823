"The watching callback: the right rows, the right numbers, and a training that does not notice."
import pickle, warnings
from copy import deepcopy
import numpy as np, pytest, torch, torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from fastai.callback.core import Callback, CancelBatchException, CancelEpochException, CancelFitException
from fastai.callback.data import WeightedDL
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback # noqa: F401 gives learners no_bar
from fastai.callback.schedule import LRFinder # noqa: F401 gives learners lr_find
from fastai.callback.training import GradientAccumulation, ShortEpochCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropy
from interp_kit.core import DataError, TaskError, as_learner
from interp_kit.predictions.capture import capture
from interp_kit.training.callbacks import InterpretationCallback

N, V, C = 45, 20, 3
pytestmark = pytest.mark.filterwarnings("ignore:Can't initialize NVML", "ignore:.*pin_memory")


@pytest.fixture(autouse=True)
def slow_machines_are_none(monkeypatch):
    "Passes wait, however long they took."
    from interp_kit.training import passes
    monkeypatch.setattr(passes, "_LONG", 1e9)


class Rows:
    "Inputs whose first number is the row."
    def __init__(self, n, seed=0, binary=False):
        g = torch.Generator().manual_seed(seed)
        self.x = torch.cat([torch.arange(n)[:, None].float(), torch.randn(n, 4, generator=g)], 1)
        self.y = torch.randint(0, 2 if binary else C, (n,), generator=g)
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[int(i)], self.y[int(i)]


class Net(nn.Module):
    def __init__(self, c=C):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(.2), nn.Linear(8, c))
    def forward(self, x): return self.body(x[:, 1:])


class Spy(Callback):
    "Notes (fit's epoch number, training, rows, outputs, targets) of every batch that gets a loss."
    order, run_valid = 1000, True
    def __init__(self): self.seen = []
    def after_loss(self): self.seen.append((self.learn.epoch, self.learn.training, self.learn.xb[0][:, 0].long().clone(), self.learn.pred.detach().float().clone(), self.learn.yb[0].clone()))


def learner(loss=None, train=None, c=C, seed=0, bs=8, cbs=(), binary=False, **kw):
    torch.manual_seed(seed); np.random.seed(seed); __import__("random").seed(seed)
    train = train or TfmdDL(Rows(N, binary=binary), bs=bs, shuffle=True, num_workers=0)
    dls = DataLoaders(train, TfmdDL(Rows(V, 1, binary), bs=bs, num_workers=0))
    return Learner(dls, Net(c), loss_func=loss or CrossEntropyLossFlat(), cbs=list(cbs), **kw)


def fit(learn, epochs=2, cbs=(), **kw):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-2, cbs=list(cbs), **kw)


def close(a, b, tol=1e-6): np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-4, atol=tol) # torch.testing imports sympy, which is slow


def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


def expected(spy, on, epoch, rows):
    "(logits, targets) of `rows` as the spy saw them last in an epoch."
    found = {int(r): (z, t) for e, training, rs, zs, ts in spy.seen if e == epoch and training == (on == "train") for r, z, t in zip(rs, zs, ts)}
    assert sorted(found) == list(rows)
    return torch.stack([found[r][0] for r in rows]), torch.stack([found[r][1] for r in rows])


def check(cb, spy, on="train", loss=None):
    "Every pass holds what the spy saw."
    for e, p in enumerate(cb.watch.passes[on]):
        z, t = expected(spy, on, e, p.rows.tolist())
        want = F.cross_entropy(z, t, reduction="none") if loss is None else torch.stack([loss(a[None], b[None]) for a, b in zip(z, t)])
        np.testing.assert_allclose(p.fields["loss"], want, atol=1e-5)
        other = z.scatter(1, t[:, None], -torch.inf).max(1).values
        np.testing.assert_allclose(p.fields["margin"], z.gather(1, t[:, None])[:, 0] - other, atol=1e-6)
        np.testing.assert_allclose(p.fields["prob"], z.softmax(1).gather(1, t[:, None])[:, 0], atol=1e-6)
        np.testing.assert_array_equal(p.fields["right"] > 0, z.argmax(1) == t)


TRAIN = dict(
    fastai=lambda: TfmdDL(Rows(N), bs=8, shuffle=True, num_workers=0), dropping=lambda: TfmdDL(Rows(N), bs=8, shuffle=True, drop_last=True, num_workers=0),
    weighted=lambda: WeightedDL(Rows(N), bs=8, shuffle=True, wgts=np.arange(N) + 1., num_workers=0), workers=lambda: TfmdDL(Rows(N), bs=8, shuffle=True, num_workers=2), whole=lambda: TfmdDL(Rows(N), bs=N, shuffle=True, num_workers=0),
    ones=lambda: TfmdDL(Rows(7), bs=1, shuffle=True, num_workers=0), torch=lambda: DataLoader(Rows(N), 8, shuffle=True), torch_workers=lambda: DataLoader(Rows(N), 8, shuffle=True, num_workers=1, persistent_workers=True))


@pytest.mark.parametrize("kind", TRAIN)
def test_rows_are_those_that_the_model_saw(kind):
    spy, cb = Spy(), InterpretationCallback(on="both", plot=False)
    fit(learner(train=TRAIN[kind]()), 3, [spy, cb])
    check(cb, spy); check(cb, spy, "valid")
    table = cb.cartography()
    n = 7 if kind == "ones" else N
    assert len(table) == n and len(cb.watch.passes["train"]) == 3
    if kind == "dropping": assert (table.n_epochs < 3).any() and sum(len(p) for p in cb.watch.passes["train"]) == table.n_epochs.sum() == 3*40
    if kind == "weighted": assert set(table.reason[table.n_epochs == 0]) <= {"no epoch visited the row"} and table.aum[table.n_epochs == 0].isna().all()


def test_a_loader_that_serves_both():
    "What `as_learner` makes has one loader for training and validation."
    learn, spy, cb = as_learner(Net(), DataLoader(Rows(N), 8, shuffle=True), nn.CrossEntropyLoss()), Spy(), InterpretationCallback(on="both", plot=False)
    fit(learn, 2, [spy, cb]); check(cb, spy); check(cb, spy, "valid")


class OwnLoss(nn.Module):
    def forward(self, z, t): return F.cross_entropy(z, t) + .1*z.pow(2).mean()
def bare(z, t): return F.cross_entropy(z, t)
LOSSES = dict(torch=(nn.CrossEntropyLoss, None), own=(OwnLoss, OwnLoss()), bare=(lambda: bare, None), smooth=(LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropy()))


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_of_rows(kind):
    make, by_row = LOSSES[kind]
    spy, cb = Spy(), InterpretationCallback(on="both", plot=False)
    learn = learner(make()); fit(learn, 1, [spy, cb])
    check(cb, spy, loss=by_row); check(cb, spy, "valid", by_row)
    again = capture(learn, progress=False)
    close(cb.interpretation.losses, again.losses, 1e-5)


@pytest.mark.parametrize("smoothing", [0., .1])
def test_class_weights_are_those_of_capture(smoothing):
    learn, cb = learner(nn.CrossEntropyLoss(weight=torch.tensor([1., 5, .2]), label_smoothing=smoothing)), InterpretationCallback(plot=False)
    fit(learn, 2, [cb])
    again = capture(learn, progress=False)
    close(cb.interpretation.losses, again.losses, 1e-5); assert cb.interpretation.predictions.meta["loss"] == again.meta["loss"]


@pytest.mark.parametrize("c,loss", [(1, BCEWithLogitsLossFlat), (2, CrossEntropyLossFlat)])
def test_one_output_for_two_classes(c, loss):
    spy, cb = Spy(), InterpretationCallback(on="both", plot=False)
    learn = learner(loss(), c=c, binary=True, bs=44) # the last training batch has one row
    fit(learn, 2, [spy, cb])
    p = cb.watch.passes["train"][0]
    z, t = expected(spy, "train", 0, p.rows.tolist())
    want = (2*t - 1)*z[:, 0] if c == 1 else (2*t - 1)*(z[:, 1] - z[:, 0])
    np.testing.assert_allclose(p.fields["margin"], want, atol=1e-6)
    np.testing.assert_allclose(cb.cartography().confidence, np.mean([torch.sigmoid(torch.tensor(q.fields["margin"])).numpy() for q in cb.watch.passes["train"]], 0), atol=1e-6)
    close(cb.interpretation.preds, capture(learn, progress=False).preds, 1e-6)


class Cancels(Callback):
    "Raises `what` at one event of the second training batch of the second epoch."
    def __init__(self, what, at="after_pred"): self.what, self.at = what, at
    def __call__(self, name):
        if name == self.at and self.learn.training and self.learn.epoch == 1 and self.learn.iter == 1: raise self.what
class Asks(Callback):
    "Runs inference in the middle."
    def after_epoch(self):
        if not self.learn.lock.locked(): self.learn.get_preds(inner=True); self.learn.validate()
class Halves(Callback):
    def after_pred(self):
        if not self.learn.training: self.learn.pred = self.learn.pred.half().float()
FELLOWS = dict(none=lambda: [], mixup=lambda: [MixUp(.4)], accumulation=lambda: [GradientAccumulation(20)], cancel_batch=lambda: [Cancels(CancelBatchException())], cancel_early=lambda: [Cancels(CancelBatchException(), "before_batch")],
               cancel_epoch=lambda: [Cancels(CancelEpochException())], cancel_fit=lambda: [Cancels(CancelFitException(), "after_batch")], short=lambda: [ShortEpochCallback(.5)], asks=lambda: [Asks()], halves=lambda: [Halves()])


@pytest.mark.parametrize("kind", FELLOWS)
def test_training_does_not_notice_and_records_hold(kind):
    def run(watch):
        learn, spy, n = learner(), Spy(), []
        learn.model.register_forward_hook(lambda m, x, out: n.append(len(x[0])))
        cb = InterpretationCallback(on="both", plot=False)
        fit(learn, 3, [spy, *FELLOWS[kind](), *([cb] if watch else [])])
        return learn, spy, cb, (weights(learn), torch.rand(2), np.random.rand(2), n)
    *_, plain = run(False)
    learn, spy, cb, watched = run(True)
    for a, b in zip(plain[:3], watched[:3]): assert np.array_equal(a, b)
    assert plain[3] == watched[3] # not one row more
    assert cb.watch.stopped == {} and all(p.reason == "" for ps in cb.watch.passes.values() for p in ps)
    table = cb.cartography()
    assert len(table) == N and table.n_epochs.max() == (2 if kind == "cancel_fit" else 3)
    names = np.array([str(c) for c in Rows(N).y.numpy()])
    assert (table.label[table.n_epochs > 0].astype(str).to_numpy() == names[table.n_epochs > 0]).all() # labels are the rows' own, whatever was mixed
    if kind in ("none", "accumulation", "asks", "short"):
        spy.seen = [s for s in spy.seen if s[1]] + [s for s in spy.seen if not s[1]][:-1] if kind == "none" else spy.seen
        check(cb, spy)
    if kind == "mixup": assert cb.watch.passes["train"][0].mixed == "MixUp" and cb.interpretation_of("train").predictions.meta["mixed"] == "MixUp"
    if kind == "cancel_batch": assert sorted(len(p) for p in cb.watch.passes["train"]) == [N - 8, N, N]
    if kind == "cancel_early": assert sorted(len(p) for p in cb.watch.passes["train"]) == [N - 8, N, N]
    if kind == "cancel_epoch": assert [len(p) for p in cb.watch.passes["train"]] == [N, 8, N] and [p.epoch for p in cb.watch.passes["valid"]] == [0, 2]
    if kind == "cancel_fit": assert [len(p) for p in cb.watch.passes["train"]] == [N, 16]
    if kind == "short": assert {len(p) for p in cb.watch.passes["train"]} == {32}


class Stops(Callback):
    def after_pred(self):
        if self.learn.training and self.learn.iter == 2: raise KeyboardInterrupt
def test_interrupts_and_several_fits():
    learn, cb = learner(), InterpretationCallback(on="both", plot=False)
    learn.add_cb(cb)
    fit(learn, 1)
    with pytest.raises(KeyboardInterrupt): fit(learn, 2, [Stops()])
    assert [p.epoch for p in cb.watch.passes["train"]] == [0] and len(cb.cartography()) == N and len(cb.interpretation) == V
    assert "get_idxs" not in vars(learn.dls.train)
    learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None); learn.get_preds(); learn.get_preds(ds_idx=0); learn.validate(); capture(learn, progress=False)
    assert len(cb.history) == 2
    before = len(cb.history)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1, 1e-3)
    assert len(cb.history) == before + 4 and [p.epoch for p in cb.watch.passes["valid"]] == [0, 2, 3] # 1 was interrupted
    assert cb.cartography().n_epochs.tolist() == [3]*N


def test_interrupt_while_the_first_batch_is_made():
    class Broken(Rows):
        def __getitem__(self, i): raise KeyboardInterrupt
    for dl in (TfmdDL(Broken(N), bs=8, shuffle=True, num_workers=0, do_setup=False), DataLoader(Broken(N), 8, shuffle=True)):
        cb = InterpretationCallback(on="both", plot=False)
        own = vars(dl).get("batch_sampler")
        with pytest.raises(KeyboardInterrupt): fit(learner(train=dl), 1, [cb])
        assert "get_idxs" not in vars(dl) and vars(dl).get("batch_sampler") is own
        with pytest.raises(DataError, match="train first"): cb.interpretation


def test_what_cannot_be_known_is_said():
    class Own(DataLoader):
        def __iter__(self): return super().__iter__()
    cb = InterpretationCallback(on="both", plot=False)
    fit(learner(train=Own(Rows(N), 8, shuffle=True)), 2, [cb])
    with pytest.raises(DataError, match="__iter__ of its own"): cb.cartography()
    assert len(cb.interpretation) == V and len(cb.interpretation_of("train")) == N and cb.interpretation_of("train").dl is None
    assert [f.type for f in cb.findings()] == []


def test_labels_that_change_are_noticed():
    data = Rows(N); cb = InterpretationCallback(on="train", plot=False)
    class Changes(Callback):
        def after_epoch(self): data.y[3] = (data.y[3] + 1) % C
    fit(learner(train=TfmdDL(data, bs=8, shuffle=True, num_workers=0)), 2, [cb, Changes()])
    with pytest.raises(DataError, match="row 3 .*another label"): cb.cartography()


def test_a_failure_of_the_watch_does_not_end_the_training():
    class Odd(nn.Module):
        def forward(self, z, t): return F.cross_entropy(z[0], t)
    class Pair(Net):
        def forward(self, x): return super().forward(x), torch.zeros(3)
    learn, cb = learner(Odd()), InterpretationCallback(on="both", plot=False)
    learn.model = Pair()
    with pytest.warns(UserWarning, match="no longer watches"): fit(learn, 1, [cb])
    with pytest.raises(DataError, match="different numbers of rows"): cb.interpretation


def test_other_tasks_keep_losses_and_refuse_the_map():
    x = torch.randn(20, 5)
    for y, loss in ((torch.randn(20, 3), nn.MSELoss()), ((torch.randn(20, 3) > 0).float(), nn.BCEWithLogitsLoss())):
        learn = as_learner(Net(), DataLoader(TensorDataset(x, y), 8), loss); cb = InterpretationCallback(on="both", plot=False)
        fit(learn, 2, [cb])
        again = capture(learn, progress=False)
        close(cb.interpretation.losses, again.losses, 1e-5)
        assert type(cb.interpretation).__name__.startswith(("Regression", "Multilabel")) and ("correct" in cb.history[0]) == (cb.interpretation.predictions.task == "multilabel")
        with pytest.raises(TaskError, match="one label a row"): cb.cartography()
        assert cb.findings() == []


def test_export_and_copies_carry_no_data(tmp_path):
    cb = InterpretationCallback(on="both", plot=False)
    learn = learner(path=tmp_path); learn.add_cb(cb); fit(learn, 1)
    cb.learn = None
    again = pickle.loads(pickle.dumps(cb))
    assert again.history == [] and again.on == "both" and len(pickle.dumps(cb)) < 1000


def test_pictures_in_one_place(monkeypatch, tmp_path):
    import matplotlib; matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import IPython, IPython.display, interp_kit.training.callbacks as cbs
    shown = []
    class Handle:
        def update(self, fig): shown.append("update")
    monkeypatch.setattr(cbs, "_is_kernel", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda fig, display_id: (shown.append("new"), Handle())[1])
    learn, cb = learner(), InterpretationCallback(k=3, on="valid", path=tmp_path/"a")
    fit(learn, 2, [cb]); fit(learn, 1, [cb])
    assert shown == ["new", "update", "update"] and plt.get_fignums() == []
    assert sorted(f.name for f in (tmp_path/"a").iterdir()) == [f"epoch_00{e}_valid.{x}" for e in range(3) for x in ("csv", "png")]
    shown.clear(); fit(learner(), 4, [InterpretationCallback(k=3, on="both", every=2)]); assert shown == ["new", "new", "update", "update"]
    shown.clear(); fit(learner(), 1, [InterpretationCallback(plot=False)]); assert shown == []
    monkeypatch.setattr(InterpretationCallback, "plot_worst", lambda *a, **k: 1/0)
    with pytest.warns(UserWarning, match="not drawn: ZeroDivisionError"): fit(learner(), 1, [InterpretationCallback()])


def test_inputs_of_the_worst_training_rows_are_those_that_the_model_saw(tmp_path):
    class Noise(Callback): # an augmentation
        def before_batch(self):
            if self.learn.training: self.learn.xb = (torch.cat([self.learn.xb[0][:, :1], torch.rand_like(self.learn.xb[0][:, 1:])], 1),)
    class Saw(Callback):
        order = 900
        def __init__(self): self.x = {}
        def after_pred(self):
            if self.learn.training: self.x.update({int(x[0]): x.clone() for x in self.learn.xb[0]})
    saw, cb = Saw(), InterpretationCallback(on="train", k=5, path=tmp_path)
    fit(learner(), 2, [Noise(), saw, cb])
    worst = cb.worst()
    assert len(worst) == 5 and (np.diff(worst.losses.numpy()) <= 0).all()
    for r, x in zip(worst.predictions.rows, worst.inputs[0]): close(x, saw.x[int(r)])
    whole = cb.interpretation.losses
    close(worst.losses, whole.sort(descending=True).values[:5])
    assert len(cb.plot_worst(k=2)) == 2 and len(cb.plot_aum().patches) > 0 and cb.plot_cartography().get_title().startswith("45 rows")


def test_files_do_not_need_the_shell_that_matplotlib_was_told_of(tmp_path, monkeypatch):
    "A long process may hold several IPython shells; pyplot's ioff() fails in all but the first."
    import matplotlib; matplotlib.use("agg")
    import matplotlib.pyplot as plt, IPython
    from IPython.core.events import EventManager, available_events
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), dict(kernel=None, events=EventManager(None, available_events))))
    monkeypatch.setattr(plt, "_REPL_DISPLAYHOOK", plt._ReplDisplayHook.IPYTHON)
    with pytest.raises(ValueError, match="not registered"): plt.ioff()
    fit(learner(), 1, [InterpretationCallback(k=2, path=tmp_path)])
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".csv", ".png"]


def images(n, kind):
    "Tiny images with targets of one task, and how a net for it is made: (rows, outputs, loss)."
    g = torch.Generator().manual_seed(0); x = torch.rand(n, 3, 8, 8, generator=g)
    if kind == "segmentation": return x, torch.randint(0, C, (n, 8, 8), generator=g), nn.Conv2d(3, C, 1), CrossEntropyLossFlat(axis=1)
    flat = lambda c: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, c))
    if kind == "multilabel": return x, (torch.rand(n, C, generator=g) > .5).float(), flat(C), nn.BCEWithLogitsLoss()
    if kind == "regression": return x, torch.randn(n, 1, generator=g), flat(1), nn.MSELoss()
    return x, torch.randint(0, C, (n,), generator=g), flat(C), CrossEntropyLossFlat()


@pytest.mark.parametrize("kind", ["classification", "segmentation", "multilabel", "regression"])
def test_every_task_is_drawn_and_written(kind, tmp_path):
    import matplotlib; matplotlib.use("agg")
    import matplotlib.pyplot as plt, pandas as pd
    x, y, net, loss = images(12, kind)
    cb = InterpretationCallback(on="both", k=2, path=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(Learner(DataLoaders(DataLoader(TensorDataset(x, y), 4, shuffle=True), DataLoader(TensorDataset(x[:8], y[:8]), 4)), net, loss_func=loss), 1, [cb])
    assert cb.interpretation.predictions.task == kind and sorted(f.name for f in tmp_path.iterdir()) == [f"epoch_000_{on}.{e}" for on in ("train", "valid") for e in ("csv", "png")]
    assert len(pd.read_csv(tmp_path/"epoch_000_train.csv")) == 12
    assert "worst validation rows" in np.ravel(cb.plot_worst("valid"))[0].figure.get_suptitle(); plt.close("all")


def test_the_table_is_written_though_the_picture_fails(tmp_path, monkeypatch):
    import matplotlib; matplotlib.use("agg")
    import matplotlib.pyplot as plt
    def half(self, on): plt.figure(); raise ValueError("no font")
    monkeypatch.setattr(InterpretationCallback, "plot_worst", half)
    with pytest.warns(UserWarning, match="not drawn: ValueError: no font"): fit(learner(), 1, [InterpretationCallback(path=tmp_path)])
    assert [f.name for f in tmp_path.iterdir()] == ["epoch_000_valid.csv"] and plt.get_fignums() == []


class Leaves(Callback):
    def before_validate(self): raise CancelFitException()
def test_a_fit_that_ends_before_its_first_validation():
    cb = InterpretationCallback(on="both", k=3, plot=False)
    fit(learner(), 1, [cb, Leaves()])
    assert len(cb.interpretation) == N and len(cb.worst()) == 3 and cb.worst().predictions.meta["on"] == "train" and cb.findings() == []
    with pytest.raises(DataError, match="No valid pass was kept"): cb.interpretation_of("valid")
    with pytest.raises(DataError, match="train first"): InterpretationCallback(on="both").findings()


def changing(loss, change, epochs):
    "(callback, what the loss said of each row at the end of each training pass) of a fit in which `change(loss, epoch)` runs after each epoch."
    cb, spy, said = InterpretationCallback(on="train", plot=False), Spy(), []
    class Changes(Callback):
        order = 2000
        def after_train(self):
            with torch.no_grad(): said.append({int(r): float(loss(a[None], b[None])) for e, training, rs, zs, ts in spy.seen if training and e == self.learn.epoch for r, a, b in zip(rs, zs, ts)})
        def after_epoch(self): change(loss, self.learn.epoch)
    fit(learner(loss), epochs, [spy, cb, Changes()])
    return cb, said


class Annealed(nn.Module):
    "A loss with a number that a training changes."
    def __init__(self): super().__init__(); self.by = 1.
    def forward(self, z, t): return self.by*F.cross_entropy(z, t)


def _by(loss, epoch): loss.by = 1. + epoch
def _smoothing(loss, epoch): getattr(loss, "func", loss).label_smoothing = .1*epoch


@pytest.mark.parametrize("make, change", [(Annealed, _by), (nn.CrossEntropyLoss, _smoothing), (CrossEntropyLossFlat, _smoothing)])
def test_losses_are_those_of_the_loss_as_it_was_then(make, change):
    cb, said = changing(make(), change, 4)
    assert len(cb.watch.waiting) == (0 if make is Annealed else 4) # torch's own losses can be copied, so their passes wait
    for p, want in zip(cb.watch.passes["train"], said): np.testing.assert_allclose(p.fields["loss"], [want[int(r)] for r in p.rows], atol=1e-5)
    assert len(cb.watch.passes["train"]) == 4 and not cb.watch.waiting


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, CrossEntropyLossFlat, FocalLossFlat])
def test_a_weight_that_is_changed_in_place_does_not_reach_earlier_passes(kind):
    def heavier(loss, epoch): getattr(loss, "func", loss).weight.mul_(torch.tensor([2., 1., 1.]))
    runs = [InterpretationCallback(on="train", plot=False) for _ in range(2)]
    for cb, at_once in zip(runs, (False, True)):
        loss = kind(weight=torch.tensor([1., 2., 3.]))
        class Changes(Callback):
            def after_epoch(self):
                if at_once: cb.watch.finish()
                heavier(loss, self.learn.epoch)
        fit(learner(loss), 4, [cb, Changes()])
    assert runs[0].watch.waiting and not runs[1].watch.waiting
    first, second = ([p.fields["loss"] for p in cb.watch.passes["train"]] for cb in runs)
    for a, b in zip(first, second): np.testing.assert_array_equal(a, b)


def test_a_long_first_pass_says_at_once_what_is_wrong(monkeypatch):
    from interp_kit.training import passes
    for limit, when in ((0., "fit"), (1e9, "question")):
        monkeypatch.setattr(passes, "_LONG", limit)
        learn, cb = learner(), InterpretationCallback(on="train", plot=False)
        learn.dls.vocab = ["one", "two"] # of three
        if when == "fit":
            with pytest.warns(UserWarning, match="no longer watches the train rows: ModelError: The model has 3 outputs"): fit(learn, 2, [cb])
        else:
            with warnings.catch_warnings(): warnings.simplefilter("error"); fit(learn, 2, [cb])
            with pytest.warns(UserWarning, match="no longer watches"), pytest.raises(DataError, match="No train pass was kept: ModelError: The model has 3 outputs"): cb.cartography()
            with pytest.raises(DataError, match="No train pass was kept"): cb.interpretation


def test_labels_changed_in_place_do_not_reach_earlier_passes():
    x, y, cb = torch.randn(20, 5), torch.randint(0, C, (20,)), InterpretationCallback(on="valid", plot=False)
    class Changes(Callback):
        def after_epoch(self): y.add_(1).remainder_(C)
    fit(as_learner(Net(), [(x, y)], nn.CrossEntropyLoss()), 3, [cb, Changes()])
    labels = [p.fields["label"] for p in cb.watch.passes["valid"]]
    for e in (0, 1): np.testing.assert_array_equal(labels[e + 1], (labels[e] + 1) % C)


def test_what_waits_is_bounded(monkeypatch):
    import interp_kit.training.callbacks as module
    cb, most = InterpretationCallback(on="train", plot=False), []
    class Looks(Callback):
        order = 2000
        def after_epoch(self): most.append(len(cb.watch.waiting))
    learn = learner(); fit(learn, 1, [cb])
    size = cb.watch.waiting[0].size
    assert N*C + N < size < N*C + N + 1000*len(learn.dls.train) # outputs, targets, and something for each tensor
    monkeypatch.setattr(module, "_WAIT", 4*size)
    fit(learn, 8, [cb, Looks()])
    assert most == [1, 2, 3, 0, 1, 2, 3, 0] # a fit begins with none
    assert [p.epoch for p in cb.watch.passes["train"]] == list(range(9))


def test_an_interrupt_while_passes_are_finished_loses_none(monkeypatch):
    from interp_kit.training import passes
    cb, spy, done = InterpretationCallback(on="both", plot=False), Spy(), []
    fit(learner(), 4, [spy, cb])
    real = passes._row_margins
    def stops(*a):
        done.append(1)
        if len(done) == 3: raise KeyboardInterrupt
        return real(*a)
    monkeypatch.setattr(passes, "_row_margins", stops)
    with pytest.raises(KeyboardInterrupt): cb.cartography()
    assert len(cb.watch.waiting) == 6 # of eight, two were finished
    check(cb, spy); check(cb, spy, "valid")
    assert len(cb.history) == 8


def test_an_interrupt_while_a_large_pass_is_finished_leaves_it_out(monkeypatch):
    import interp_kit.training.callbacks as module
    from interp_kit.training import passes
    for m in (module, passes): monkeypatch.setattr(m, "_WAIT", 8*C)
    cb, real, done = InterpretationCallback(on="train", plot=False), passes._scattered, []
    def stops(*a):
        done.append(1)
        if len(done) == 20: raise KeyboardInterrupt # in the third pass, which has eight arrays as each
        return real(*a)
    monkeypatch.setattr(passes, "_scattered", stops)
    learn = learner()
    with pytest.raises(KeyboardInterrupt): fit(learn, 5, [cb])
    monkeypatch.undo()
    assert [p.epoch for p in cb.watch.passes["train"]] == [0, 1] and not cb.watch.stopped


def test_an_interrupt_while_blocks_are_put_in_order_loses_none(monkeypatch):
    from interp_kit.training import passes
    monkeypatch.setattr(passes, "_BLOCK", 1) # all batches are worked out at once
    cb, spy = InterpretationCallback(on="both", plot=False), Spy()
    fit(learner(), 2, [spy, cb])
    with monkeypatch.context() as m:
        m.setattr(passes, "_scattered", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): cb.history
    check(cb, spy); check(cb, spy, "valid")
    assert len(cb.history) == 4


def in_place(z, t): z.clamp_(-.1, .1); return F.cross_entropy(z, t)


@pytest.mark.parametrize("block", [2**20, 8*C])
def test_a_loss_that_works_in_place_trains_as_without(block, monkeypatch):
    from interp_kit.training import passes
    monkeypatch.setattr(passes, "_BLOCK", block)
    trained = []
    for cbs in ([], [InterpretationCallback(on="both", plot=False)]):
        learn = learner(in_place); fit(learn, 2, cbs); trained.append(weights(learn))
    assert torch.equal(*trained)


def test_outputs_changed_after_the_loss_do_not_reach_the_pass():
    spy, cb = Spy(), InterpretationCallback(on="both", plot=False)
    class Spoils(Callback):
        order = 2000
        def after_batch(self): self.learn.pred.data.zero_(); self.learn.yb[0].zero_()
    fit(learner(), 3, [spy, cb, Spoils()])
    check(cb, spy); check(cb, spy, "valid")


@pytest.mark.parametrize("block", [2**20, 8*C, 3*C, C])
def test_slices_of_any_size_say_the_same(block, monkeypatch):
    from interp_kit.training import passes
    monkeypatch.setattr(passes, "_BLOCK", block)
    spy, cb = Spy(), InterpretationCallback(on="both", plot=False)
    fit(learner(), 2, [spy, cb])
    check(cb, spy); check(cb, spy, "valid")


def test_what_waits_of_a_broken_fit_does_not_reach_the_next():
    learn, cb = learner(), InterpretationCallback(on="train", plot=False)
    learn.dls.vocab = ["one", "two"] # of three
    fit(learn, 2, [cb])
    learn.dls = learner().dls
    with pytest.warns(UserWarning, match="no longer watches"): fit(learn, 3, [cb])
    assert len(cb.history) == 3 and len(cb.interpretation) == N


def test_wrapped_and_hooked_losses_do_not_wait():
    import functools
    state = dict(k=1.)
    @functools.wraps(F.cross_entropy)
    def wrapped(*a, **k): return state["k"]*F.cross_entropy(*a, **k)
    hooked, replaced = nn.CrossEntropyLoss(), nn.CrossEntropyLoss()
    hooked.register_forward_hook(lambda m, x, out: state["k"]*out)
    replaced.forward = lambda *a, **k: state["k"]*F.cross_entropy(*a, **k)
    for loss in (wrapped, hooked, replaced):
        state["k"] = 1.
        def larger(loss, epoch): state["k"] *= 10
        cb, said = changing(loss, larger, 3)
        for p, want in zip(cb.watch.passes["train"], said): np.testing.assert_allclose(p.fields["loss"], [want[int(r)] for r in p.rows], rtol=1e-4)
        assert len(said) == 3


class Numbered(torch.utils.data.Sampler):
    "Rows by large numbers."
    def __init__(self, first): self.first = first
    def __len__(self): return N
    def __iter__(self): return iter((self.first + torch.randperm(N)).tolist())


@pytest.mark.parametrize("first", [10**13, -40])
def test_rows_with_odd_numbers(first):
    class Far(Rows):
        def __getitem__(self, i): return super().__getitem__(i - first)
    cb = InterpretationCallback(on="train", plot=False)
    fit(learner(train=DataLoader(Far(N), 8, sampler=Numbered(first))), 2, [cb])
    assert [p.rows.tolist() for p in cb.watch.passes["train"]] == [list(range(first, first + N))]*2


def test_a_task_is_decided_by_many_rows(monkeypatch):
    from interp_kit.training import passes
    monkeypatch.setattr(passes, "_BLOCK", 16)
    x, y = torch.randn(6, 1, 4, 4), torch.rand(6, 1, 4, 4); y[0] = 0 # by chance
    learn = as_learner(nn.Conv2d(1, 1, 1), [(x, y)], lambda p, t: ((p - t)**2 + 1e-3).sqrt().mean()); cb = InterpretationCallback(on="valid", plot=False)
    fit(learn, 2, [cb])
    assert cb.interpretation.predictions.task == "regression"


def test_a_warning_that_is_an_error_loses_nothing_else():
    learn, cb = learner(), InterpretationCallback(on="both", plot=False)
    class Renames(Callback):
        def after_epoch(self): self.learn.dls[0].vocab, self.learn.dls[1].vocab = ["one", "two"], list("abc")
    fit(learn, 2, [cb, Renames()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no longer watches the train rows"): cb.history
        assert len(cb.interpretation) == V and len(cb.watch.passes["valid"]) == 2


@pytest.mark.parametrize("loss, channels", [(CrossEntropyLossFlat(axis=1), C), (nn.CrossEntropyLoss(ignore_index=1), C), (BCEWithLogitsLossFlat(), 1)])
def test_masks_of_training_images_are_those_that_the_model_gave(loss, channels):
    x, y, _, _ = images(12, "segmentation"); x[:, 0, 0, 0] = torch.arange(12)
    if channels == 1: y = (y > 0)[:, None].float()
    said = {}
    class Sees(Callback):
        def after_loss(self):
            if self.training: said.update(zip(self.learn.xb[0][:, 0, 0, 0].long().tolist(), self.learn.pred.detach().argmax(1) if channels > 1 else self.learn.pred.detach()[:, 0] > 0))
    cb = InterpretationCallback(on="both", plot=False)
    learn = Learner(DataLoaders(DataLoader(TensorDataset(x, y), 5, shuffle=True), DataLoader(TensorDataset(x, y), 5)), nn.Conv2d(3, channels, 1), loss_func=loss, cbs=[Sees(), cb])
    learn.task = "segmentation"
    fit(learn, 2)
    p = cb.interpretation_of("train").predictions
    assert torch.equal(p.decoded.long(), torch.stack([said[i] for i in range(12)]).long()) and torch.equal(p.targs.long(), y.long().reshape(12, 8, 8))
    scores = cb.interpretation_of("train").metrics()
    right = (p.decoded == p.targs)[p.targs != getattr(loss, "ignore_index", -100)]
    assert abs(scores["pixel_accuracy"] - float(right.float().mean())) < 1e-6 and isinstance(cb.interpretation_of("train").findings(), list)
    assert "mean_confidence" in cb.interpretation_of("valid").metrics()


def segments(loss, net, x, y, bs=5):
    learn = Learner(DataLoaders(DataLoader(TensorDataset(x, y), bs, shuffle=True), DataLoader(TensorDataset(x, y), bs)), deepcopy(net), loss_func=loss)
    learn.task = "segmentation"
    return learn


def one_by_one(monkeypatch):
    "Batches do not wait: the first of the first pass decides, the others follow one by one."
    import interp_kit.training.callbacks as callbacks
    from interp_kit.training import passes
    for m in (passes, callbacks): monkeypatch.setattr(m, "_WAIT", 1)
    return passes


@pytest.mark.parametrize("loss, quick", [(CrossEntropyLossFlat(axis=1), True), (nn.CrossEntropyLoss(ignore_index=1), True), (nn.CrossEntropyLoss(weight=torch.tensor([1., 2, 3])), True),
                                         (CrossEntropyLossFlat(axis=1, weight=torch.tensor([0., 2, 3]), ignore_index=2), True), (CrossEntropyLossFlat(axis=1, label_smoothing=.1), False)])
def test_maps_in_one_sweep_say_what_the_loss_and_the_softmax_say(loss, quick, monkeypatch):
    passes = one_by_one(monkeypatch)
    x, y, net, _ = images(12, "segmentation"); y[3] = 2
    real, calls, said = passes.map_facts, [], []
    for on in (True, False):
        monkeypatch.setattr(passes, "map_facts", lambda *a, **k: calls.append(on) or (real(*a, **k) if on else None))
        torch.manual_seed(1); cb = InterpretationCallback(on="both", plot=False)
        fit(segments(loss, net, x, y), 2, [cb]); said.append([cb.interpretation_of(s).predictions for s in ("train", "valid")])
    assert calls == ([True]*10 + [False]*10 if quick else []) # of twelve batches
    for a, b in zip(*said):
        assert torch.allclose(a.losses, b.losses, atol=1e-6, equal_nan=True) and torch.equal(a.decoded, b.decoded) and torch.equal(a.targs, b.targs) and a.meta["loss"] == b.meta["loss"]
        assert a.decoded.dtype == b.decoded.dtype and set(a.columns) == set(b.columns) and all(torch.allclose(v, b.columns[k], atol=1e-5) for k, v in a.columns.items())


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), CrossEntropyLossFlat(axis=1)])
def test_void_pixels_are_those_of_the_loss_as_it_is(loss, monkeypatch):
    one_by_one(monkeypatch)
    x, y, net, _ = images(12, "segmentation"); cb = InterpretationCallback(on="valid", plot=False)
    learn = segments(loss, net, x, y); fit(learn, 1, [cb])
    getattr(loss, "func", loss).ignore_index = 1 # fastai's wrapper keeps its own, which does nothing
    fit(learn, 1, [cb])
    p = cb.interpretation.predictions; z = learn.model.eval()(x).detach()
    ref = torch.stack([F.cross_entropy(a[None], b[None], ignore_index=1) for a, b in zip(z, y)])
    assert torch.allclose(p.losses, ref, atol=1e-6) and p.ignore_index == 1
    assert torch.allclose(p.columns["mass"][:, 1].sum(1), (y != 1).flatten(1).sum(1).float(), atol=1e-3)


def test_a_loss_that_changes_within_a_pass_judges_each_batch_as_it_is_then(monkeypatch):
    one_by_one(monkeypatch)
    x, y, net, _ = images(15, "segmentation"); loss = nn.CrossEntropyLoss(); cb = InterpretationCallback(on="valid", plot=False)
    class Changes(Callback):
        def before_batch(self):
            if not self.training: loss.ignore_index = -100 if self.iter == 0 else 1
    learn = segments(loss, net, x, y); fit(learn, 1, [cb, Changes()])
    z = learn.model.eval()(x).detach()
    ref = torch.stack([F.cross_entropy(a[None], b[None], ignore_index=-100 if i < 5 else 1) for i, (a, b) in enumerate(zip(z, y))])
    assert torch.allclose(cb.interpretation.predictions.losses, ref, atol=1e-6)


def test_what_a_void_pixel_holds_does_not_matter(monkeypatch):
    one_by_one(monkeypatch)
    x, y, net, _ = images(12, "segmentation"); y[:, 0, 0] = 255; x[7, :, 0, 0] = torch.inf
    cb = InterpretationCallback(on="valid", plot=False); learn = segments(nn.CrossEntropyLoss(ignore_index=255), net, x, y)
    learn.dls[0].dataset.tensors = x[:6], y[:6] # trained without them
    fit(learn, 2, [cb])
    m = cb.interpretation.metrics()
    assert not cb.watch.stopped and np.isfinite(m["mean_confidence"]) and cb.interpretation.predictions.losses.isfinite().all()


def test_a_lost_loss_stays_lost(monkeypatch):
    one_by_one(monkeypatch)
    class Shifts(Callback):
        def before_batch(self):
            if not self.training and self.iter == 1: self.learn.yb = (self.yb[0] + C,)
    class Back(Callback):
        order = 100
        def before_batch(self):
            if not self.training and self.iter == 1: self.learn.yb = (self.yb[0] - C,)
    x, y, net, loss = images(15, "segmentation"); cb = InterpretationCallback(on="valid", plot=False)
    shifts, back = Shifts(), Back(); shifts.order = -100
    fit(segments(loss, net, x, y), 1, [shifts, cb, back])
    losses = cb.interpretation.predictions.losses
    assert losses[:5].isfinite().all() and losses[5:].isnan().all() and not cb.watch.stopped


def test_a_small_last_batch_is_judged_as_the_others(monkeypatch):
    from interp_kit.training import passes
    monkeypatch.setattr(passes, "_BLOCK", 8*C + 8 + passes._EACH) # batches of 8 do not wait, the last one of 5 does
    loss, spy, cb = nn.CrossEntropyLoss(), Spy(), InterpretationCallback(on="train", plot=False)
    fit(learner(loss), 1, [spy, cb])
    loss.label_smoothing = .9; loss.register_forward_hook(lambda m, i, o: o*0 + 99)
    check(cb, spy)


def test_hooks_put_on_a_loss_later_do_not_reach_what_waits():
    loss, spy, cb = nn.CrossEntropyLoss(), Spy(), InterpretationCallback(on="both", plot=False)
    fit(learner(loss), 2, [spy, cb])
    loss.register_forward_hook(lambda m, i, o: o*0 + 99)
    check(cb, spy); check(cb, spy, "valid")


def test_losses_that_call_what_a_user_gave_are_not_as_written():
    from interp_kit.predictions.losses import is_as_written as _as_written
    own = CrossEntropyLossFlat(axis=1); own.activation = lambda z: (z/5).softmax(1)
    assert not _as_written(nn.TripletMarginWithDistanceLoss(distance_function=nn.Sequential(nn.Dropout(), nn.PairwiseDistance()))) and not _as_written(nn.TripletMarginWithDistanceLoss()) and not _as_written(own)
    assert all(map(_as_written, (nn.CrossEntropyLoss(weight=torch.ones(C)), CrossEntropyLossFlat(axis=1), LabelSmoothingCrossEntropy(), FocalLossFlat(), F.cross_entropy, BCEWithLogitsLossFlat())))


def test_a_pass_without_rows_says_so():
    cb = InterpretationCallback(on="valid", plot=False); fit(learner(), 1, [cb])
    p = cb.watch.passes["valid"][0]; p.drop_arrays()
    with pytest.raises(DataError, match="Nothing is kept of this pass but losses"): p.predictions
