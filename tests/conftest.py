"Fixtures and helpers of all tests."
import importlib.util, os, shutil, warnings
import matplotlib
matplotlib.use("agg")
import numpy as np, pytest, torch

torch.set_num_threads(2)
warnings.filterwarnings("ignore", category=FutureWarning)


def needs(*names):
    "Skip without these packages or programs; with INTERP_KIT_REQUIRE_ALL=1 fail instead."
    missing = [n for n in names if importlib.util.find_spec(n) is None and shutil.which(n) is None]
    if not missing: return
    said = f"needs {', '.join(missing)}"
    if os.environ.get("INTERP_KIT_REQUIRE_ALL") == "1": pytest.fail(said)
    pytest.skip(said)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt
    plt.close("all")


@pytest.fixture(scope="session")
def digits():
    from interp_kit.demo import demo_learner
    return demo_learner()


@pytest.fixture
def count_rows():
    "count_rows(learn) -> list that grows by the number of rows of every forward pass of its model."
    handles = []
    def count(learn):
        seen = []
        handles.append(learn.model.register_forward_hook(lambda m, i, o: seen.append(len(i[0]))))
        return seen
    yield count
    for h in handles: h.remove()


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)


def draw_labels(q, rng):
    return (q.cumsum(1) < rng.random((len(q), 1))).sum(1).clip(0, q.shape[1] - 1)
