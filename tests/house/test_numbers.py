"The house in numbers stays within its limits; `python tests/house/numbers.py` prints them all."
import pytest
from house.numbers import limit_of, measures


@pytest.mark.parametrize("measure", [pytest.param(m, id=m.name) for m in measures() if limit_of(m) is not None])
def test_limit(measure):
    places, limit = measure.places(), limit_of(measure)
    now = sum(places.values())
    shown = "\n".join(f"  {n}  {place}" for place, n in sorted(places.items(), key=lambda o: -o[1])[:40])
    assert now <= limit, f"{measure.name}: {now}, at most {limit} may be (DESIGN 2 to 4). Where:\n{shown}"
