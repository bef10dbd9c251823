"Every notebook runs, all in this process, and the package is what they export."
import json, warnings
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(f for f in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts)


@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda f: str(f.relative_to(ROOT/"nbs")))
def test_notebook_runs(nb, capsys):
    from nbdev.test import test_nb as run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ok, _ = run(nb, do_print=True)
    out = capsys.readouterr()
    assert ok, out.out + out.err


def test_every_module_has_its_notebook():
    made = {exported(nb) for nb in NOTEBOOKS}
    files = {".".join(f.relative_to(ROOT/"interp_kit").with_suffix("").parts) for f in (ROOT/"interp_kit").rglob("*.py")} - {"__init__", "_modidx"}
    assert files == made - {None}


def exported(nb):
    for c in json.loads(nb.read_text())["cells"]:
        source = "".join(c["source"])
        if source.startswith("#| default_exp"): return source.split()[2]


def test_notebooks_are_small():
    assert all(f.stat().st_size < 1e6 for f in NOTEBOOKS)
    assert sum(f.stat().st_size for f in NOTEBOOKS) < 15e6
