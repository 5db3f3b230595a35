"""Train a float classifier on Fashion-MNIST, for comparisons that need trained weights.

    python benchmarks/train_float.py --model torchvision:resnet18 --out resnet18.safetensors

The weights are stored rounded to float16, and the printed accuracies are of what is stored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from eqnet.data import open_dataset
from eqnet.models.loader import load_model
from eqnet.spec.progress import Silent
from eqnet.stages.train.feed import Feed
from eqnet.stages.train.float_training import fit_float
from eqnet.stages.train.recipe import FloatRecipe
from eqnet.stages.train.workers import Workers
from eqnet.supernet.measure import Batches, accuracy


def train(source: str, data: Path | None, recipe: FloatRecipe, device: str, seed: int) -> nn.Module:
    """A classifier of the dataset's 10 classes, trained with shifts and flips."""
    dataset = open_dataset("fashion_mnist", data)
    torch.manual_seed(seed)
    model = load_model(source, classes=len(dataset.classes), in_channels=dataset.input_shape[0])
    feed = Feed(
        dataset.train(),
        dataset.preprocessing,
        batch=recipe.batch,
        seed=seed,
        augment=True,
        workers=Workers(torch.device(device)),
    )
    fit_float(model.to(device), feed, recipe, Silent())
    return model.half().float().eval()


def measure(model: nn.Module, data: Path | None, device: str) -> dict[str, float]:
    """Accuracy in [0, 1] on the validation and the test images."""
    dataset = open_dataset("fashion_mnist", data)
    found = {}
    for name, images in (("validation", dataset.validation()), ("test", dataset.test())):
        pixels, labels = images.take(len(images))
        batches = Batches.of(pixels, labels, dataset.preprocessing, device, 256)
        found[name] = accuracy(model, batches)
    return found


def main() -> None:
    """Train, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="torchvision:resnet18")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    recipe = FloatRecipe(epochs=arguments.epochs, batch=256, learning_rate=arguments.learning_rate)
    model = train(arguments.model, arguments.data, recipe, arguments.device, arguments.seed)
    found = measure(model, arguments.data, arguments.device)
    tensors = {
        name: value.half().cpu() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
    save_file(tensors, arguments.out)
    print(
        f"{arguments.model}: validation {found['validation']:.4f}, test {found['test']:.4f}, "
        f"{arguments.epochs} epochs, seed {arguments.seed}, in {arguments.out}"
    )


if __name__ == "__main__":
    main()
