"Import time as CPU seconds of fresh processes."
import os, resource, statistics, subprocess, sys


def _cpu(args):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(args, check=True, capture_output=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(n=7):
    py = lambda code: [sys.executable, "-c", code]
    cases = {"import interp_kit.predictions": py("import interp_kit.predictions"), "import fastai.vision.all": py("import fastai.vision.all"), "import torch": py("import torch"),
             "import interp_kit.all": py("import interp_kit.all"), "interp-kit --help": py("import sys; from interp_kit.cli import main; main(['--help'])")}
    for c in cases.values(): _cpu(c)
    seen = {k: [] for k in cases}
    for _ in range(n):
        for k, c in cases.items(): seen[k].append(_cpu(c))
    base = seen["import fastai.vision.all"]
    return [dict(what=k, cpu_s=statistics.median(v), ratio_to_fastai_vision_all=statistics.median(a/b for a, b in zip(v, base)), runs=n) for k, v in seen.items()]
