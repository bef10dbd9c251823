"Faults planted into training curves and into a real training, and well-behaved noisy curves in which there is nothing to find."
import numpy as np
from interp_kit.training.dynamics import dynamics


def curves(seed, train, valid, n=None, noise=None, jitter=.03):
    "Losses and accuracy of `n` epochs around the given courses, with multiplicative noise."
    r = np.random.default_rng(seed); n = n or int(r.integers(20, 61)); e = np.arange(n); draw = noise or (lambda r, n: r.normal(size=n))
    v = valid(e, n)
    return dict(loss=train(e, n)*(1 + jitter*draw(r, n)), val_loss=v*(1 + jitter*draw(r, n)), val_accuracy=np.clip(1 - v/3, 0, 1)*(1 + .005*r.normal(size=n)))


def falling(to, share=.1): return lambda e, n: to + (2.3 - to)*np.exp(-e/(share*n))
def found(*args, **kwargs): return dynamics(curves(*args, **kwargs)).findings()


def overfitting(seed):
    "From a third of the training on, validation loss rises by half of its lowest value."
    return found(seed, falling(.02, .2), lambda e, n: falling(.5)(e, n) + .35*np.maximum(e/n - .33, 0))


def overfitting_mildly(seed):
    "It rises by a sixth."
    return found(seed, falling(.1, .2), lambda e, n: falling(.5)(e, n) + .13*np.maximum(e/n - .33, 0), jitter=.015)


def standing_still(seed):
    "Training loss goes on to a twentieth of the validation loss, which stands still."
    return found(seed, falling(.01, .25), falling(.8, .06))


def unstable(seed): return found(seed, falling(.4), falling(.5), jitter=.4, noise=lambda r, n: np.clip(r.normal(size=n), -2, 2))
def spikes(seed):
    "Two epochs near the end in which the loss triples."
    c = curves(seed, falling(.4), falling(.5)); at = len(c["val_loss"]) - 1 - np.random.default_rng(seed).choice(np.arange(1, 9, 2), 2, replace=False)
    c["val_loss"][at] *= 3
    return dynamics(c).findings()


def stopped_early(seed): return found(seed, lambda e, n: 2.3 - 1.2*e/n, lambda e, n: 2.3 - 1.1*e/n)


def not_a_number(seed):
    c = curves(seed, falling(.4), falling(.5)); at = int(np.random.default_rng(seed).integers(1, 15))
    for k in c: c[k][at:] = np.nan
    return dynamics(c).findings()


def growing(seed): return found(seed, lambda e, n: 1 + 9*e/n, lambda e, n: 1 + 9*e/n)


def shuffled_labels(seed):
    "A real training: wine with four labels of ten exchanged at random, a wide network, a constant learning rate."
    from fastai.callback.core import Callback
    from fastai.data.transforms import RandomSplitter
    from fastai.data.block import CategoryBlock
    from fastai.metrics import accuracy
    from fastai.tabular.core import Normalize, TabularPandas
    from fastai.tabular.learner import tabular_learner
    from fastai.torch_core import set_seed
    from interp_kit.core import kept_rng
    from sklearn.datasets import load_wine
    with kept_rng():
        set_seed(seed); r = np.random.default_rng(seed)
        df = load_wine(as_frame=True).frame; swap = r.random(len(df)) < .4
        df.loc[swap, "target"] = r.permutation(df.target[swap].to_numpy())
        to = TabularPandas(df, [Normalize], cont_names=list(df.columns[:-1]), y_names="target", y_block=CategoryBlock(), splits=RandomSplitter(.4, seed=seed)(df))
        learn = tabular_learner(to.dataloaders(bs=32), layers=[200], metrics=accuracy)
        learn.remove_cbs([c for c in learn.cbs if c.name == "progress"])
        with learn.no_logging(): learn.fit(40, 5e-3)
        return dynamics(learn).findings()


CASES = dict(
    overfitting=(overfitting, "overfitting", set()),
    overfitting_mildly=(overfitting_mildly, "overfitting", set()),
    standing_still=(standing_still, "overfitting", set()),
    unstable=(unstable, "unstable_training", set()),
    spikes=(spikes, "unstable_training", set()),
    stopped_early=(stopped_early, "not_converged", set()),
    not_a_number=(not_a_number, "diverged", set()),
    growing=(growing, "diverged", set()),
    shuffled_labels=(shuffled_labels, "overfitting", set()))


def null(course, noise=None):
    "Curves of 3 to 100 epochs with 1, 3 or 5 % of noise."
    def make(seed):
        r = np.random.default_rng([seed, 1])
        n, jitter = int(r.choice([3, 5, 8, 12, 20, 30, 60, 100])), float(r.choice([.01, .03, .05]))
        return found(seed, *course, n=n, noise=noise, jitter=jitter)
    return make


def heavy(r, n): return np.clip(r.standard_t(3, size=n)/np.sqrt(3), -5, 5)


def lagged(r, n, rho=.5):
    "Noise of which each epoch keeps half of the last one's: not what the tests suppose."
    x = r.normal(size=n)
    for i in range(1, n): x[i] = rho*x[i-1] + np.sqrt(1 - rho**2)*x[i]
    return x


FLAT = (lambda e, n: np.ones(n), lambda e, n: np.full(n, 1.1))
CLEAN = dict(
    flat=null(FLAT),
    falling=null((falling(.3, 1/12), falling(.35, 1/12))),
    nearly_zero=null((falling(.01, 1/12), falling(.012, 1/12))),
    heavy_noise=null(FLAT, heavy),
    lagged_noise=null(FLAT, lagged))
