"A residual branch that is switched off by its initialisation is no fault."
from bench.planted_flow import Residual, found


def test_a_branch_that_is_switched_off_is_only_mentioned():
    assert [(o.type, o.severity) for o in found(Residual(True), 0)] == [("collapsed_layer", "info")]*3
