"What all tests of training share."
import pytest, torch


@pytest.fixture(autouse=True)
def one_thread():
    "Many small runs: a second thread only waits."
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
