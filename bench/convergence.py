"""How many masks RISE needs until its map correlates .95 with the limit: centred scores against the paper's, from the same forward passes.

The scores are those of `bench.sobol` (ten photographs through EfficientNet-lite0, ten garments through a small network, 112 pixels, 7 × 7 cells, p = .5). The reference of a picture is the centred map of 7,168 masks: the study's
2,048 independent ones and all its Sobol masks. What is tested are its 5,120 independent masks, put in five orders (each seed first once); none of them is in the reference. Where a map does not get to .95 within 5,120 masks, 5,120 is counted.
The classic map and the centred one have the same limit but for scale and shift, which correlation does not see."""
from pathlib import Path
import numpy as np, torch
from bench.photos import models
from bench.sobol import N_ARM, N_REF, SEEDS, centred, moments, scores

GOAL, POINTS = .95, (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SIZES = POINTS + tuple(k*N_ARM + n for k in range(1, 5) for n in (256, 512, 768, 1024))
FILE = Path(__file__).parent/"pictures"/"rise_convergence.png"


def classic(parts):
    pm, m, p, n = (sum(o) for o in zip(*parts))
    return pm


def runs(kept, arm):
    "Running sums at each of SIZES, for each of the five orders of an arm's seeds."
    one = {s: moments(arm, s, kept[arm, s], POINTS) for s in SEEDS}
    for first in range(5):
        order = [SEEDS[(first + k) % 5] for k in range(5)]
        yield {n: [one[s][N_ARM] for s in order[:(n - 1)//N_ARM]] + [one[order[(n - 1)//N_ARM]][(n - 1) % N_ARM + 1]] for n in SIZES}


def needed(curve):
    "Masks at which `curve` over SIZES first reaches the goal, between two sizes on a logarithmic scale; the last size if never."
    hit = np.flatnonzero(curve >= GOAL)
    if not len(hit): return float(SIZES[-1])
    k = hit[0]
    return float(SIZES[0] if k == 0 else 2**np.interp(GOAL, curve[k - 1:k + 1], np.log2(SIZES[k - 1:k + 1])))


def picture(kept):
    "Correlations (orders, sizes) of each estimator with the reference."
    ref = centred([moments("ref", 1000, kept["ref", 1000], (N_REF,))[N_REF]] + [moments("sobol", s, kept["sobol", s], (N_ARM,))[N_ARM] for s in SEEDS])
    r = lambda a: float(torch.corrcoef(torch.stack([a, ref]))[0, 1])
    return {e.__name__: np.array([[r(e(run[n])) for n in SIZES] for run in runs(kept, "iid")]) for e in (centred, classic)}


def draw(curves):
    import matplotlib; matplotlib.use("agg")
    from interp_kit.plots import PALETTE, new_grid
    axs = new_grid(len(curves), ncols=2, panel=(4.4, 3.2))
    for ax, (model, pictures) in zip(axs, curves.items()):
        for e, color in (("centred", PALETTE[0]), ("classic", PALETTE[1])):
            each = np.array([p[e].mean(0) for p in pictures.values()])
            ax.plot(SIZES, each.T, color=color, lw=.6, alpha=.45); ax.plot(SIZES, np.median(each, 0), color=color, lw=2.2, label=f"{e} (median of {len(each)} pictures)")
        ax.axhline(GOAL, color="#8a8a8a", lw=.8, ls="--")
        ax.set(xscale="log", xlabel="masks", ylabel="correlation with 7,168 other masks", title=model, ylim=(-.1, 1.02)); ax.legend(fontsize=8, loc="lower right")
    axs[0].figure.savefig(FILE, dpi=80)


def run():
    rows, curves = [], {}
    for model in models():
        curves[model] = {name: picture(kept) for name, kept in scores(model).items()}
        for name, c in curves[model].items():
            n = {e: float(np.mean([needed(o) for o in v])) for e, v in c.items()}
            rows.append(dict(model=model, picture=name, centred=round(n["centred"]), classic=round(n["classic"]), ratio=round(n["classic"]/n["centred"], 2), classic_gets_there=bool((c["classic"][:, -1] >= GOAL).all()), centred_gets_there=bool((c["centred"][:, -1] >= GOAL).all())))
    draw(curves)
    for model in [*models(), None]:
        mine = [r for r in rows if "picture" in r and model in (None, r["model"])]
        rows.append(dict(model=model or "both", pictures=len(mine), median_centred=float(np.median([r["centred"] for r in mine])), median_classic=float(np.median([r["classic"] for r in mine])), median_ratio=float(np.median([r["ratio"] for r in mine])),
                         classic_never_there=sum(not r["classic_gets_there"] for r in mine)))
    return rows
