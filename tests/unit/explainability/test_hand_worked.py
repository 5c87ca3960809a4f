"""Explanations of networks small enough to be worked out by hand, and what must not be left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resomap.errors import ConfigError, TargetLayerError
from resomap.explainability.captum_methods import grid_regions
from resomap.explainability.explainer import ModelExplainer
from resomap.explainability.gradcam import GradCAM
from resomap.explainability.integrated_gradients import IntegratedGradients
from resomap.explainability.methods import METHODS, explain
from resomap.explainability.saliency import Saliency


class TwoMaps(nn.Module):
    """Feature maps A_1 = x, A_2 = -x (1x1 convolution); y = sums over A_1 and A_2 with class weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        self.features.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[3.0, 1.0], [-1.0, 2.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(dim=(2, 3)))


IMAGE = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, -3, 0], [0, 0, 0, 4]])[None, None]


def test_gradcam_of_a_4x4_image() -> None:
    # dy_0/dA_1 = 3/16 at each of 16 cells, dy_0/dA_2 = 1/16; so w = (3/16, 1/16) and L = relu((3 - 1)/16 x).
    found = GradCAM(TwoMaps(), "features")(IMAGE, torch.tensor([0]))
    torch.testing.assert_close(found.maps_Bhw, (IMAGE[:, 0] / 8).relu())
    # y = head (mean x, -mean x) with mean 1/4.
    torch.testing.assert_close(found.logits_BK, torch.tensor([[(3 - 1) / 4, (-1 - 2) / 4]]))
    # Class 1: w = (-1/16, 2/16), L = relu(-3/16 x): only the negative pixel is left.
    found = GradCAM(TwoMaps(), "features")(IMAGE, torch.tensor([1]))
    torch.testing.assert_close(found.maps_Bhw, (-3 / 16 * IMAGE[:, 0]).relu())


def test_saliency_of_a_4x4_image() -> None:
    found = Saliency(TwoMaps())(IMAGE, torch.tensor([1]))
    torch.testing.assert_close(found.maps_Bhw, torch.full((1, 4, 4), 3 / 16))
    torch.testing.assert_close(found.signed_BCHW, torch.full((1, 1, 4, 4), -3 / 16))


class Square(nn.Module):
    """y_0 = sum x^2: the path integral of 2 a x^2 is x^2."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x**2).sum(dim=(1, 2, 3))
        return torch.stack([total, -total], dim=1)


@pytest.mark.parametrize("placement", ["adaptive", "gauss_legendre"])
def test_integrated_gradients_of_a_4x4_image(placement: str) -> None:
    method = IntegratedGradients(Square(), steps=64, max_error=None, placement=placement)
    found = method(IMAGE, torch.tensor([0]))
    torch.testing.assert_close(found.signed_BCHW, IMAGE**2, rtol=1e-3, atol=1e-3)
    assert found.notes["completeness_error"][0] < 1e-3
    assert found.notes["steps"] == [64]


class Kink(nn.Module):
    """y_0 rises only in the last tenth of the path: few equal steps miss it."""

    def forward(self, x: Tensor) -> Tensor:
        total = 10 * (x.sum(dim=(1, 2, 3)) - 0.9).relu()
        return torch.stack([total, -total], dim=1)


def test_integrated_gradients_adds_steps_until_the_error_is_under_the_bound() -> None:
    image = torch.full((1, 1, 2, 2), 0.25)
    few = IntegratedGradients(Kink(), steps=8, max_error=None)(image, torch.tensor([0]))
    more = IntegratedGradients(Kink(), steps=8, max_steps=512, max_error=0.02)(image, torch.tensor([0]))
    assert few.notes["completeness_error"][0] > 0.02 >= more.notes["completeness_error"][0]
    assert more.notes["steps"][0] > 8


def test_gradients_are_added_where_the_logit_is_not_accounted_for() -> None:
    """Up to 0.9 of the path nothing happens: of the parts that are added all lie around the kink."""
    asked: list[float] = []

    class Watched(Kink):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                asked.extend(x.detach().sum(dim=(1, 2, 3)).tolist())
            return super().forward(x)

    image = torch.full((1, 1, 2, 2), 0.25)  # the sum is the place on the path
    found = IntegratedGradients(Watched(), steps=12, max_error=None)(image, torch.tensor([0]))
    assert asked[:4] == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    # (3/4, 1) is halved; then whichever half holds the kink: (7/8, 1), and so on.
    assert asked[4:] == pytest.approx([13 / 16, 15 / 16, 29 / 32, 31 / 32, 57 / 64, 59 / 64, 113 / 128, 115 / 128])
    assert found.notes["steps"] == [12]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def _state(model: nn.Module) -> list[object]:
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training) for m in model.modules()
    ]
    return [hooks, [(p.requires_grad, p.grad is None) for p in model.parameters()], torch.is_grad_enabled()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_handed_back_unchanged(method: str, training: bool) -> None:
    model = _network().train(training)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, random = _state(model), torch.get_rng_state()
    with torch.no_grad():
        state = torch.is_grad_enabled()
        found = explain(model, torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), method=method)
        assert torch.is_grad_enabled() == state
    assert _state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert found.maps_Bhw.shape[0] == 2
    assert float(found.maps_Bhw.min()) >= 0
    assert not found.maps_Bhw.requires_grad


class Failing(nn.Module):
    """Fails behind the layer that is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.features(x)
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients", "saliency", "occlusion"])
def test_a_model_is_handed_back_unchanged_after_an_error(method: str) -> None:
    model = Failing().train()
    before = _state(model)
    options = {"target_layer": "features"} if method == "gradcam" else {}
    with pytest.raises(RuntimeError, match="out of memory"):
        explain(model, torch.randn(2, 3, 16, 16), method=method, **options)
    assert _state(model) == before


def test_gradcam_looks_into_a_distributed_wrapper_and_leaves_it_as_it_was(tmp_path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        model = _network().eval()
        wrapped = nn.parallel.DistributedDataParallel(model).train()
        images = torch.randn(2, 3, 16, 16)
        before = _state(wrapped)
        found = GradCAM(wrapped)(images)
        assert _state(wrapped) == before
        torch.testing.assert_close(found.maps_Bhw, GradCAM(model)(images).maps_Bhw)
        with pytest.raises(TargetLayerError):
            GradCAM(wrapped, "6")(images)
        assert _state(wrapped) == before
    finally:
        torch.distributed.destroy_process_group()


def test_gradcam_by_chunks_equals_gradcam_at_once() -> None:
    model, images = _network().eval(), torch.randn(7, 3, 16, 16)
    whole, parts = GradCAM(model)(images), GradCAM(model, chunk=3)(images)
    torch.testing.assert_close(parts.maps_Bhw, whole.maps_Bhw)
    assert parts.notes["layer"] == ["3"] * 7  # the last layer before the pooling that has a map


def test_bad_requests_say_what_was_expected() -> None:
    model, images = _network().eval(), torch.randn(2, 3, 16, 16)
    with pytest.raises(TargetLayerError, match="no layer 'featurs'"):
        GradCAM(model, "featurs")
    with pytest.raises(TargetLayerError, match="not a feature map"):
        GradCAM(model, "5")(images)
    with pytest.raises(ConfigError, match="class ids from 0 to 2"):
        GradCAM(model)(images, torch.tensor([0, 3]))
    with pytest.raises(ConfigError, match="one class id an image"):
        Saliency(model)(images, torch.tensor([0]))
    with pytest.raises(ConfigError, match="floating point"):
        Saliency(model)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="expected one of gradcam"):
        explain(model, images, method="gradcm")
    with pytest.raises(ConfigError, match="steps"):
        IntegratedGradients(model, steps=3)


@pytest.mark.parametrize("method", METHODS)
def test_one_class_id_stands_for_all_images(method: str) -> None:
    model, images = _network().eval(), torch.randn(2, 3, 16, 16)
    one, each = (explain(model, images, method=method, targets_B=given) for given in (2, torch.tensor([2, 2])))
    assert one.targets_B.tolist() == [2, 2]
    assert torch.equal(one.maps_Bhw, each.maps_Bhw)
    with pytest.raises(ConfigError, match=r"class ids from 0 to 2, got \[9, 9\]"):
        explain(model, images, method=method, targets_B=9)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("b", "got 'b'"),
        (1.5, r"whole numbers\), got torch.float32"),
        ([0, 1, 2], r"image \(2\), or one for all, got \(3"),
    ],
)
def test_targets_that_are_no_class_ids_are_refused(targets: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^targets: expected .*{message}"):
        GradCAM(_network())(torch.randn(2, 3, 16, 16), targets)  # type: ignore[arg-type]


def test_explainer_takes_class_names_and_says_what_it_expected() -> None:
    from PIL import Image

    picture = Image.new("RGB", (40, 30), (200, 30, 30))
    model = _network().eval()
    explainer = ModelExplainer(model, class_names=["a", "b", "c"])
    named, numbered = (explainer.explain_image(picture, resolution=16, target=target) for target in ("b", 1))
    assert named.target == numbered.target == 1
    assert np.array_equal(named.map_hw, numbered.map_hw)
    assert (
        "class explained: b" in explainer.visualize_explanation(picture, resolution=16, target="b").axes[0].get_title()
    )
    with pytest.raises(ConfigError, match=r"^target: expected one of a, b, c; got 'd'"):
        explainer.explain_image(picture, resolution=16, target="d")
    with pytest.raises(ConfigError, match=r"^target: expected a class id, since no class_names were given; got 'b'"):
        ModelExplainer(model).explain_image(picture, resolution=16, target="b")
    with pytest.raises(ConfigError, match=r"^class_names: expected one for each of the 3 classes .* got 1: a"):
        ModelExplainer(model, class_names=["a"]).explain_image(picture, resolution=16)
    with pytest.raises(ConfigError, match=r"^resolution: expected a side in pixels, a whole number from 1, got 0"):
        explainer.explain_image(picture, resolution=0)
    with pytest.raises(ConfigError, match=r"^models: expected resolution -> its own model, .* got Image"):
        explainer.compare_resolutions(picture, [16, 32])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^picture: expected a PIL image .* got list"):
        explainer.compare_resolutions({16: model}, [16, 32])  # type: ignore[arg-type]


def test_regions_are_the_same_share_of_the_image_at_every_size() -> None:
    small, large = grid_regions(14, 14)[0, 0], grid_regions(28, 28)[0, 0]
    assert torch.equal(large[::2, ::2], small)
    assert small.unique().numel() == 49


def test_explainer_compares_one_model_per_resolution(tmp_path) -> None:
    from PIL import Image

    picture = Image.new("RGB", (40, 30), (200, 30, 30))
    models = {16: _network().eval(), 32: _network().eval()}
    explainer = ModelExplainer(models[32], class_names=("a", "$b$", "<c>"))
    found, _ = explainer.compare_resolutions(models, picture, save_path=tmp_path / "both.png")
    assert [one.resolution for one in found] == [16, 32]
    assert [one.map_hw.shape for one in found] == [(16, 16), (32, 32)]
    assert found[0].target == found[1].target == found[1].predicted  # the class of the largest resolution's model
    with Image.open(tmp_path / "both.png") as drawn:
        assert drawn.size[0] > 100
    written = explainer.generate([("x", picture, 1)], tmp_path / "out", resolution=16, methods=("gradcam", "saliency"))
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in written) == [
        "gradcam/x.npz", "gradcam/x.png", "saliency/x.npz", "saliency/x.png"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="resolution"):
        explainer.explain_image(picture)
