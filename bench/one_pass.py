"The questions that people ask first, by fastai's own class and by ours, over 5,026 digits through a ResNet-18 of 32 pixels."
import contextlib, io, statistics, warnings
import matplotlib
from bench.measure import cpu


def _learner():
    from fastai.vision.all import CrossEntropyLossFlat, resnet18, vision_learner
    from interp_kit.demo import demo_learner
    dls = demo_learner().dls
    learn = vision_learner(dls, resnet18, pretrained=False, loss_func=CrossEntropyLossFlat()); learn.remove_cbs([c for c in learn.cbs if c.name == "progress"])
    return learn, dls.test_dl(list(dls.valid_ds.items)*7, with_labels=True, bs=64, num_workers=0)


def run(n=15):
    matplotlib.use("agg"); warnings.simplefilter("ignore")
    import matplotlib.pyplot as plt
    from fastai.interpret import ClassificationInterpretation as Theirs
    from interp_kit.interpret import ClassificationInterpretation as Ours
    learn, dl = _learner()
    seen = []; learn.model.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    def shared(interp): interp.confusion_matrix(); interp.plot_confusion_matrix(); interp.most_confused(); interp.print_classification_report(); interp.plot_top_losses(9); interp.show_results(list(range(9)))
    def theirs(): shared(Theirs.from_learner(learn, dl=dl)); plt.close("all")
    def ours(): i = Ours.from_learner(learn, dl=dl); shared(i); i.metrics(); i.plot_calibration(); plt.close("all")
    def once(): learn.get_preds(dl=dl)
    calls, times, rows = dict(get_preds=once, fastai=theirs, interp_kit=ours), {k: [] for k in ("get_preds", "fastai", "interp_kit")}, {}
    with contextlib.redirect_stdout(io.StringIO()):
        for k, f in calls.items(): seen.clear(); f(); rows[k] = sum(seen)/len(dl.items)
        for _ in range(n):
            for k, f in calls.items(): times[k].append(cpu(f))
    return [dict(what=k, passes=rows[k], cpu_s=statistics.median(v), ratio_to_get_preds=statistics.median(a/b for a, b in zip(v, times["get_preds"])), alternations=n) for k, v in times.items()]
