"""Network, augmentation, export and training; skipped where PyTorch is absent (requirements-train.txt)."""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

torch: Any = pytest.importorskip("torch", reason="needs training/requirements-train.txt")
pytest.importorskip("tqdm", reason="needs training/requirements-train.txt")
augment: Any = import_module("training.fpenet.augment")
export: Any = import_module("training.fpenet.export")
model: Any = import_module("training.fpenet.model")
settings: Any = import_module("training.fpenet.settings")
train: Any = import_module("training.fpenet.train")


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """The settings in force, with a work folder of the test's own."""
    return settings.load(settings.parser("").parse_args(["--work", str(tmp_path)]))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Eight copies of one face, with made-up but consistent labels, in the dataset's format."""
    crop = Image.fromarray(skimage.data.astronaut()).crop((125, 25, 325, 225)).convert("L")
    buffer = io.BytesIO()
    crop.save(buffer, "JPEG", quality=95)
    data, n, rng = buffer.getvalue(), 8, np.random.default_rng(1)
    points = 100 + rng.uniform(-30, 30, (104, 2))
    points[36], points[45] = (75, 90), (125, 90)
    np.savez(
        tmp_path / "dataset.npz",
        points=np.repeat(points[None], n, 0).astype(np.float32), azimuth=np.zeros((n, 104), np.float16),
        axis=np.array([[1, 0]] * n, np.float32), unit=np.full(n, 50, np.float32), yaw=np.zeros(n, np.float32),
        shifts=np.zeros((2, 68, 2), np.float32), depth=np.zeros((n, 25, 25), np.int8),
        box=np.array([[50, 45, 150, 155]] * n, np.float32), hidden=np.zeros((n, 104), np.int8),
        fold=np.array([0] * 6 + [1, 2], np.int8), source=np.array(["a"] * n), spread=np.zeros(n, np.float32),
        blob=np.frombuffer(data * n, np.uint8), start=np.arange(n + 1) * len(data),
    )  # fmt: skip
    return tmp_path / "dataset.npz"


def faces(dataset: Path) -> Any:
    return train.read_faces(dataset, torch.device("cpu"), 0.01)[0]


def options(tmp_path: Path, **given: Any) -> argparse.Namespace:
    names = {"steps": 4, "batch": 4, "out": str(tmp_path / "run"), "dataset": tmp_path / "dataset.npz"}
    empty = {"resume": None, "compile": False, "init": None, "lr": None}
    return argparse.Namespace(**{**names, **empty, **given})


def test_export_computes_what_training_does(table: Any, tmp_path: Path) -> None:
    for points in (80, 104):
        net = export.Exported(export.load_net(table, None), points).eval()
        path = tmp_path / f"{points}.onnx"
        export.write(net, path, {"layout": str(points)})
        assert export.compare(net, path) < 1e-3
        assert path.stat().st_size < 4_000_000
    whole = export.load_net(table, None)
    x = torch.rand(2, 1, 80, 80) * 255
    with torch.no_grad():
        torch.testing.assert_close(
            export.Exported(export.load_net(table, None), 80)(x)[1], whole(x).points[:, :80]
        )


def test_contrast_and_brightness_do_not_matter(table: Any) -> None:
    net = export.load_net(table, None)
    x = torch.rand(1, 1, 80, 80) * 100 + 50
    with torch.no_grad():
        off = (net(x).points - net(x * 1.4 + 10).points).abs().max()
    assert off < 0.5


def test_points_follow_the_pixels(dataset: Path, table: Any) -> None:
    """A bright dot painted on a point stays under it through every warp."""
    some = faces(dataset)
    index = torch.arange(6)
    at = (110.0, 120.0)
    images = torch.zeros_like(some.images)
    images[:, 117:124, 107:114] = 255
    points = torch.tensor(at).expand_as(some.points).clone() + 0.5
    slope = torch.linspace(-20, 20, 25).expand(8, 1, 25, 25)
    dotted = replace(some, images=images, points=points, depth=slope)
    dice = augment.Dice(5, 6, torch.device("cpu"))
    c = table.section("augment") | {"turned": 1.0, "upside_down": 0.0}
    matrix, shift, _ = augment.geometry(dotted.box[index], dice, c)
    move, moved, _ = augment.turn(dotted, index, dice, c)
    crops = augment.warp(images[index][:, None].float(), matrix, shift, move)
    wanted = augment.to_crop(moved, matrix, shift)[:, 0]
    grid = augment.grid(80, torch.device("cpu"))
    weight = crops.flatten(1)
    found = (weight @ grid) / weight.sum(1, keepdim=True)
    inside = ((wanted > 8) & (wanted < 72)).all(1)
    assert inside.sum() >= 3
    assert (found - wanted)[inside].norm(dim=1).max() < 0.7


def test_a_turn_can_be_undone(dataset: Path) -> None:
    some = faces(dataset)
    slope = torch.linspace(-25, 25, 25).expand(8, 1, 25, 25)
    some = replace(some, depth=slope)
    index = torch.arange(4)
    move = augment.field(some, index, torch.full((4,), 0.3), torch.full((4,), -0.1))
    at = 60 + 80 * torch.rand(4, 50, 2)
    there = at + augment.sample(move, at)
    assert (augment.unturn(move, there) - at).norm(dim=2).max() < 0.5


def test_jpeg_is_that_of_a_codec() -> None:
    image = np.asarray(Image.fromarray(skimage.data.astronaut()).convert("L"))[:160, 100:260]
    for quality in (15, 50, 85):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        wanted = np.asarray(Image.open(buffer), np.float32)
        x = torch.from_numpy(image.astype(np.float32))[None, None] / 255
        ours = augment.jpeg(x, torch.tensor([float(quality)]))[0, 0].numpy() * 255
        assert np.abs(ours - wanted).mean() < 1.5


def test_batches_depend_on_the_seed_alone(dataset: Path, table: Any) -> None:
    some, index, c = faces(dataset), torch.arange(6), table.section("augment") | {"slices": 3}
    one, same, other = (augment.make(some, index, seed, c) for seed in (1, 1, 2))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.points, same.points)
    assert not torch.equal(one.image, other.image)
    assert one.image.min() >= 0
    assert one.image.max() <= 255


def test_an_interrupted_run_goes_on_where_it_stopped(dataset: Path, table: Any, tmp_path: Path) -> None:
    whole = train.Run(table, options(tmp_path, out=str(tmp_path / "whole"), batch=16))
    whole.train(1e9)
    first = train.Run(table, options(tmp_path, out=str(tmp_path / "parts"), batch=16))
    first.one()
    first.one()
    first.save()
    second = train.Run(table, options(tmp_path, out=str(tmp_path / "parts"), batch=16))
    assert second.step == 2
    second.train(1e9)
    for name in ("weights.pt", "checkpoint.pt"):
        assert (tmp_path / "parts" / name).is_file()
    a, b = (torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("whole", "parts"))
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=1e-3, atol=1e-4)


def test_the_wing_is_smooth_where_its_parts_meet() -> None:
    left, right = train.wing(torch.tensor([3.999, 4.001]), 4.0, 0.8)
    assert abs(float(left) - float(right)) < 0.01
    assert float(train.wing(torch.zeros(1), 4.0, 0.8)) == 0
