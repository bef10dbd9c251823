"CPU seconds of each notebook, in one process with caches warm (the first pays the imports)."
import contextlib, io, time, warnings
from pathlib import Path


def run():
    import matplotlib
    matplotlib.use("agg")
    import fastai.vision.all
    from nbdev.test import test_nb
    res = []
    nbs = Path(__file__).parents[1]/"nbs"
    for nb in sorted(nbs.rglob("*.ipynb")):
        t = time.process_time()
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore"); ok, _ = test_nb(nb)
        res.append(dict(notebook=str(nb.relative_to(nbs)), passed=ok, cpu_s=time.process_time() - t))
    return res
