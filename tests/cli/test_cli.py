"The command line as a person runs it: real processes."
import json, os, subprocess, sys
from pathlib import Path
import pandas as pd, pytest

ROOT = Path(__file__).parents[2]


def run(*args, **env):
    return subprocess.run([sys.executable, "-c", "import sys; from interp_kit.cli import main; sys.exit(main())", *args],
                          capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore", **env}, timeout=300)


def test_help_is_light_and_has_examples():
    r = run("--help"); assert r.returncode == 0 and "examples:" in r.stdout and "interp-kit demo" in r.stdout
    code = "import sys; from interp_kit.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert not {'torch', 'fastai', 'numpy', 'pandas', 'matplotlib', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("task,rows", [("classification", 718), ("tabular", 71), ("text", 120)])
def test_demo_writes_everything_it_promises(tmp_path, task, rows):
    out = tmp_path/"a folder"/"out"; r = run("demo", "-o", str(out), "--task", task)
    assert r.returncode == 0, r.stderr
    assert "accuracy" in r.stdout and "findings:" in r.stdout and str(out/"index.html") in r.stdout.replace("\n", "")
    names = {f.name for f in out.iterdir()}; assert {"index.html", "predictions.csv", "metrics.json", "confusion_matrix.png", "top_losses.png", "calibration.png", "roc.png"} <= names
    frame, facts, page = pd.read_csv(out/"predictions.csv"), json.loads((out/"metrics.json").read_text()), (out/"index.html").read_text()
    assert len(frame) == rows and abs(facts["values"]["accuracy"] - frame.correct.mean()) < 1e-12
    for f in names - {"index.html"}: assert f in page
    assert "http" not in page.replace("http-equiv", "") and not list(out.parent.glob(".out*")), "no request to anywhere, nothing left over"


HEADLINES = dict(multilabel="macro F1", segmentation="mean IoU", regression="R²", tabular_regression="R²")


@pytest.mark.parametrize("task", list(HEADLINES))
def test_demo_of_other_tasks(tmp_path, task):
    out = tmp_path/"out"; r = run("demo", "-o", str(out), "-t", task); assert r.returncode == 0, r.stderr
    facts, page = json.loads((out/"metrics.json").read_text()), (out/"index.html").read_text(); frame = pd.read_csv(out/"predictions.csv")
    assert HEADLINES[task] in r.stdout and "95 % interval" in r.stdout and f"on {len(frame):,} rows" in r.stdout and "findings:" in r.stdout
    names = {f.name for f in out.iterdir()}; assert {"top_losses.png", "predictions.csv", "metrics.json", "index.html"} <= names and all(f in page for f in names - {"index.html"}) and facts["headline"].startswith(HEADLINES[task])


def test_the_most_important_findings_are_printed(tmp_path):
    "Other processors may train slightly other weights, but the class that was hardly seen in training comes first."
    r = run("demo", "-o", str(tmp_path/"out")); found = [l for l in r.stdout.splitlines() if l.strip()[:2] in ("1.", "2.", "3.")]
    n = int(r.stdout.split("findings: ")[1].split(",")[0])
    assert len(found) == min(3, n) >= 1 and "of 8" in found[0]


def test_bad_input_is_one_line_and_2(tmp_path):
    (tmp_path/"file").write_text("x")
    r = run("demo", "-o", str(tmp_path/"file")); assert r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1 and "is a file" in r.stderr and "Traceback" not in r.stderr
    r = run("demo", "-o", str(tmp_path/"file"), "--debug"); assert "Traceback" in r.stderr
    assert run("demo", "--task", "chess").returncode == 2 and run("nonsense").returncode == 2
    r = run("demo", "-o", str(tmp_path/"out"), INTERP_KIT_CACHE=str(tmp_path/"file"/"cache")); assert r.returncode == 2 and "INTERP_KIT_CACHE" in r.stderr and not (tmp_path/"out").exists()


def test_internal_error_is_3(tmp_path):
    code = "import sys, interp_kit.cli.demo as c\ndef broken(args): raise KeyError('x')\nc._demo = broken\nsys.exit(sys.modules['interp_kit.cli'].main(['demo']))"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True); assert r.returncode == 3 and "internal error" in r.stderr and "Traceback" not in r.stderr
