"Predictions on disk: equal to those in memory, found when damaged, refused when they are of something else."
import json, os, subprocess, sys, threading
from pathlib import Path
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from interp_kit.all import (ClassificationInterpretation, DataError, Features, NotFoundError, Predictions, StorageError, TaskError, as_learner, capture, interpret)
from interp_kit.demo import demo_learner
from interp_kit.predictions.folder import _content_hash as content_hash

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
    with pytest.raises(StorageError, match="the observers \\(or what they hold"): capture(learner(), path=p, observers=[Features()], progress=False)
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
        f.write_text(json.dumps(o))
    o = json.loads((tmp_path/"p"/"plan.json").read_text()); newer = {**o, "format_version": "1.7"}; (tmp_path/"p"/"plan.json").write_text(json.dumps(newer))
    m = {k: v for k, v in json.loads((tmp_path/"p"/"manifest.json").read_text()).items() if k != "sha256"}; m.update(format_version="1.7", plan=content_hash(newer, "created"), more="of a later minor version")
    (tmp_path/"p"/"manifest.json").write_text(json.dumps({**m, "sha256": content_hash(m)})); assert len(Predictions.open(tmp_path/"p")) == N
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
    code = f"import sys, time\nfrom interp_kit.files import locked\nwith locked({str(p)!r}): print('held', flush=True); time.sleep(60)"
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


# What a reviewer found, and it shall not come back.

def test_tuple_targets_of_a_stream(tmp_path):
    x, y = data(); v = x.sum(1)
    dl = [(x[i:i+32], (y[i:i+32], v[i:i+32])) for i in range(0, N, 32)]
    learn = as_learner(Two(), dl, lambda p, t: F.cross_entropy(p[0], t[0]) + F.mse_loss(p[1], t[1]))
    a, b = capture(learn, progress=False), capture(learn, path=tmp_path/"p", progress=False)
    assert len(a) == len(b) == N; same(a, b)


class Holds:
    "An observer whose state has a bit of everything."
    def __init__(self): self.n, self.mean, self.kept = 0, 0., []
    def on_batch(self, rows, inputs, outputs): self.n += len(rows); self.mean += float(inputs[0].sum())
    def state(self): return dict(n=self.n, mean=self.mean, t=(1.25, "x"), nan=float("nan"), np=np.float64(2.5), a=np.arange(3))
    def merge(self, s): self.n += s["n"]; self.mean += s["mean"]; self.kept.append(s)


def test_states_come_back_as_they_were(tmp_path):
    a, b = Holds(), Holds()
    capture(learner(), observers=[a], progress=False); capture(learner(), path=tmp_path/"p", observers=[b], progress=False)
    assert b.n == a.n == N and abs(a.mean - b.mean) < 1e-3
    s = b.kept[-1]; assert s["t"] == (1.25, "x") and s["nan"] != s["nan"] and s["np"] == 2.5 and (s["a"] == np.arange(3)).all()
    c = Holds(); capture(learner(), path=tmp_path/"p", observers=[c], progress=False); assert c.n == N # nothing ran, all is known
    f = Features(); q = capture(learner(), path=tmp_path/"q", observers=[f], progress=False); assert torch.equal(f.columns()["features"][1], q.features)
    class Deaf:
        def on_batch(self, rows, inputs, outputs): pass
    with pytest.raises(DataError, match="no state\\(\\) and merge"): capture(learner(), path=tmp_path/"r", observers=[Deaf()], progress=False)
    with pytest.raises(DataError, match="Two observers keep a column"): capture(learner(), observers=[Features(), Features()], progress=False)


@pytest.mark.parametrize("file", ["rows.npy", "positions.npy", "items.json", "decision.json", "shards/00002.json", "plan.json", "manifest.json", "cols/loss.npy", "cols/in-order-preds.npy"])
def test_no_damage_is_taken_over(file, tmp_path):
    "Whatever byte changes: verifying says so, and capturing again restores the very same files."
    class Files(torch.utils.data.Dataset):
        def __init__(self): self.x, self.y = data(); self.samples = [(f"img{i}.png", int(c)) for i, c in enumerate(self.y)]
        def __len__(self): return N
        def __getitem__(self, i): return self.x[i], self.y[i]
    rows = np.random.default_rng(0).permutation(np.arange(3, N)).tolist()
    learn = learner(DataLoader(Files(), batch_sampler=[rows[i:i+20] for i in range(0, len(rows), 20)]))
    p = tmp_path/"p"; capture(learn, path=p, progress=False); before = files(p)
    raw = before[file]
    for at in {len(raw) - 7, len(raw)//2, 140 if file != "plan.json" else raw.index(b'"model"') + 15}: # when it was made is not checked
        b = bytearray(raw); b[at] ^= 4; (p/file).write_bytes(b)
        with pytest.raises(StorageError): Predictions.open(p, verify=True)
        if file == "plan.json": (p/file).write_bytes(raw); continue # it says what to do: start anew
        capture(learn, path=p, progress=False); assert files(p) == before, at


def test_settings_without_a_name_are_told_apart(tmp_path):
    import functools
    def soft(x, T): return (x/T).softmax(1)
    capture(learner(), path=tmp_path/"a", act=functools.partial(soft, T=1.), progress=False)
    with pytest.raises(StorageError, match="the activation"): capture(learner(), path=tmp_path/"a", act=functools.partial(soft, T=5.), progress=False)
    class Wrapped(nn.Module):
        def __init__(self, w): super().__init__(); self.ce = nn.CrossEntropyLoss(weight=torch.tensor(w))
        def forward(self, p, t): return self.ce(p, t)
    capture(learner(loss=Wrapped([1., 1, 1, 1])), path=tmp_path/"b", progress=False); capture(learner(loss=Wrapped([1., 1, 1, 1]).eval()), path=tmp_path/"b", progress=False)
    with pytest.raises(StorageError, match="the loss"): capture(learner(loss=Wrapped([1., 1, 1, 2])), path=tmp_path/"b", progress=False)
    def two(k): torch.manual_seed(0); net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, C)); return as_learner(net, loader(), nn.CrossEntropyLoss()), [Features(net[k])]
    learn, obs = two(0); capture(learn, path=tmp_path/"c", observers=obs, progress=False); learn, obs = two(0); capture(learn, path=tmp_path/"c", observers=obs, progress=False)
    learn, obs = two(2)
    with pytest.raises(StorageError, match="the observers"): capture(learn, path=tmp_path/"c", observers=obs, progress=False)
    x, y = data()
    rows = lambda y: DataLoader([(x[i], np.int64(y[i])) for i in range(N)], batch_size=16)
    capture(learner(rows(y)), path=tmp_path/"d", progress=False); y2 = y.clone(); y2[201] = (y2[201] + 1) % C
    with pytest.raises(StorageError, match="the data"): capture(learner(rows(y2)), path=tmp_path/"d", progress=False)


def test_overwriting_never_loses_both(tmp_path, monkeypatch):
    p = capture(learner(), progress=False); p.save(tmp_path/"p"); before = files(tmp_path/"p")
    real = os.replace
    def fails(a, b):
        if str(b).endswith("/p"): monkeypatch.undo(); raise KeyboardInterrupt
        real(a, b)
    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KeyboardInterrupt): p[:9].save(tmp_path/"p", overwrite=True)
    assert files(tmp_path/"p") == before and [f.name for f in tmp_path.iterdir()] == ["p"]
    (tmp_path/"p"/"thesis.txt").write_text("x")
    with pytest.raises(StorageError, match="no predictions"): p.save(tmp_path/"p", overwrite=True)
    with pytest.raises(StorageError, match="thesis.txt|no predictions"): capture(learner(), path=tmp_path/"p", resume=False, progress=False)


def test_interrupted_while_starting_anew(tmp_path, monkeypatch):
    import shutil
    p = tmp_path/"p"; capture(learner(), path=p, progress=False)
    real, calls = shutil.rmtree, []
    def rmtree(path, *a, **kw):
        calls.append(path)
        if len(calls) == 2: raise KeyboardInterrupt
        real(path, *a, **kw)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt): capture(learner(seed=1), path=p, resume=False, progress=False)
    monkeypatch.undo()
    learn = learner(seed=1); same(capture(learn, path=p, resume=False, progress=False), capture(learn, progress=False))


def test_shards_of_another_plan_are_never_taken(tmp_path):
    import shutil
    a, b = tmp_path/"a", tmp_path/"b"
    capture(learner(), path=a, progress=False); want = capture(learner(seed=1), path=b, progress=False).preds.clone()
    for f in (a/"shards").iterdir(): shutil.copy(f, b/"shards")
    (b/"manifest.json").unlink(); learn = learner(seed=1)
    assert torch.equal(capture(learn, path=b, progress=False).preds, want) and learn.model.rows == N


def test_names_of_columns(tmp_path):
    class Two_(Holds):
        def __init__(self): super().__init__(); self.seen = []
        def on_batch(self, rows, inputs, outputs): self.seen.append(rows)
        def columns(self): r = np.concatenate(self.seen) if self.seen else np.zeros(0, int); return {k: (r, torch.as_tensor(r).float()) for k in ("layer1.0", "layer1.1", "a/b")} if len(r) else {}
    p = capture(learner(), path=tmp_path/"p", observers=[Two_()], progress=False)
    assert set(p.columns) == {"layer1.0", "layer1.1", "a/b"} and torch.equal(p.columns["a/b"], torch.arange(N).float())
    p.save(tmp_path/"q"); assert set(Predictions.open(tmp_path/"q").columns) == set(p.columns)


def test_first_rows_that_mislead(tmp_path):
    from interp_kit.all import ModelError
    x = torch.randn(N, 6); x[:100] = x[:100].abs().clamp(max=.9)
    bce = lambda p, t: F.binary_cross_entropy_with_logits(p, t)
    learn = as_learner(nn.Identity(), [(x[i:i+20]*(5 if i >= 100 else 1), (x[i:i+20] > 0).float()) for i in range(0, N, 20)], bce, task="multilabel")
    with pytest.raises(ModelError, match="pass act="): capture(learn, path=tmp_path/"p", progress=False)
    v = torch.rand(N, 1)*.9; v[:20] = 0
    learn = as_learner(nn.Linear(6, 1), DataLoader(TensorDataset(x, v), batch_size=20), lambda p, t: ((p - t)**2).mean())
    assert capture(learn, progress=False).task == "regression"
    with pytest.raises(ModelError, match="no classes"): capture(learn, path=tmp_path/"q", progress=False)
    assert not (tmp_path/"q").exists() or not (tmp_path/"q"/"manifest.json").exists()


def test_images_that_change_their_size(tmp_path):
    from interp_kit.all import ModelError
    batches = [(torch.randn(2, 1, s, s), torch.zeros(2, s, s).long()) for s in (8, 8, 8, 12)]
    learn = as_learner(Dense(3), batches, nn.CrossEntropyLoss())
    for path in (None, tmp_path/"p"):
        with pytest.raises(ModelError, match="change their shape"): capture(learn, path=path, progress=False)


def test_a_pass_that_fails_at_once_leaves_no_folder(tmp_path):
    def broken(p, t): raise ValueError("no")
    with pytest.raises(Exception, match="no"): capture(learner(loss=broken), path=tmp_path/"p", progress=False)
    assert not (tmp_path/"p").exists()


def test_moved_and_pickled(tmp_path, monkeypatch):
    import pickle
    from interp_kit.demo import demo_learner
    monkeypatch.chdir(tmp_path); p = capture(demo_learner(), path="rel", progress=False); q = pickle.loads(pickle.dumps(p[[3, 1]]))
    monkeypatch.chdir("/"); assert list(p[[3, 1]].items) == list(q.items) and str(q.items[0]).endswith(".png")


def test_a_whole_capture_can_be_had_again_where_nothing_can_be_written(tmp_path, monkeypatch):
    p = tmp_path/"p"; capture(learner(), path=p, progress=False)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    learn = learner(); assert len(capture(learn, path=p, progress=False)) == N and learn.model.rows == 0


def test_buffers_that_change_in_eval(tmp_path):
    class Drifts(nn.Module):
        def __init__(self): super().__init__(); self.lin = nn.Linear(6, C); self.register_buffer("n", torch.zeros(()))
        def forward(self, x): self.n += 1; return self.lin(x) + self.n
    def learn(): torch.manual_seed(0); return as_learner(Drifts(), loader(), nn.CrossEntropyLoss())
    StopAt.left = 10**9; whole = capture(learn(), path=tmp_path/"a", observers=[StopAt()], progress=False)
    StopAt.left = 150
    with pytest.raises(Stop): capture(learn(), path=tmp_path/"b", observers=[StopAt()], progress=False)
    StopAt.left = 10**9; assert torch.equal(capture(learn(), path=tmp_path/"b", observers=[StopAt()], progress=False).preds, whole.preds)


def test_the_users_generators_stay(tmp_path):
    g = torch.Generator().manual_seed(3); dl = loader(shuffle=True, generator=g); before = g.get_state()
    capture(learner(dl), progress=False); capture(learner(dl), path=tmp_path/"p", progress=False); assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("flat", [True, False])
def test_a_head_of_one_probability_beside_another(flat, tmp_path):
    x, y = data(); yes, v = (y > 1).float(), x.sum(1)
    class Heads(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(6, 1), nn.Linear(6, 1)
        def forward(self, x): return self.a(x)[:, 0] if flat else self.a(x), self.b(x)[:, 0]
    class Pairs(torch.utils.data.Dataset):
        def __len__(self): return N
        def __getitem__(self, i): return x[i], (yes[i] if flat else yes[i:i+1], v[i])
    learn = as_learner(Heads(), DataLoader(Pairs(), batch_size=32), lambda p, t: F.binary_cross_entropy_with_logits(p[0], t[0]) + F.mse_loss(p[1], t[1]))
    a, b = capture(learn, progress=False), capture(learn, path=tmp_path/"p", progress=False); same(a, b)
    with torch.no_grad(): want = learn.model.eval()(x)[0].reshape(-1).sigmoid()
    assert torch.allclose(a.preds[0][:, 1], want, atol=1e-6) and (a.decoded[0] == (want > .5)).all() and (a.targs[0] == yes).all()
    m = interpret(learn, progress=False).metrics(); assert abs(m[next(k for k in m if k.endswith(".accuracy"))] - float(((want > .5) == yes).float().mean())) < 1e-6
