"A capture that is killed goes on where it was, and ends as if nothing had happened."
import json, subprocess, sys
from pathlib import Path


def test_killed_and_run_again():
    done = subprocess.run([sys.executable, "-W", "ignore", str(Path(__file__).with_name("kill.py")), "3", "7"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = json.loads(done.stdout)
    assert any(r["rows_kept"] for r in runs) and any(r["rows_run_again"] for r in runs), f"no capture was killed in its middle: {runs}"
    for r in runs:
        assert r["identical"] and r["finished_rows_run_twice"] == 0 and r["rows_missing"] == 0, r
        assert r["rows_kept"] <= r["killed_after_rows"], r
