"Run the benchmarks named on the command line, or all."
import importlib, json, platform, subprocess, sys
from pathlib import Path
import torch

NAMES = ("imports", "notebooks", "speed", "segmentation", "silence", "coverage", "one_pass", "pictures", "crash", "scale", "real", "diamonds", "cam", "gradients", "rise",
         "convergence", "sobol", "faithfulness", "looks", "planted", "weights", "history", "activations", "flow", "watch", "features", "inside")
HERE = Path(__file__).parent


def commit_name():
    "The commit that is measured, marked where something but results has changed since."
    git = lambda *args: subprocess.run(["git", *args], capture_output=True, text=True, cwd=HERE.parent).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    return git("describe", "--always") + ("-dirty" if changed else "")


def main(names):
    torch.set_num_threads(1)
    commit = commit_name()
    for name in names or NAMES:
        rows = importlib.import_module(f"bench.{name}").run()
        facts = dict(command=f"python -m bench {name}", commit=commit, python=platform.python_version(), torch=torch.__version__,
                     threads=1, rows=rows)
        (HERE/"results"/f"{name}.json").write_text(json.dumps(facts, indent=1, default=float) + "\n")
        print(f"\n{name}")
        for r in rows: print("  " + "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in r.items()), flush=True)


if __name__ == "__main__": main(sys.argv[1:])
