"""Do scrambled Sobol masks reach the same map with fewer masks than independent ones, once the scores are centred?

Protocol, written before the first run and not changed since.

- Models: EfficientNet-lite0 with its packaged ImageNet weights on ten photographs of scikit-image and scikit-learn; a small residual network trained on Fashion-MNIST, on the first test picture of each of
  its ten classes. All at 112 × 112 pixels. The score is the softmax probability of the class that is predicted for the whole picture. Cells: 7 × 7, p = .5, shifts on the ladder of `interp_kit.attribution.rise`
  in every arm, hidden means 0 in the normalised picture, float32.
- Reference of a picture: the centred map of 2,048 independent masks, of a seed that no arm uses.
- Arms, five seeds each, 1,024 masks a seed:
  `iid`     cells and shifts drawn independently;
  `sobol`   cells and shifts are the coordinates of one scrambled Sobol sequence (the shifts its first two);
  `sobol4`  four independently scrambled sequences in turn (their spread gives a standard error that one sequence cannot give). Built from the scores of four of the five `sobol` seeds, leaving out each in turn.
- Measured: Pearson correlation with the reference of the centred map of the first N masks, N = 64, 128, 256, 512, 1024, averaged over the five repeats of a picture.
- Masks that an arm needs: the N, interpolated on a logarithmic scale, at which its curve first reaches what the `iid` curve of the same picture has at N = 512; 64 if it starts there, 1,024 if it never gets there.
  Gain of a picture: 512/N.
- Decision: an arm pays if, for both models, the geometric mean of the gain over the ten pictures is at least 1.15 and the lower end of its 95 % bootstrap interval over pictures (10,000 draws, seed 0) is above 1.
  If `sobol4` pays, `masks='stratified'` is `sobol4`; else if `sobol` pays, it is `sobol`; else `'stratified'` balances cells and shifts plainly and the docs say that it gains nothing.

The scores of each unit (model, picture, arm, seed) are kept under bench/results/sobol/ as soon as they are done, so that a stopped study goes on where it stopped."""
import json, sys, time
import numpy as np, torch
from bench.photos import HERE, models
from interp_kit.attribution.rise import (
    _MaskSource as MaskSource, _Sobol, _build_masks as build_masks,
    _mask_weights as mask_weights)

SIZES, N_REF, N_ARM, SEEDS = (64, 128, 256, 512, 1024), 2048, 1024, (1, 2, 3, 4, 5)


def source(arm, seed):
    s = MaskSource((7, 7), (8, 8), masks="iid", seed=seed)
    if arm == "sobol": s.points = _Sobol(51, seed, scrambles=1)
    return s


def masks_of(arm, seed, n, chunk=32):
    "The masks of a unit, a chunk (chunk, 112, 112) at a time."
    s, w = source(arm, seed), mask_weights(112, 7)
    for _ in range(0, n, chunk): yield build_masks(*s.take(chunk), w, w)


@torch.inference_mode()
def unit(net, x, arm, seed, n, cls):
    "Scores (n,) of one unit."
    out = [net((m[:, None]*x).contiguous(memory_format=torch.channels_last)).softmax(1)[:, cls] for m in masks_of(arm, seed, n)]
    return torch.cat(out)


def units():
    for arm, seed, n in [("ref", 1000, N_REF)] + [(a, s, N_ARM) for s in SEEDS for a in ("iid", "sobol")]: yield arm, seed, n


def scores(model, make=None):
    "For each picture of `model`: {(arm, seed): scores}; what is missing on disk is run first."
    make_net, pictures = models()[model]
    net, res = None, {}
    for name, x in pictures().items():
        for arm, seed, n in units():
            file = HERE/f"{model} {name} {arm} {seed}.json".replace(" ", "_")
            if not file.exists():
                net = net or make_net()
                with torch.inference_mode(): cls = int(net(x[None]).argmax())
                t = time.process_time()
                p = unit(net, x, arm, seed, n, cls).tolist()
                part = file.with_suffix(".part"); part.write_text(json.dumps(dict(cls=cls, cpu_s=time.process_time() - t, scores=p))); part.replace(file)
            res.setdefault(name, {})[arm, seed] = torch.tensor(json.loads(file.read_text())["scores"])
    return res


def moments(arm, seed, p, sizes):
    "Running sums of p·M, M and p, and the count, at each of `sizes` masks: float64 of (112·112,)."
    pm, m, out, done = 0., 0., {}, 0
    for chunk in masks_of(arm, seed, len(p), 16):
        c = chunk.flatten(1).double(); q = p[done:done+16].double()
        pm, m, done = pm + q @ c, m + c.sum(0), done + 16
        if done in sizes: out[done] = (pm, m, p[:done].double().sum(), done)
    return out


def centred(parts):
    pm, m, p, n = (sum(o) for o in zip(*parts))
    return pm - p/n*m


def curves(kept):
    "Correlation with the reference: {arm: (5, len(SIZES))} for the scores `kept` of one picture."
    ref = centred([moments("ref", 1000, kept["ref", 1000], (N_REF,))[N_REF]])
    r = lambda a: float(torch.corrcoef(torch.stack([a, ref]))[0, 1])
    some = {(a, s): moments(a, s, kept[a, s], SIZES + tuple(n//4 for n in SIZES)) for s in SEEDS for a in ("iid", "sobol")}
    res = {a: np.array([[r(centred([some[a, s][n]])) for n in SIZES] for s in SEEDS]) for a in ("iid", "sobol")}
    res["sobol4"] = np.array([[r(centred([some["sobol", t][n//4] for t in SEEDS if t != s])) for n in SIZES] for s in SEEDS])
    return res


def gain(curve, goal):
    "512 over the masks at which the mean curve reaches `goal`."
    if curve[0] >= goal: return 512/SIZES[0]
    if (curve < goal).all(): return 512/SIZES[-1]
    k = int((curve >= goal).argmax())
    return 512/2**np.interp(goal, curve[k-1:k+1], np.log2(SIZES[k-1:k+1]))


def interval(g, n=10_000):
    "Geometric mean and its bootstrap interval over pictures."
    g = np.log(g); draws = g[np.random.default_rng(0).integers(len(g), size=(n, len(g)))].mean(1)
    return [float(np.exp(v)) for v in (g.mean(), *np.quantile(draws, (.025, .975)))]


def run():
    rows, pays = [], {"sobol": True, "sobol4": True}
    for model in models():
        all_curves = {name: curves(kept) for name, kept in scores(model).items()}
        for arm in ("iid", "sobol", "sobol4"):
            mean = np.array([c[arm].mean(0) for c in all_curves.values()])
            g = np.array([gain(c[arm].mean(0), c["iid"].mean(0)[SIZES.index(512)]) for c in all_curves.values()])
            m, low, high = interval(g)
            rows.append(dict(model=model, arm=arm, pictures=len(g), **{f"r_{n}": round(float(v), 4) for n, v in zip(SIZES, mean.mean(0))}, gain=round(m, 3), low=round(low, 3), high=round(high, 3),
                             gains=[round(float(v), 2) for v in g]))
            if arm in pays: pays[arm] &= m >= 1.15 and low > 1
    return rows + [dict(decision=next((a for a in ("sobol4", "sobol") if pays[a]), "neither"), **{f"{a}_pays": bool(v) for a, v in pays.items()})]


if __name__ == "__main__": torch.set_num_threads(1); [scores(m) for m in sys.argv[1:] or models()]
