"""What each place costs by itself: KL to the network with that place alone quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eqnet.backend.decisions import decide
from eqnet.sensitivity.places import Place, all_float, alone
from eqnet.sensitivity.store import Found, load_found, path_of, save_found, source_of
from eqnet.sensitivity.variants import Variant, Variants
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.checkpoint import bundled_supernet
from eqnet.supernet.measure import BATCH, Batches, batch_size, kl_divergence
from eqnet.supernet.measure import logits as logits_of
from eqnet.supernet.session import Session
from eqnet.supernet.settling.settle import Calibration

CORRECTION_IMAGES = 32
"""Images that subnets are settled on to compare them with each other."""

PLACE_IMAGES = 16
"""Large images that each place is measured on; of small ones there are 64."""


def place_images(session: Session) -> int:
    """How many images each place is measured on: fewer of large ones."""
    small = batch_size(session.header.input_shape) == BATCH
    return BATCH if small else PLACE_IMAGES


def compare(reference: Tensor, found: Tensor) -> Found:
    """A variant's logits [N, K] against those it should have."""
    kl = kl_divergence(reference, found).cpu().numpy().astype(np.float32)
    moved = decide(reference.cpu().numpy()) != decide(found.cpu().numpy())
    return Found(kl, np.asarray(moved))


def light_calibration(session: Session) -> Calibration:
    """The first of the images by which subnets are settled: enough to compare subnets by."""
    whole = session.calibration()
    images = whole.images
    few = Batches(
        images.images[:CORRECTION_IMAGES], images.labels[:CORRECTION_IMAGES], images.batch
    )
    return Calibration(few, whole.method)


class Alone:
    """Places of a network, each quantized while all others are float.

    The base is the network in float: its own statistics where it keeps them, else those collected
    for it. What was measured is kept beside the supernet (not beside the bundled one, which may
    lie where nothing can be written) and found there again.
    """

    def __init__(self, session: Session, form: SubnetSpec, images: Batches) -> None:
        """form: a subnet with the form and storage of all places. images: to measure on."""
        self._session, self._images, self._form = session, images, form
        calibration = session.calibration()
        settled_on = f"{len(calibration)} {CORRECTION_IMAGES}"
        source = source_of(session.identity, form, settled_on, images)
        self._source = source
        self._path: Path | None = None
        if session.folder.resolve() != bundled_supernet().resolve():
            self._path = path_of(session.folder, source)
        self._found = {} if self._path is None else load_found(self._path, source)
        self._variants: dict[str, Variant] = {}
        self._base: Variants | None = None

    def measure(
        self, places: Sequence[Place], count: int, progress: Progress
    ) -> dict[Place, Found]:
        """What each place costs on the first `count` images; goes on where a run was stopped."""
        count = min(count, len(self._images))
        missing = [place for place in places if len(self._known(place)) < count]
        local = [place for place in missing if place.kind != "group"]
        if local:
            self._measure_local(local, count, progress)
        groups = [place for place in missing if place.kind == "group"]
        if groups:
            self._measure_whole(groups, count, progress)
        return {place: self._known(place).first(count) for place in places}

    def _key(self, place: Place) -> str:
        """Of what is known: a group is another with other bits in it."""
        if place.kind != "group":
            return place.key
        spec = alone(self._form, self._session.supernet.info, place)
        return f"{place.key}:{spec.sha256()[:16]}"

    def _known(self, place: Place) -> Found:
        return self._found.get(self._key(place), Found.none())

    def _save(self) -> None:
        if self._path is not None:
            save_found(self._path, self._source, self._found)

    def _float_base(self) -> Variants:
        """The network in float as a base of variants."""
        if self._base is None:
            float_net = all_float(self._form)
            session = self._session
            if session.header.method == "elastic":
                session.settle(float_net, session.calibration())
            else:
                session.supernet.apply_float()
            self._base = Variants(session.supernet, float_net)
        return self._base

    def _corrected(self, places: Sequence[Place], progress: Progress) -> dict[str, Variant]:
        """The places' variants, with corrections."""
        base, info = self._float_base(), self._session.supernet.info
        fresh = {}
        for place in places:
            if place.key not in self._variants:
                fresh[place.key] = base.variant(alone(self._form, info, place))
        if fresh:
            calibration = self._session.calibration().images
            images = calibration.images[:CORRECTION_IMAGES]
            base.correct(list(fresh.values()), [images], progress)
            self._variants |= fresh
        return self._variants

    @torch.no_grad()
    def _measure_local(self, places: Sequence[Place], count: int, progress: Progress) -> None:
        base = self._float_base()
        variants = self._corrected(places, progress)
        ends = [*range(base.batch, count, base.batch), count]
        progress.start("sensitivities", len(places) * len(ends))
        for end in ends:
            start = (end - 1) // base.batch * base.batch
            todo = [place for place in places if len(self._known(place)) < end]
            progress.advance(len(places) - len(todo))
            if not todo:
                continue
            reference = base.load(self._images.images[start:end])
            for place in todo:
                found = compare(reference, base.logits(variants[place.key]))
                self._found[self._key(place)] = self._known(place).first(start).joined(found)
                progress.advance(place=place.name)
            self._save()
        progress.finish()
        base.restore()

    @torch.no_grad()
    def _measure_whole(self, places: Sequence[Place], count: int, progress: Progress) -> None:
        """Whole passes, for places of many layers, which are settled as any subnet is."""
        session, info = self._session, self._session.supernet.info
        images = Batches(
            self._images.images[:count], self._images.labels[:count], self._images.batch
        )
        calibration = light_calibration(session)
        self._base = None  # settling moves the statistics
        progress.start("op groups", len(places) + 1)
        self._float_base()
        reference = logits_of(session.supernet.graph, images)
        progress.advance()
        for place in places:
            session.settle(alone(self._form, info, place), calibration)
            self._found[self._key(place)] = compare(
                reference, logits_of(session.supernet.graph, images)
            )
            progress.advance(place=place.name)
        progress.finish()
        self._base = None
        self._save()


def ranked(found: Mapping[Place, Found]) -> list[Place]:
    """The places by KL, worst first; of equal ones in order of their names."""
    return sorted(found, key=lambda place: (-found[place].mean_kl(), place.key))
