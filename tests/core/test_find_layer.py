"The last layer with spatial extent, found by running one input: every family that it is meant for."
import pytest, torch
from torch import nn
from torchvision import models
from interp_kit.all import ModelError, find_layer

FAMILIES = {"resnet18": "layer4", "vgg11": "features.19", "densenet121": "features", "efficientnet_b0": "features", "convnext_tiny": "features", "mobilenet_v2": "features",
            "mobilenet_v3_small": "features", "swin_t": "permute", "googlenet": "inception5b"}


def name_of(model, **kw):
    found = find_layer(model, **kw)
    return next(n for n, m in model.named_modules() if m is found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision(name):
    torch.manual_seed(0); m = getattr(models, name)(**(dict(init_weights=False) if name == "googlenet" else {})).train()
    x = None if name == "swin_t" else torch.randn(1, 3, 96, 96)
    assert name_of(m, x=x) == FAMILIES[name] and m.training


def test_vision_transformer():
    m = models.vit_b_16(num_classes=5); nn.init.normal_(m.heads.head.weight)
    assert name_of(m) == "encoder.layers.encoder_layer_11.ln_1"


def test_unet_gives_the_end_of_its_encoder():
    from fastai.vision.all import create_unet_model, resnet18
    m = create_unet_model(resnet18, 4, (64, 64), pretrained=False); found = find_layer(m, x=torch.randn(1, 3, 64, 64))
    assert any(found is o for o in m[0].modules()) and found(torch.randn(2, 3, 64, 64)).shape[2:] == (2, 2)


def test_learner_uses_its_own_data(digits): assert find_layer(digits) is digits.model[0]


class Reused(nn.Module):
    "One in-place ReLU used three times, frozen parameters, functional pooling."
    def __init__(self): super().__init__(); self.a, self.b, self.relu, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, 3)
    def forward(self, x): return self.relu(self.fc(self.relu(self.b(self.relu(self.a(x)))).mean((2, 3))))


@pytest.mark.parametrize("ctx", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_odd_models_and_callers(ctx):
    m = Reused().requires_grad_(False)
    with ctx(): found = find_layer(m, x=torch.randn(1, 1, 16, 16))
    assert found in (m.b, m.relu) and not any(p.requires_grad for p in m.parameters()) and not any(o._forward_hooks for o in m.modules())


def test_dead_gradient_and_tiny_inputs():
    m = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)); nn.init.zeros_(m[4].weight)
    assert find_layer(m, x=torch.randn(1, 1, 9, 9)) is m[1]
    with pytest.raises(ModelError, match="spatial extent"): find_layer(m, x=torch.randn(1, 1, 3, 3))
    with pytest.raises(ModelError, match="Pass x"): find_layer(nn.Linear(2, 2))
