"""Accuracy predictors side by side: how well each ranks subnets that it never saw.

    python benchmarks/predictor.py --measure [--part 1/2] [--subnets 1300]
    python benchmarks/predictor.py [--sizes 100 300 1000] [--write FOLDER]

The first line measures random subnets of the bundled supernet on validation images (KL to its
8-bit network, and accuracy, each on two halves of the images) and adds rows to --rows; it goes on
where it was stopped, and parts may run side by side. The second fits each contestant to so many of
them and reports on 300 that none has seen: Kendall tau and Pearson's correlation of KL, the root
mean square error of its logarithm, and tau within bands of half an average weight bit; beside them
what two halves of the images say of each other, which is about all that can be learned.

Contestants: the perceptron as it was (on accuracy, one-hot bits), the same on the logarithm of KL,
ours (`eqnet.stages.search.accuracy.cqap.fit`), boosted trees and ridge regression on pairs of
features (scikit-learn), both on the logarithm of KL. --write fits ours to all rows and saves it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eqnet.backend.machine.host import describe_host
from eqnet.backend.ranks import kendall_tau
from eqnet.spec.progress import Silent
from eqnet.spec.scheme import all_forms
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy import cqap
from eqnet.stages.search.accuracy.features import CODES, encode
from eqnet.stages.search.accuracy.labels import MeasuredSubnets, draw_subnet, score
from eqnet.stages.search.accuracy.mapping import TINY
from eqnet.subnets.build import load_style
from eqnet.supernet.measure import Batches
from eqnet.supernet.session import Session, open_session
from eqnet.supernet.settling.settle import Calibration

ROWS = Path(__file__).parent / "rows" / "predictor.jsonl"
HELD_OUT = 300
EPOCHS, MEMBERS = 150, 3
Predict = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def specs_of(session: Session, count: int) -> list[SubnetSpec]:
    """The first subnets of seed 0, as `make_predictor` draws them."""
    rng, forms = random.Random(0), list(all_forms())
    styles = [load_style(name) for name in session.header.styles or ("paper",)]
    return [draw_subnet(session.supernet.info, styles, forms, rng) for _ in range(count)]


def measure(session: Session, options: argparse.Namespace) -> None:
    """Add the rows of this part that are missing."""
    part, parts = (int(number) for number in options.part.split("/"))
    known = {row["index"] for row in read(options.rows)}
    validation = session.batches(session.dataset.validation(), options.images)
    settled = session.calibration().images
    few = Batches(settled.images[: options.calibration], settled.labels[: options.calibration])
    calibration = Calibration(few, session.header.method)
    reference = session.reference_logits(validation)
    for index, spec in enumerate(specs_of(session, options.subnets)):
        if index in known or index % parts != part - 1:
            continue
        found = score(session.supernet, spec, calibration, validation, reference)
        row = {"index": index, "kl": found.divergence, "accuracy": found.accuracy}
        with options.rows.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, object]]:
    """What was measured, by index; nothing where there is no such file."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: int(row["index"]))


def labels_of(session: Session, path: Path) -> MeasuredSubnets:
    """The rows with their features."""
    rows = read(path)
    indices = [int(str(row["index"])) for row in rows]
    specs = specs_of(session, max(indices) + 1)
    info = session.supernet.info
    return MeasuredSubnets(
        np.stack([encode(info, specs[index]) for index in indices]),
        np.array([row["kl"] for row in rows], np.float32),
        np.array([row["accuracy"] for row in rows], np.float32),
    )


def log_kl(labels: MeasuredSubnets) -> NDArray[np.float64]:
    """The logarithms of measured KL [N]."""
    logs: NDArray[np.float64] = np.log(labels.divergence.mean(1).astype(np.float64) + TINY)
    return logs


@dataclass(frozen=True)
class Fitter:
    """Fits the contestants to some labels; each predicts what falls or rises with KL."""

    session: Session
    labels: MeasuredSubnets

    @property
    def logs(self) -> NDArray[np.float64]:
        """The logarithms of measured KL [N]."""
        return log_kl(self.labels)

    def ours(self) -> Predict:
        """CQAP as it is."""
        fitted = cqap.fit(
            self.labels,
            info=self.session.supernet.info,
            supernet=self.session.identity,
            images=0,
            epochs=EPOCHS,
            members=MEMBERS,
            seed=0,
            progress=Silent(),
            holdout=0.0,
        )
        return lambda features: fitted.log_divergence(features).mean(0)

    def perceptron(self, targets: NDArray[np.float64], sign: float) -> Predict:
        """The paper's form: flags and one-hot bits."""
        mean, deviation = targets.mean(), targets.std() + 1e-9
        x = torch.from_numpy(self.labels.features)
        y = torch.from_numpy(((targets - mean) / deviation).astype(np.float32))
        nets = [cqap.fit_member(x, y, EPOCHS, seed, Silent()) for seed in range(MEMBERS)]

        def predict(features: NDArray[np.float32]) -> NDArray[np.float64]:
            with torch.no_grad():
                found = [net(torch.from_numpy(features))[:, 0].double().numpy() for net in nets]
            result: NDArray[np.float64] = sign * (np.mean(found, axis=0) * deviation + mean)
            return result

        return predict

    def on_accuracy(self) -> Predict:
        """What was shipped before: the perceptron on accuracies. Their negative stands for KL."""
        return self.perceptron(self.labels.accuracy.mean(1).astype(np.float64), -1.0)

    def on_kl(self) -> Predict:
        """The same perceptron on the logarithm of KL."""
        return self.perceptron(self.logs, 1.0)

    def trees(self) -> Predict:
        """Boosted trees on bits as numbers."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        settings = {"max_iter": 400, "learning_rate": 0.05, "max_leaf_nodes": 12}
        model = HistGradientBoostingRegressor(**settings, min_samples_leaf=5, l2_regularization=1.0)
        model.fit(self._numbers(self.labels.features), self.logs)
        return lambda features: model.predict(self._numbers(features))

    def ridge(self) -> Predict:
        """Ridge regression on all products of two features, its strength by cross-validation."""
        from sklearn.kernel_ridge import KernelRidge
        from sklearn.model_selection import GridSearchCV

        model = KernelRidge(kernel="poly", degree=2, gamma=1 / 45, coef0=1)
        search = GridSearchCV(model, {"alpha": [0.003, 0.03, 0.3, 3.0]}, cv=4)
        search.fit(self.labels.features, self.logs)
        return lambda features: search.predict(features)

    def _numbers(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Flags, carriers and the bits of each place (float: 16), their least and their mean."""
        info = self.session.supernet.info
        places = len(info.layers) + len(info.read_tensors())
        split = features.shape[1] - places * len(CODES)
        codes = features[:, split:].reshape(-1, places, len(CODES))
        bits = codes @ np.array([16.0, *CODES[1:]], np.float32)
        summed = [bits.min(1, keepdims=True), bits.mean(1, keepdims=True)]
        return np.concatenate([features[:, :split], bits, *summed], axis=1)


CONTESTANTS: dict[str, Callable[[Fitter], Predict]] = {
    "perceptron on accuracy": Fitter.on_accuracy,
    "perceptron on log KL": Fitter.on_kl,
    "ridge on pairs, log KL": Fitter.ridge,
    "boosted trees, log KL": Fitter.trees,
    "ours: the same, and squared steps": Fitter.ours,
}


def table(session: Session, labels: MeasuredSubnets, sizes: Sequence[int]) -> None:
    """Print a row for each size and contestant."""
    info = session.supernet.info
    order = np.random.default_rng(1).permutation(len(labels.features))
    held, pool = order[:HELD_OUT], order[HELD_OUT:]
    unseen = MeasuredSubnets(*(part[held] for part in labels))
    truth = log_kl(unseen)
    bits = cqap.average_bits(unseen.features, info)
    halves = [kendall_tau(part[:, 0], part[:, 1]) for part in unseen[1:]]
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {describe_host()['cpu']}; ", end="")
    print(f"two halves of the images: tau {halves[0]:.3f} of KL, {halves[1]:.3f} of accuracy\n")
    print("| subnets | predictor | tau, KL | Pearson, KL | RMSE, log KL | tau within 0.5 bits |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        used = pool[:size]
        fitter = Fitter(session, MeasuredSubnets(*(part[used] for part in labels)))
        for name, fit in CONTESTANTS.items():
            found = fit(fitter)(unseen.features)
            local = cqap.local_tau(found, truth, bits)
            error, pearson = "-", cqap.pearson(found, np.exp(truth))
            if name != "perceptron on accuracy":
                error = f"{np.sqrt(((found - truth) ** 2).mean()):.3f}"
                pearson = cqap.pearson(np.exp(found), np.exp(truth))
            print(
                f"| {len(used)} | {name} | {kendall_tau(found, truth):.3f} | {pearson:.3f} "
                f"| {error} | {local or 0:.3f} |",
                flush=True,
            )


def main() -> None:
    """Measure, or compare, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--part", default="1/1", help="of how many, side by side")
    parser.add_argument("--subnets", type=int, default=1300)
    parser.add_argument("--images", type=int, default=1500, help="validation images")
    parser.add_argument("--calibration", type=int, default=500, help="calibration images")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--write", type=Path, help="folder for cqap.safetensors, fitted to all")
    options = parser.parse_args()
    session = open_session(None)
    if options.measure:
        measure(session, options)
        return
    labels = labels_of(session, options.rows)
    if options.write is None:
        table(session, labels, options.sizes)
        return
    fitted = cqap.fit(
        labels,
        info=session.supernet.info,
        supernet=session.identity,
        images=options.images,
        epochs=EPOCHS,
        members=MEMBERS,
        seed=0,
        progress=Silent(),
    )
    print(cqap.save_cqap(options.write, fitted), fitted.header.model_dump_json())


if __name__ == "__main__":
    main()
