"""A model launcher for `interp-kit explain`: a classifier whose raw outputs are turned into scores.

From this folder:

    interp-kit explain -m classification_launcher:model --interpreter classification_launcher:process_outputs \\
        -o digits_explained -t PICTURE_OR_FOLDER rise --max-samples 500

or `python classification_launcher.py`, which does the same with three digits that come with scikit-learn.
"""
import numpy as np

CLASSES = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine']


def model():
    "What is explained: any function from a batch (n, 3, H, W) to outputs, or an nn.Module as here."
    from interp_kit.demo import demo_learner
    net = demo_learner().model
    net.launch_options = dict(size=32, classes=CLASSES)  # how its pictures are prepared: pixels in [0, 1], without mean and std
    return net


def process_outputs(inputs, outputs):
    "Labels of each image with their scores; `inputs` is (n, 3, H, W), `outputs` what the model returned: logits (n, 10)."
    logits = np.asarray(outputs, dtype=float)
    e = np.exp(logits - logits.max(1, keepdims=True))
    return [[dict(label=name, attributes=dict(score=p)) for name, p in zip(CLASSES, row)] for row in e/e.sum(1, keepdims=True)]


def main(save_dir='digits_explained', masks=500):
    from interp_kit.demo import digit_folder
    from interp_kit.launchers.explain import explain_files
    from interp_kit.launchers import load_model
    launcher = load_model('classification_launcher:model', interpreter=process_outputs)
    pictures = [next(iter(sorted((digit_folder()/digit).iterdir()))) for digit in '359']
    for result in explain_files(launcher, pictures, save_dir, max_samples=masks):
        for output, file in zip(result.outputs, result.files): print(f"{result.target}: {output['class']} {output['score']:.3f} -> {save_dir}/{file}")


if __name__ == '__main__': main()
