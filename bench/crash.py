"Ten captures killed with SIGKILL at random points and run again, see tests/disk/kill.py."
import json, subprocess, sys
from pathlib import Path


def run(points=10, seed=20261122):
    script = Path(__file__).parent.parent/"tests"/"disk"/"kill.py"
    done = subprocess.run([sys.executable, "-W", "ignore", str(script), str(points), str(seed)], capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])
