"""The elastic step in a training loop of your own: your data, your schedule, your checkpoints.

    python examples/own_training_loop.py [--epochs 2] [--out runs/own]

One step trains three subnets of the supernet: the one of the highest bits, a random one and the
one of the lowest, each guided by the one before it (EQ-Net's Group Progressive Guidance).
"""

from __future__ import annotations

import argparse
import copy
import random

import torch
from own_network import images_and_labels, trained
from torch import nn

from eqnet import ElasticStep
from eqnet.spec.scheme import Form
from eqnet.stages.train.elastic import make_optimizer
from eqnet.stages.train.recipe import ElasticRecipe, GpgRecipe
from eqnet.subnets.build import load_style, uniform
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet


def main() -> None:
    """Train, then compare the float network with subnets of 8, 4 and 2 bits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    images, labels = images_and_labels()
    net = trained(epochs=8)
    supernet = Supernet(copy.deepcopy(net), input_shape=(1, 28, 28))
    calibrate(supernet, images.split(100))

    recipe = ElasticRecipe(gpg=GpgRecipe(guidance=0.5, teacher=0.5))
    styles = [load_style(name) for name in ("paper", "onnxruntime_x86")]
    step = ElasticStep(supernet, net, recipe, styles)
    optimizer = make_optimizer(supernet, recipe)
    rng = random.Random(0)  # noqa: S311  (not for secrets)
    for epoch in range(options.epochs):
        supernet.graph.train()
        for chosen in torch.randperm(len(images)).split(50):
            optimizer.zero_grad(set_to_none=True)
            losses = step.backward(images[chosen], labels[chosen], rng)
            nn.utils.clip_grad_value_(list(supernet.graph.parameters()), recipe.gradient_clip)
            optimizer.step()
            supernet.project()
        print(f"epoch {epoch + 1}:", dict(zip(step.losses, losses.tolist(), strict=True)))

    for bits in (8, 4, 2):
        supernet.apply(uniform(supernet.info, styles[0], Form(), bits, bits))
        supernet.recalibrate(images.split(100))
        with torch.no_grad():
            right = supernet.graph.eval()(images).argmax(1) == labels
        print(f"W{bits}A{bits}: {right.float().mean():.1%} of the training images")


if __name__ == "__main__":
    main()
