"""How many masks RISE needs until its map correlates .95 with the limit: centred scores against the paper's, from the same forward passes.

Ten pictures a set, 7 × 7 cells, p = .5, the softmax probability of the predicted class:
- ten photographs through EfficientNet-lite0 and ten garments through a small network, both at 112 pixels, from the scores of `bench.sobol`: up to 5,120 independent masks in five orders, against the centred map of the study's 7,168 others;
- the photographs at 224 pixels, the size the network was trained for (bfloat16 for speed). Of these only the noise is compared, from 1,024 masks each, unless `python -m bench.convergence` has run the 51,200 masks more (20 CPU minutes, resumable) that make
  it a set like the others: up to 4,096 independent masks in four orders, against the centred map of 2,048 stratified ones.
Where a map does not get to .95, its limit is counted. The classic map and the centred one have the same limit but for scale and shift, which correlation does not see.

Arithmetic says what to expect: the noise of a classic map is that of p_i M_i, with mean square (mean p)² + (std p)², that of a centred map (std p)²; so 1 + (mean p/std p)² times fewer masks, `expected` below;
`noise_ratio` is what the maps show: the variance of the classic map over that of the centred one, from equally many masks. The sets at 112 pixels were
run first (median 1.5). There scores under masks are often close to 0, far from what the model was trained for, and centring can gain little; the photographs at 224 pixels were run for that reason."""
import json, sys
from pathlib import Path
import numpy as np, torch
from bench import sobol
from bench.photos import HERE, PHOTOS, lite0, models, photo
from interp_kit.attribution.rise import (
    _MaskSource as MaskSource, _build_masks as build_masks,
    _mask_weights as mask_weights)

GOAL, POINTS, N_ARM = .95, (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024), 1024
NATIVE, PICTURES = "EfficientNet-lite0, 224 px", Path(__file__).parent/"pictures"


def native_masks(arm, seed, n, chunk=8):
    s, w = MaskSource((7, 7), (8, 8), masks="stratified" if arm == "ref" else "iid", seed=seed), mask_weights(224, 7)
    for _ in range(0, n, chunk): yield build_masks(*s.take(chunk), w, w)


@torch.inference_mode()
def native_unit(net, name, arm, seed, n):
    "Scores (n,) of one unit, kept on disk."
    file = HERE/f"native_{name}_{arm}_{seed}.json"
    if not file.exists():
        x = (photo(name, 224) - .498)/.502
        run = lambda b: net()(b.contiguous(memory_format=torch.channels_last)).float().softmax(1)
        with torch.autocast("cpu", torch.bfloat16):
            cls = int(run(x[None]).argmax())
            p = torch.cat([run(m[:, None]*x)[:, cls] for m in native_masks(arm, seed, n)]).tolist()
        part = file.with_suffix(".part"); part.write_text(json.dumps(dict(cls=cls, scores=p))); part.replace(file)
    return torch.tensor(json.loads(file.read_text())["scores"])


def native(seeds=(1, 2, 3, 4)):
    "For each photograph {(arm, seed): scores}, what all need first coming first."
    kept, res = [], {}
    def net():
        if not kept: kept.append(lite0())
        return kept[0]
    for arm, seed, n in native_units(seeds):
        for name in PHOTOS: res.setdefault(name, {})[arm, seed] = native_unit(net, name, arm, seed, n)
    return res


def native_units(seeds=(1, 2, 3, 4)): return [("iid", seeds[0], N_ARM)] + [("ref", 1000, 2048)]*(len(seeds) > 1) + [("iid", s, N_ARM) for s in seeds[1:]]


def all_there(): return all((HERE/f"native_{name}_{arm}_{seed}.json").exists() for arm, seed, _ in native_units() for name in PHOTOS)


def sets():
    "Of each set: its scores, its masks, and what the reference is made of."
    if all_there(): yield NATIVE, native(), native_masks, [("ref", 1000)]
    for m in models(): yield f"{m}, 112 px", sobol.scores(m), lambda *a: sobol.masks_of(*a, chunk=16), [("ref", 1000)] + [("sobol", s) for s in sobol.SEEDS]


def moments(masks, p, sizes):
    "Running sums of p·M, M and p, and the count, at each of `sizes` masks."
    pm, m, out, done = 0., 0., {}, 0
    for chunk in masks:
        c, q = chunk.flatten(1), p[done:done + len(chunk)]
        pm, m, done = pm + (q @ c).double(), m + c.sum(0).double(), done + len(chunk)
        if done in sizes: out[done] = (pm, m, p[:done].double().sum(), done)
    return out


def classic(parts): return sum(o[0] for o in parts)


def sizes_of(k): return POINTS + tuple(j*N_ARM + n for j in range(1, k) for n in (256, 512, 768, 1024))


def correlations(kept, masks, ref):
    "{estimator: (orders, sizes)} with the reference, for one picture."
    seeds = [s for a, s in kept if a == "iid"]
    one = {s: moments(masks("iid", s, N_ARM), kept["iid", s], POINTS) for s in seeds}
    goal = sobol.centred([moments(masks(a, s, len(kept[a, s])), kept[a, s], (len(kept[a, s]),))[len(kept[a, s])] for a, s in ref])
    r = lambda a: float(torch.corrcoef(torch.stack([a, goal]))[0, 1])
    res = dict(centred=[], classic=[])
    for first in range(len(seeds)):
        order = seeds[first:] + seeds[:first]
        parts = lambda n: [one[s][N_ARM] for s in order[:(n - 1)//N_ARM]] + [one[order[(n - 1)//N_ARM]][(n - 1) % N_ARM + 1]]
        for name, e in (("centred", sobol.centred), ("classic", classic)): res[name].append([r(e(parts(n))) for n in sizes_of(len(seeds))])
    return {k: np.array(v) for k, v in res.items()}


def needed(curve, sizes):
    "Masks at which `curve` first reaches the goal, between two sizes on a logarithmic scale; the last size if never."
    hit = np.flatnonzero(curve >= GOAL)
    if not len(hit): return float(sizes[-1])
    k = hit[0]
    return float(sizes[0] if k == 0 else 2**np.interp(GOAL, curve[k - 1:k + 1], np.log2(sizes[k - 1:k + 1])))


def noise_ratio(kept, masks, block=64):
    "Variance over blocks of masks of the classic map over that of the centred one, constants over the picture taken out: how many times fewer masks give the same noise."
    found = []
    for (arm, seed), p in kept.items():
        if arm != "iid": continue
        m = torch.cat([c.flatten(1)[:, ::7] for c in masks(arm, seed, len(p))])
        m, off = m - m.mean(1, keepdim=True), p - p.mean()
        sums = torch.stack([torch.stack([p[i:i + block] @ m[i:i + block], off[i:i + block] @ m[i:i + block]]) for i in range(0, len(p), block)])
        found.append(sums.var(0).mean(1))
    total = torch.stack(found).mean(0)
    return float(total[0]/total[1])


def row(what, name, kept, c, masks):
    sizes = sizes_of(c["centred"].shape[0])
    n = {e: float(np.mean([needed(o, sizes) for o in v])) for e, v in c.items()}
    return dict(set=what, picture=name, centred=round(n["centred"]), classic=round(n["classic"]), ratio=round(n["classic"]/n["centred"], 2), **noise(kept, masks),
                centred_gets_there=bool((c["centred"][:, -1] >= GOAL).all()), classic_gets_there=bool((c["classic"][:, -1] >= GOAL).all()))


def noise(kept, masks):
    p = torch.cat([v for (a, _), v in kept.items() if a == "iid"])
    return dict(noise_ratio=round(noise_ratio(kept, masks), 2), expected=round(float(1 + (p.mean()/p.std())**2), 2), mean_p=round(float(p.mean()), 3), std_p=round(float(p.std()), 3))


def native_noise():
    rows = [dict(set=NATIVE, picture=name, **noise(kept, native_masks)) for name, kept in native((1,)).items()]
    return rows + [dict(set=NATIVE, pictures=len(rows), median_noise_ratio=float(np.median([r["noise_ratio"] for r in rows])), median_expected=float(np.median([r["expected"] for r in rows])))]


def summary(what, rows):
    both = [r for r in rows if r["centred_gets_there"]]
    med = lambda k, rs: round(float(np.median([r[k] for r in rs])), 2)
    return dict(set=what, pictures=len(rows), limit=max(r["classic"] for r in rows), median_centred=med("centred", rows), median_classic=med("classic", rows), median_ratio=med("ratio", rows), median_noise_ratio=med("noise_ratio", rows), median_expected=med("expected", rows),
                centred_there=len(both), classic_there=sum(r["classic_gets_there"] for r in rows), median_ratio_where_centred_gets_there=med("ratio", both))


def draw(curves):
    import matplotlib; matplotlib.use("agg")
    from interp_kit.plots import PALETTE, new_grid
    axs = new_grid(len(curves), ncols=len(curves), panel=(3.9, 3.1))
    for ax, (what, pictures) in zip(axs, curves.items()):
        for e, color in (("centred", PALETTE[0]), ("classic", PALETTE[1])):
            each = np.array([c[e].mean(0) for c in pictures.values()]); sizes = sizes_of(next(iter(pictures.values()))[e].shape[0])
            ax.plot(sizes, each.T, color=color, lw=.6, alpha=.45); ax.plot(sizes, np.median(each, 0), color=color, lw=2.2, label=f"{e} (median of {len(each)})")
        ax.axhline(GOAL, color="#8a8a8a", lw=.8, ls="--")
        ax.set(xscale="log", xlabel="masks", ylabel="correlation with the reference", title=what, ylim=(-.1, 1.02)); ax.title.set_fontsize(10); ax.legend(fontsize=8, loc="lower right")
    for file in (PICTURES/"rise_convergence.png", PICTURES.parents[1]/"docs"/"guides"/"pictures"/"rise-convergence.png"): axs[0].figure.savefig(file, dpi=70)


def draw_maps(names=("chelsea", "coffee", "motorcycle_left"), n=256):
    "Photographs, and their maps after `n` masks by both estimators beside the reference."
    from interp_kit.plots import new_grid
    axs = new_grid(4*len(names), ncols=4, panel=(1.9, 2.))
    for k, name in enumerate(names):
        units = {a: native_unit(lite0, name, a, s, m) for a, s, m in (("ref", 1000, 2048), ("iid", 1, N_ARM))}
        some, ref = moments(native_masks("iid", 1, n), units["iid"], (n,))[n], moments(native_masks("ref", 1000, 2048), units["ref"], (2048,))[2048]
        maps = (sobol.centred([some]), classic([some]), sobol.centred([ref]))
        titles = (name, f"centred, {n} masks", f"classic, {n} masks", "2,048 stratified")
        for ax, title, v in zip(axs[4*k:], titles, (photo(name, 224).permute(1, 2, 0), *(m.view(224, 224) for m in maps))): ax.imshow(v, cmap="inferno"); ax.set_axis_off(); ax.set_title(title, fontsize=8)
    axs[0].figure.savefig(PICTURES/"rise_maps.png", dpi=70)
    from PIL import Image
    Image.open(PICTURES/"rise_maps.png").convert("RGB").quantize(160).save(PICTURES/"rise_maps.png", optimize=True)


def run():
    rows, curves = [], {}
    for what, kept, masks, ref in sets():
        curves[what] = {name: correlations(k, masks, ref) for name, k in kept.items()}
        mine = [row(what, name, k, curves[what][name], masks) for name, k in kept.items()]
        rows += [*mine, summary(what, mine)]
    draw(curves); draw_maps()
    return rows if all_there() else rows + native_noise()


if __name__ == "__main__": torch.set_num_threads(1); native()
