"Fixtures of all tests."
import os, warnings
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[name] = "1" # before NumPy starts its threads, and for the programs that tests run: two that wait for one another cost more than they bring
import matplotlib
matplotlib.use("agg")
import pytest, torch

torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=FutureWarning)


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
