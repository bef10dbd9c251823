"Integrated gradients of ResNet-18 at 224 pixels against Captum: CPU seconds, added memory, and what bfloat16 costs."
import json, subprocess, sys, warnings
import torch
from bench.measure import paired


def _setup():
    import torchvision
    torch.set_num_threads(1); torch.manual_seed(0); warnings.simplefilter("ignore")
    model = torchvision.models.resnet18().eval()
    return model, torch.randn(1, 3, 224, 224)


def _times(n_steps, n):
    import captum.attr as ca
    from interp_kit.attribution.gradients import IntegratedGradients
    model, x = _setup()
    ours, other = IntegratedGradients(model), ca.IntegratedGradients(model)
    rows = []
    for size in (8, 1):
        them = lambda: other.attribute(x, target=3, n_steps=n_steps, internal_batch_size=size)
        rows.append(dict(what=f"IG, {n_steps} steps, against Captum at batch size {size}", **paired(lambda: ours.attribute(x, 3, n_steps), them, n=n)))
    them = lambda: other.attribute(x, target=3, n_steps=n_steps, internal_batch_size=1)
    rows.append(dict(what=f"IG, {n_steps} steps, both at batch size 1", **paired(lambda: ours.attribute(x, 3, n_steps, internal_batch_size=1), them, n=n)))
    a, b = ours.attribute(x, 3, n_steps), other.attribute(x, target=3, n_steps=n_steps, internal_batch_size=8)
    return rows + [dict(what="largest difference from Captum, part of the maximum", value=float((a - b).abs().max()/b.abs().max()))]


def _best(n_steps=16, n=3):
    "Captum's CPU seconds by batch size, to know its best."
    import captum.attr as ca
    from bench.measure import cpu
    model, x = _setup()
    other = ca.IntegratedGradients(model)
    sizes = {s: min(cpu(lambda: other.attribute(x, target=3, n_steps=n_steps, internal_batch_size=s)) for _ in range(n)) for s in (2, 4, 8, 16)}
    return [dict(what=f"Captum, {n_steps} steps, at batch size {s}", seconds=t) for s, t in sizes.items()]


def _bf16(n_steps=16, n=9):
    from interp_kit.attribution.gradients import IntegratedGradients, low_precision, precision_check, probing
    model, x = _setup()
    ig = IntegratedGradients(model)
    row = dict(what=f"IG in bfloat16 against float32, {n_steps} steps", **paired(lambda: ig.attribute(x, 3, n_steps, precision="bfloat16"), lambda: ig.attribute(x, 3, n_steps), n=n))
    a, b = ig.attribute(x, 3, n_steps), ig.attribute(x, 3, n_steps, precision="bfloat16")
    return [row | dict(correlation=float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]))]


_MEMORY = """
import sys, threading, time, torch, warnings
warnings.simplefilter('ignore'); torch.set_num_threads(1)
import torchvision, captum.attr as ca
from interp_kit.attribution.gradients import IntegratedGradients
who, steps, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rss = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])/1024
model = torchvision.models.resnet18().eval(); x = torch.randn(rows, 3, 224, 224)
run = {'ours': lambda n: IntegratedGradients(model).attribute(x, 3, n), 'captum': lambda n: ca.IntegratedGradients(model).attribute(x, target=3, n_steps=n)}[who]
with torch.no_grad(): model(x[:1])
before, peak, stop = rss(), [0], []
def watch():
    while not stop: peak[0] = max(peak[0], rss()); time.sleep(.002)
t = threading.Thread(target=watch); t.start(); run(steps); stop.append(1); t.join()
print(peak[0] - before)
"""


def added_memory(who, steps, rows=1):
    "Megabytes of anonymous memory that one call adds, in a process of its own."
    return float(subprocess.run([sys.executable, "-c", _MEMORY, who, str(steps), str(rows)], capture_output=True, text=True, check=True).stdout)


def run(n=15, short=16):
    rows = _best() + _times(short, n) + _times(50, 5) + _bf16()
    for who, steps, k in (("ours", 50, 1), ("ours", 800, 1), ("ours", 16, 24), ("captum", 50, 1)):
        rows.append(dict(what=f"added memory of {who}, {steps} steps, {k} image{'s' if k > 1 else ''}", MB=added_memory(who, steps, k)))
    return rows


if __name__ == "__main__": print(json.dumps(run(), indent=1))
