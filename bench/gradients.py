"Integrated gradients of ResNet-18 at 224 pixels against Captum: CPU seconds and added memory."
import copy, json, subprocess, sys, warnings
import torch
from bench.measure import paired


def _setup():
    import torchvision
    torch.set_num_threads(1); torch.manual_seed(0); warnings.simplefilter("ignore")
    model = torchvision.models.resnet18().eval()
    return model, torch.randn(1, 3, 224, 224)


def _times(n_steps=50):
    import captum.attr as ca
    from interp_kit.attribution.gradients import IntegratedGradients
    model, x = _setup()
    ours, other = IntegratedGradients(model), ca.IntegratedGradients(model)
    them = lambda size: lambda: other.attribute(x, target=3, n_steps=n_steps, internal_batch_size=size)
    rows = [dict(what=f"IG, {n_steps} steps, against Captum at batch size {size}", **paired(lambda: ours.attribute(x, 3, n_steps), them(size), n=n)) for size, n in ((8, 15), (16, 5), (1, 7))]
    rows.append(dict(what=f"IG, {n_steps} steps, both at batch size 1", **paired(lambda: ours.attribute(x, 3, n_steps, internal_batch_size=1), them(1), n=5)))
    exact = ca.IntegratedGradients(copy.deepcopy(model).double()).attribute(x.double(), target=3, n_steps=16, internal_batch_size=4)
    far = lambda a: float((a.double() - exact).norm()/exact.norm())
    return rows + [dict(what="distance from float64 at 16 steps, part of its norm", ours=far(ours.attribute(x, 3, 16)), captum=far(other.attribute(x, target=3, n_steps=16, internal_batch_size=8)))]


def _best(n_steps=16, n=3):
    "Captum's CPU seconds by batch size, to know its best."
    import captum.attr as ca
    from bench.measure import cpu
    model, x = _setup()
    other = ca.IntegratedGradients(model)
    sizes = {s: min(cpu(lambda: other.attribute(x, target=3, n_steps=n_steps, internal_batch_size=s)) for _ in range(n)) for s in (2, 4, 8, 16)}
    return [dict(what=f"Captum, {n_steps} steps, at batch size {s}", seconds=t) for s, t in sizes.items()]


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


def run():
    rows = _best() + _times()
    for who, steps, k in (("ours", 50, 1), ("ours", 800, 1), ("ours", 16, 24), ("captum", 50, 1)):
        rows.append(dict(what=f"added memory of {who}, {steps} steps, {k} image{'s' if k > 1 else ''}", MB=added_memory(who, steps, k)))
    return rows


if __name__ == "__main__": print(json.dumps(run(), indent=1))
