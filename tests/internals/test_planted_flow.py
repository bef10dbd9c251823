"Planted faults of information flow are found, and clean networks are silent."
import pytest
from bench.planted_flow import CASES, CLEAN

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("name", CASES)
def test_found(name):
    f, want, allowed = CASES[name]
    for seed in SEEDS:
        types = {o.type for o in f(seed) if o.severity != "info"}
        assert want in types and not types - {want} - allowed


@pytest.mark.parametrize("name", CLEAN)
def test_silent(name):
    for seed in SEEDS: assert not [o.title for o in CLEAN[name](seed) if o.severity != "info"]


def test_a_branch_that_is_switched_off_is_only_mentioned():
    from bench.planted_flow import Residual, found
    assert [(o.type, o.severity) for o in found(Residual(True), 0)] == [("collapsed_layer", "info")]*3
