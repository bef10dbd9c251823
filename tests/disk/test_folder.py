"Predictions on disk: equal to those in memory, found when damaged, refused when they are of something else."
import json, os, subprocess, sys, threading
from pathlib import Path
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from interp_kit.all import (ClassificationInterpretation, DataError, Features, NotFoundError, Predictions, StorageError, TaskError, as_learner, capture, interpret)
from interp_kit.demo import demo_learner
from interp_kit.predictions import Folder

pytestmark = pytest.mark.filterwarnings("ignore")
N, C = 300, 4


class Counting(nn.Module):
    "Counts the rows that it sees."
    def __init__(self, inner): super().__init__(); self.inner, self.rows = inner, 0
    def forward(self, *x): self.rows += len(x[0]); return self.inner(*x)


def data(n=N): g = torch.Generator().manual_seed(0); return torch.randn(n, 6, generator=g), torch.randint(0, C, (n,), generator=g)


def loader(x=None, y=None, bs=16, **kw): a, b = data(); return DataLoader(TensorDataset(a if x is None else x, b if y is None else y), batch_size=bs, **kw)


def learner(dl=None, loss=None, seed=0):
    torch.manual_seed(seed)
    return as_learner(Counting(nn.Linear(6, C)), loader() if dl is None else dl, loss or nn.CrossEntropyLoss())


def files(path): return {str(f.relative_to(path)): f.read_bytes() for f in Path(path).rglob("*") if f.is_file() and f.name != ".lock"}


def same(a, b):
    both = lambda f, o: tuple(f(x) for x in o) if isinstance(o, tuple) else (f(o),)
    for k in ("targs", "decoded") + (("preds",) if a.has_preds and b.has_preds else ()):
        for u, v in zip(both(lambda t: t, getattr(a, k)), both(lambda t: t, getattr(b, k))): assert u.dtype == v.dtype and torch.allclose(u.double(), v.double(), atol=1e-6, equal_nan=True), k
    assert torch.allclose(a.losses, b.losses, atol=1e-6, equal_nan=True) and (a.rows == b.rows).all() and a.vocab == b.vocab and a.task == b.task
    assert (a.items is None) == (b.items is None) and (a.items is None or list(a.items) == list(b.items)) and a.meta["loss"] == b.meta["loss"] and a.meta["activation"] == b.meta["activation"]


@pytest.mark.parametrize("task", ["classification", "tabular", "text"])
def test_demo_learners(task, tmp_path):
    learn = demo_learner(task)
    a, b = capture(learn, progress=False, observers=[Features()]), capture(learn, path=tmp_path/"p", progress=False, observers=[Features()])
    same(a, b); assert torch.allclose(a.features, b.features, atol=1e-5)
    assert b.to_frame().select_dtypes(exclude="float").equals(a.to_frame().select_dtypes(exclude="float"))


def _stream(n):
    class Stream(IterableDataset):
        def __iter__(self): return iter(zip(*data(n)))
        def __len__(self): return n
    return DataLoader(Stream(), batch_size=16)


LOADERS = {
    "plain": lambda: loader(), "shuffled, last dropped": lambda: loader(shuffle=True, drop_last=True), "one batch": lambda: loader(bs=1000), "bs 1": lambda: loader(data()[0][:20], data()[1][:20], bs=1),
    "workers": lambda: loader(num_workers=2), "subset sampler": lambda: loader(sampler=torch.utils.data.SubsetRandomSampler(range(0, N, 3))), "subset": lambda: DataLoader(Subset(loader().dataset, list(range(50, 0, -2))), batch_size=8),
    "batch sampler": lambda: DataLoader(loader().dataset, batch_sampler=[list(range(i, N, 10)) for i in range(10)]), "list of batches": lambda: [tuple(t[i:i+70] for t in data()) for i in range(0, N, 70)],
    "iterable": lambda: _stream(N),
}


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader(name, tmp_path):
    dl = LOADERS[name]()
    w = nn.CrossEntropyLoss(weight=torch.tensor([1., 5, .1, 2]), label_smoothing=.1)
    learn = learner(dl, w)
    a = capture(learn, progress=False); n = learn.model.rows
    b = capture(learn, path=tmp_path/"p", progress=False)
    assert learn.model.rows == 2*n == 2*len(a); same(a, b)
    c = capture(learn, path=tmp_path/"p", progress=False); assert learn.model.rows == 2*n; same(b, c)


class Dense(nn.Module):
    def __init__(self, c): super().__init__(); self.conv = nn.Conv2d(1, c, 3, padding=1)
    def forward(self, x): return self.conv(x)


def scenes(n=40, c=3, hw=(12, 17)):
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, c, (n, *hw), generator=g); y[:, 0] = 255; y[3] = 255
    return torch.randn(n, 1, *hw, generator=g), y


def test_segmentation(tmp_path):
    x, y = scenes(); torch.manual_seed(0)
    learn = as_learner(Dense(3), DataLoader(TensorDataset(x, y), batch_size=4), nn.CrossEntropyLoss(ignore_index=255))
    a, b = capture(learn, progress=False), capture(learn, path=tmp_path/"p", progress=False)
    same(a, b)
    assert a.has_preds and not b.has_preds and b.decoded.dtype == b.targs.dtype == torch.uint8 and b.n_classes == 3 and b.ignore_index == 255
    with pytest.raises(DataError, match="probabilities of each pixel were not kept"): b.preds
    with torch.no_grad(): out = learn.model.eval()(x)
    assert (b.decoded == out.argmax(1)).all() and torch.allclose(a.preds, out.softmax(1), atol=1e-5)
    want = torch.stack([F.cross_entropy(o[None], t[None], ignore_index=255) for o, t in zip(out, y)])
    assert torch.allclose(b.losses, want, atol=1e-5, equal_nan=True) and b.losses[3].isnan()
    valid = y != 255
    for k, mask in enumerate((valid & (y == out.argmax(1)), valid)):
        assert (b.columns["counts"][:, k].long() == F.one_hot(y.clamp(max=2), 3).mul(mask[..., None]).sum((1, 2))).all()
    assert not capture(learn, progress=False, probabilities=False).has_preds
    with pytest.raises(TaskError, match="not written to disk"): capture(learn, path=tmp_path/"q", probabilities=True)
    b.save(tmp_path/"copy"); same(b, Predictions.open(tmp_path/"copy", verify=True))


class Two(nn.Module):
    def __init__(self): super().__init__(); self.a, self.b = nn.Linear(6, C), nn.Linear(6, 1)
    def forward(self, x): return self.a(x), self.b(x)[:, 0]


def test_several_outputs_and_regression(tmp_path):
    x, y = data(); v = x.sum(1)
    class Pairs(torch.utils.data.Dataset):
        def __len__(self): return N
        def __getitem__(self, i): return x[i], (y[i], v[i])
    loss = lambda p, t: F.cross_entropy(p[0], t[0]) + F.mse_loss(p[1], t[1])
    learn = as_learner(Two(), DataLoader(Pairs(), batch_size=32), loss)
    a, b = capture(learn, progress=False), capture(learn, path=tmp_path/"p", progress=False)
    same(a, b)
    assert b.meta["tasks"] == ["classification", "regression"] and torch.allclose(b.preds[0].sum(1), torch.ones(N), atol=1e-5) and b.decoded[0].shape == (N,)
    learn = as_learner(nn.Linear(6, 2), DataLoader(TensorDataset(x, x[:, :2]), batch_size=32), nn.MSELoss())
    a, b = capture(learn, progress=False), capture(learn, path=tmp_path/"r", progress=False); same(a, b); assert b.decoded.data_ptr() == b.preds.data_ptr()


@pytest.mark.parametrize("harm", ["one bit", "truncated", "missing", "record damaged", "record missing", "decision missing", "manifest damaged"])
def test_only_what_is_damaged_runs_again(harm, tmp_path):
    learn = learner(); p = tmp_path/"p"
    capture(learn, path=p, progress=False); before = files(p)
    plan, f = json.loads((p/"plan.json").read_text()), p/"shards"/"00003.preds.npy"
    record = p/"shards"/"00003.json"
    if harm == "one bit": b = bytearray(f.read_bytes()); b[200] ^= 1; f.write_bytes(b)
    elif harm == "truncated": os.truncate(f, 150)
    elif harm == "missing": f.unlink()
    elif harm == "record damaged": record.write_text('{"k": 3')
    elif harm == "record missing": record.unlink()
    elif harm == "decision missing": (p/"decision.json").unlink()
    else: (p/"manifest.json").write_text("{")
    with pytest.raises(StorageError): Predictions.open(p, verify=True)
    learn.model.rows = 0
    capture(learn, path=p, progress=False)
    assert learn.model.rows == (0 if harm == "manifest damaged" else plan["shard_rows"]) and files(p) == before
    Predictions.open(p, verify=True)


def test_something_else_is_refused(tmp_path):
    p = tmp_path/"p"; capture(learner(), path=p, progress=False); before = files(p); x, y = data()
    other = x.clone(); other[170, 2] += .5
    class Deeper(nn.Linear):
        "The same parameters, another structure."
    deeper = learner(); deeper.model.inner.__class__ = Deeper
    scaled = [(x[i]*2, y[i]) for i in range(N)]
    cases = {"the model \\(its parameters": learner(seed=1), "its structure": deeper, "the data": learner(loader(other)), "the number of rows": learner(loader(sampler=torch.utils.data.SubsetRandomSampler(range(200)))),
             "the loss": learner(loss=nn.CrossEntropyLoss(label_smoothing=.1)), "the batch size": learner(loader(bs=13)), "the transforms|the data": learner(DataLoader(scaled, batch_size=16))}
    for said, learn in cases.items():
        with pytest.raises(StorageError, match=f"holds predictions of something else.*({said})"): capture(learn, path=p, progress=False)
        assert files(p) == before and learn.model.rows == 0, said
    with pytest.raises(StorageError, match="the activation"): capture(learner(), path=p, act=lambda x: x.softmax(1), progress=False)
    with pytest.raises(StorageError, match="the observers"): capture(learner(), path=p, observers=[Features()], progress=False)
    q = capture(learner(seed=1), path=p, resume=False, progress=False); assert len(q) == N and files(p) != before


def test_other_transforms_of_the_same_files(tmp_path):
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, Learner, Resize, parent_label
    from interp_kit.demo import digit_folder
    items = sorted(Path(digit_folder()).rglob("*.png"))[:60]
    def learn(size):
        torch.manual_seed(0)
        dls = DataBlock((ImageBlock, CategoryBlock), get_y=parent_label, splitter=IndexSplitter(range(40)), item_tfms=Resize(size)).dataloaders(items, bs=8, num_workers=0)
        return Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, len(dls.vocab))), loss_func=nn.CrossEntropyLoss())
    p = capture(learn(24), path=tmp_path/"p", progress=False); assert len(p.items) == 40
    with pytest.raises(StorageError, match="the transforms"): capture(learn(16), path=tmp_path/"p", progress=False)
    os.utime(items[3]); capture_again = lambda: capture(learn(24), path=tmp_path/"p", progress=False)
    with pytest.raises(StorageError, match="the data"): capture_again()


def test_what_is_no_cache(tmp_path):
    with pytest.raises(NotFoundError, match="no predictions"): Predictions.open(tmp_path/"none")
    with pytest.raises(FileNotFoundError): Predictions.open(tmp_path)
    (tmp_path/"mine").mkdir(); (tmp_path/"mine"/"thesis.txt").write_text("do not touch")
    with pytest.raises(StorageError, match="thesis.txt"): capture(learner(), path=tmp_path/"mine", resume=False, progress=False)
    assert [f.name for f in (tmp_path/"mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(StorageError, match="is a file"): capture(learner(), path=tmp_path/"mine"/"thesis.txt", progress=False)
    with pytest.raises(StorageError, match="cannot be written"): capture(learner(), path="/proc/predictions", progress=False)
    p = capture(learner(), path=tmp_path/"p", progress=False)
    for name in ("plan.json", "manifest.json"):
        f = tmp_path/"p"/name; o = json.loads(f.read_text()); f.write_text(json.dumps({**o, "format_version": "2.0"}))
        with pytest.raises(StorageError, match="format version 2.0"): Predictions.open(tmp_path/"p")
        f.write_text(json.dumps({**o, "format_version": "1.7"})); assert len(Predictions.open(tmp_path/"p")) == N
    (tmp_path/"p"/"plan.json").write_text("{")
    with pytest.raises(StorageError, match="plan.json is damaged"): Predictions.open(tmp_path/"p")


class Stop(Exception): "Ends a pass."


class StopAt:
    "An observer that stops the pass after some rows."
    left = 130
    def on_batch(self, rows, inputs, outputs):
        StopAt.left -= len(rows)
        if StopAt.left < 0: raise Stop('enough')
    def state(self): return {}
    def merge(self, s): pass


def test_partial(tmp_path):
    learn, StopAt.left = learner(), 130
    with pytest.raises(Stop): capture(learn, path=tmp_path/"p", observers=[StopAt()], progress=False)
    assert not list((tmp_path/"p").rglob("*.tmp"))
    with pytest.raises(StorageError, match="is not complete: .* of .* shards"): Predictions.open(tmp_path/"p")
    with pytest.warns(UserWarning, match="is not complete"): p = Predictions.open(tmp_path/"p", partial=True)
    cover = p.meta["coverage"]; assert cover["rows"] == len(p) < 130 and cover["of"] == N and (p.rows == np.arange(len(p))).all()
    StopAt.left, learn.model.rows = 10**9, 0
    q = capture(learn, path=tmp_path/"p", observers=[StopAt()], progress=False)
    assert learn.model.rows == N - cover["rows"] and torch.equal(q[:len(p)].preds, p.preds)


def test_two_processes(tmp_path):
    p = tmp_path/"p"; p.mkdir()
    code = f"import sys, time\nfrom interp_kit.predictions import locked\nwith locked({str(p)!r}): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline().strip() == "held"
        learn = learner()
        with pytest.raises(StorageError, match="being written by another process"): capture(learn, path=p, progress=False)
        assert learn.model.rows == 0 and set(files(p)) <= {".lock"}
    finally: other.kill(); other.wait()
    assert len(capture(learn, path=p, progress=False)) == N # the lock went with its owner


@pytest.mark.parametrize("limit", [2000, 6000])
def test_no_space(limit, tmp_path):
    "The kernel refuses files above a size: a clear error, nothing half-written, and the same call goes on afterwards."
    code = f"""
import resource, signal, sys, warnings; warnings.filterwarnings("ignore")
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_folder import learner, capture, StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
learn = learner()
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try: capture(learn, path={str(tmp_path/"p")!r}, progress=False)
except StorageError as e: print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert "cannot be written: File too large" in done.stdout, done.stdout + done.stderr[-800:]
    assert not list(tmp_path.rglob("*.tmp"))
    learn = learner(); same(capture(learn, path=tmp_path/"p", progress=False), capture(learn, progress=False))


def test_full_disk(tmp_path, monkeypatch):
    real, left = os.fsync, [9]
    def fsync(fd):
        left[0] -= 1
        if left[0] < 0: raise OSError(28, "No space left on device")
        real(fd)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="No space left on device"): capture(learner(), path=tmp_path/"p", progress=False)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp"))
    learn = learner(); same(capture(learn, path=tmp_path/"p", progress=False), capture(learn, progress=False))


def test_save_leaves_nothing_behind(tmp_path, monkeypatch):
    p = capture(learner(), progress=False)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left"): p.save(tmp_path/"p")
    monkeypatch.undo(); assert not list(tmp_path.iterdir())
    p.save(tmp_path/"p"); same(p, Predictions.open(tmp_path/"p", verify=True))


def test_interpretation_from_disk(tmp_path):
    learn = demo_learner()
    a, b = ClassificationInterpretation.from_learner(learn), ClassificationInterpretation.from_learner(learn, path=tmp_path/"p")
    assert torch.equal(a.confusion_matrix(), b.confusion_matrix()) and a.most_confused() == b.most_confused()
    for k, v in a.metrics().items(): assert abs(v - b.metrics()[k]) < 1e-6, k
    assert [f.title for f in a.findings()] == [f.title for f in b.findings()]
    assert (a.top_losses(9)[1] == b.top_losses(9)[1]).all() and len(b.plot_top_losses(4)) == 4
    c = interpret(learn, path=tmp_path/"p"); assert type(c) is ClassificationInterpretation and c.predictions.derived.keys() >= {"confidence", "margin", "entropy"}
    d = ClassificationInterpretation.from_predictions(Predictions.open(tmp_path/"p"), learn, learn.dls.valid); assert len(d.plot_top_losses(2)) == 2


def test_writing_to_mapped_predictions_does_not_change_the_files(tmp_path):
    p = capture(learner(), path=tmp_path/"p", progress=False); before = files(tmp_path/"p")
    p.preds[:] = 0; p.losses[:] = 1; assert files(tmp_path/"p") == before


def test_random_transforms_are_the_same_again(tmp_path):
    "A data set that augments by itself is captured alike whether or not it was interrupted."
    class Noisy(torch.utils.data.Dataset):
        def __init__(self): self.x, self.y = data()
        def __len__(self): return N
        def __getitem__(self, i): return self.x[i] + torch.randn(6), self.y[i]
    dl = DataLoader(Noisy(), batch_size=16); StopAt.left = 10**9
    whole = capture(learner(dl), path=tmp_path/"a", observers=[StopAt()], progress=False)
    StopAt.left = 100
    with pytest.raises(Stop): capture(learner(dl), path=tmp_path/"b", observers=[StopAt()], progress=False)
    StopAt.left = 10**9
    assert torch.equal(capture(learner(dl), path=tmp_path/"b", observers=[StopAt()], progress=False).preds, whole.preds)
