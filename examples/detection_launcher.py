"""A model launcher for `interp-kit explain`: a detector with raw outputs of its own, turned into boxes.

From this folder:

    interp-kit explain -m detection_launcher:detector --interpreter detection_launcher:process_outputs \\
        -o scene_explained -t PICTURE_OR_FOLDER rise --max-samples 500 --conf 0.3 --prob 0.7

or `python detection_launcher.py`, which does the same with a generated scene of digits.
"""
import numpy as np

MAX_DETECTIONS = 100


def detector(batch):
    "What is explained: an array (n, 1, 100, 7) as SSD exports give it: image, label, score, then corners as fractions of the sides."
    import torch
    with torch.no_grad(): found = _net()(list(batch))
    res = np.zeros((len(batch), 1, MAX_DETECTIONS, 7), np.float32)
    height, width = batch.shape[2:]
    for i, f in enumerate(found):
        k = len(f['scores'])
        res[i, 0, :k] = np.column_stack([np.full(k, i), f['labels'], f['scores'], f['boxes']/torch.tensor([width, height, width, height])])
    return res


def _net(kept=[]):
    if not kept:
        from interp_kit.demo import demo_detector
        kept.append(demo_detector())
    return kept[0]


def process_outputs(inputs, outputs):
    "Boxes of each image: x, y, width, height in pixels of the input, a label and a score. Return all of them, also the doubtful ones."
    height, width = inputs.shape[-2:]
    results = []
    for detections in outputs:
        boxes = []
        for _, label, score, x0, y0, x1, y1 in detections[0]:
            if score > 0: boxes.append(dict(x=x0*width, y=y0*height, w=(x1 - x0)*width, h=(y1 - y0)*height, label=int(label), attributes=dict(score=float(score))))
        results.append(boxes)
    return results


def main(save_dir='scene_explained', masks=500):
    from pathlib import Path
    from PIL import Image
    from interp_kit.demo import digit_scenes
    from interp_kit.launchers.explain import explain_files
    from interp_kit.launchers import load_model
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    pixels = digit_scenes(1, 3, size=64, max_digits=3)[0][0].permute(1, 2, 0).numpy()
    scene = Path(save_dir).resolve().parent/'scene.png'
    Image.fromarray((pixels*255).astype('uint8')).save(scene)
    launcher = load_model('detection_launcher:detector', interpreter=process_outputs, classes=list('0123456789'))
    for result in explain_files(launcher, [scene], save_dir, max_samples=masks, conf=.3, prob=.7):
        for output, file in zip(result.outputs, result.files): print(f"{output['class']} {output['score']:.3f} at {[round(v) for v in output['box']]} -> {save_dir}/{file}")


if __name__ == '__main__': main()
