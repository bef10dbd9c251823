"Kill a capture with SIGKILL at random points, run it again, and compare with one that was left alone. `python kill.py POINTS SEED` prints a JSON line."
import hashlib, json, os, random, signal, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from torch import nn
from interp_kit.predictions import Features, capture
from interp_kit.core import as_learner
import fastai.learner, fastai.callback.core  # noqa: F401  loaded before the forks, so that they are quick

N, D, C = 2000, 24, 5


class Sum:
    "An observer with a state of its own."
    def __init__(self): self.n, self.total = 0, torch.zeros(D)
    def on_batch(self, rows, inputs, outputs): self.n += len(rows); self.total += torch.Tensor(inputs[0]).detach().sum(0)
    def state(self): return dict(n=self.n, total=self.total)
    def merge(self, s): self.n += s["n"]; self.total = self.total + s["total"]


class Net(nn.Module):
    "Notes the rows that it sees, which stand in the first input."
    def __init__(self, log): super().__init__(); self.lin, self.log = nn.Linear(D, C), log
    def extra_repr(self): return "logging"
    def forward(self, x):
        with open(self.log, "ab", buffering=0) as f: f.write(x[:, 0].long().numpy().astype("<i4").tobytes())
        time.sleep(.002)
        return self.lin(x/N)


def run(path, log):
    torch.manual_seed(0); torch.set_num_threads(1)
    x = torch.randn(N, D); x[:, 0] = torch.arange(N)
    y = torch.randint(0, C, (N,))
    dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32, shuffle=True)
    seen = Sum()
    p = capture(as_learner(Net(log), dl, nn.CrossEntropyLoss(weight=torch.arange(1., C + 1))), path=path, observers=[Features(), seen], progress=False)
    assert seen.n == N and torch.allclose(seen.total, x.sum(0), atol=1e-2) and len(p) == N and p.features.shape == (N, D), "the observers missed something"


def child(path, log):
    pid = os.fork()
    if pid: return pid
    try: run(path, log); os._exit(0)
    except BaseException as e: print(f"{type(e).__name__}: {e}", file=sys.stderr); os._exit(1)


def rows_in(log): return np.fromfile(log, "<i4") if os.path.exists(log) else np.zeros(0, "<i4")


def committed(path):
    return {r for f in Path(path).glob("shards/*.json") for r in range(*(json.loads(f.read_text())[k] for k in ("lo", "hi")))}


def tree(path):
    "name -> hash of every file; the time of creation, which differs by nature, is left out."
    res = {}
    for f in sorted(Path(path).rglob("*")):
        if f.is_dir() or f.name == ".lock": continue
        b = f.read_bytes()
        if f.name == "plan.json": b = json.dumps({k: v for k, v in json.loads(b).items() if k != "created"}).encode()
        res[str(f.relative_to(path))] = hashlib.sha256(b).hexdigest()
    return res


def experiment(points, seed):
    rng, out = random.Random(seed), []
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        _, status = os.waitpid(child(d/"whole", d/"whole.log"), 0); assert status == 0
        assert sorted(rows_in(d/"whole.log")) == list(range(N))
        reference = tree(d/"whole")
        for i in range(points):
            path, log, again = d/f"p{i}", d/f"{i}.log", d/f"{i}.again.log"
            pid, want = child(path, log), rng.randrange(0, N)
            while len(rows_in(log)) < want and os.waitpid(pid, os.WNOHANG)[0] == 0: time.sleep(.001)
            time.sleep(rng.random()*.01)
            try: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError): pass
            kept, partial = committed(path) if path.exists() else set(), len(rows_in(log))
            _, status = os.waitpid(child(path, again), 0); assert status == 0, "the second run failed"
            second = set(rows_in(again).tolist())
            out.append(dict(killed_after_rows=partial, rows_kept=len(kept), rows_run_again=len(second), finished_rows_run_twice=len(kept & second),
                            rows_missing=N - len(kept | second), identical=tree(path) == reference, differ=[k for k in reference if tree(path).get(k) != reference[k]][:3]))
    return out


if __name__ == "__main__": print(json.dumps(experiment(int(sys.argv[1]), int(sys.argv[2]))))
