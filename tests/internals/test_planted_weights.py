"Planted faults in weights are found, and only they; three seeds here, more in the bench."
import pytest, torch
from bench.planted_weights import CASES, CLEAN


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.mark.parametrize("name", CASES)
def test_planted_fault_is_found_and_only_it(name):
    make, wanted, also = CASES[name]
    for seed in range(3):
        found = {f.type for f in make(seed)}
        assert wanted in found and found <= {wanted} | also, (seed, found)


@pytest.mark.parametrize("name", CLEAN)
def test_sound_weights_give_no_finding(name):
    for seed in range(3): assert not CLEAN[name](seed), seed
