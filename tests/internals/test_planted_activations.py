"Planted faults are found, and only they; sound networks are silent. In full: python -m bench planted_activations."
import pytest, torch
from bench.planted_activations import CASES, CLEAN


@pytest.fixture(autouse=True)
def one_thread():
    "Tensors are tiny, and threads that wait for one another cost more than they bring."
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.mark.parametrize("name", CASES)
def test_planted_faults_are_found_and_only_they(name):
    f, wanted, along = CASES[name]
    for seed in range(3):
        types = {o.type for o in f(seed) if o.severity != "info"}
        assert wanted in types and types <= {wanted} | along, (seed, types)


@pytest.mark.parametrize("name", CLEAN)
def test_sound_networks_are_silent(name):
    for seed in range(2 if name.startswith("trained") else 5): assert not [str(o) for o in CLEAN[name](seed) if o.severity != "info"], seed
