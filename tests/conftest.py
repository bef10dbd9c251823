"Fixtures of all tests."
import warnings
import matplotlib
matplotlib.use("agg")
import pytest, torch

torch.set_num_threads(1) # tensors are small: a second thread only waits
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
