"What tests share besides fixtures."
import importlib.util, os, shutil
import numpy as np, pytest


def needs(*names):
    "Skip without these packages or programs; with INTERP_KIT_REQUIRE_ALL=1 fail instead."
    missing = [n for n in names if importlib.util.find_spec(n) is None and shutil.which(n) is None]
    if not missing: return
    said = f"needs {', '.join(missing)}"
    if os.environ.get("INTERP_KIT_REQUIRE_ALL") == "1": pytest.fail(said)
    pytest.skip(said)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)


def draw_labels(q, rng):
    return (q.cumsum(1) < rng.random((len(q), 1))).sum(1).clip(0, q.shape[1] - 1)
