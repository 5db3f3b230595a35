"""What a search has done so far, on disk, so that one that was killed goes on to the same end.

It holds no pickles and no generator's state: a generation depends on the seed, its number and
the population, and what was measured is known by the subnet's sha256.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eqnet.backend.files import write_file
from eqnet.spec.errors import CheckpointError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.reports import GenerationRecord, MeasuredScore
from eqnet.spec.texts import parse_json
from eqnet.stages.search.evolution.genetic import Evaluation, Generation

STATE_FILE = "search.state.json"
SAVE_EVERY = 10
"""Generations."""


class SavedGeneration(BaseModel):
    """A `Generation` as lists."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1)
    genomes: list[list[int]] = Field(min_length=1)
    objectives: list[list[float]]
    violations: list[list[float]]


class State(BaseModel):
    """The content of the file.

    facts: hashes of what the search is of, by name. points: KL and accuracy by a subnet's sha256.
    rounds: genomes that the accuracy model was corrected by, a list for each genetic search that
    is over. generation, predicted, history: of the one that is not; earlier: predictions before it.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    facts: dict[str, str] = Field(default_factory=dict)
    times: dict[str, float] | None = None
    points: dict[str, tuple[float, float]] = Field(default_factory=dict)
    rounds: list[list[list[int]]] = Field(default_factory=list)
    earlier: int = 0
    generation: SavedGeneration | None = None
    predicted: int = 0
    history: list[GenerationRecord] = Field(default_factory=list)
    measured: dict[str, MeasuredScore] = Field(default_factory=dict)


class Journal:
    """The state of one search in its folder, written whole at every `save`."""

    def __init__(self, path: Path, state: State) -> None:
        self.path, self.state = path, state

    @classmethod
    def open(cls, folder: Path, *, resume: bool) -> Journal:
        """What an interrupted search left in the folder, or, without `resume`, nothing.

        Raises CheckpointError for a file that cannot be read.
        """
        path = folder / STATE_FILE
        if not resume or not path.is_file():
            return cls(path, State())
        try:
            return cls(path, State.model_validate(parse_json(path.read_bytes())))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
        except ValidationError as error:
            raise _damaged(path, first_problem(error)) from error
        except ValueError as error:
            raise _damaged(path, one_line(error)) from error

    def require(self, name: str, value: Any) -> None:
        """Note a fact that the search depends on, any JSON; or hold it against the noted one.

        Raises CheckpointError where they differ: the state is of another search.
        """
        text = json.dumps(value, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if self.state.facts.setdefault(name, digest) != digest:
            raise CheckpointError(
                f"{self.path}: of a search with another {name} (allowed: the same options, data "
                "and supernet; or no --resume, which begins anew)"
            )

    def save(self) -> None:
        """Write everything, whole or not at all."""
        write_file(self.path, self.state.model_dump_json())

    def close(self) -> None:
        """The search is over: its results are all that stays."""
        self.path.unlink(missing_ok=True)

    def population(self, choices: tuple[int, ...], objectives: int, most: int) -> Generation | None:
        """The saved population; None where there is none. Raises CheckpointError for nonsense.

        most: generations of this search; a population that is older is not gone back from.
        """
        saved = self.state.generation
        self.state.history = self.state.history[: saved.number if saved is not None else 0]
        if saved is None:
            return None
        if saved.number > most:
            raise CheckpointError(
                f"{self.path}: {saved.number} generations are done (allowed: --generations "
                f"{saved.number} or more; or no --resume)"
            )
        try:
            genomes = np.array(saved.genomes, dtype=np.int64)
            found = np.array(saved.objectives, dtype=np.float64)
            violations = np.array(saved.violations, dtype=np.float64)
        except ValueError as error:
            raise _damaged(self.path, "generation: rows of different lengths") from error
        count = len(genomes)
        inside = genomes.shape == (count, len(choices)) and bool(
            ((genomes >= 0) & (genomes < np.array(choices))).all()
        )
        if not inside or found.shape != (count, objectives) or len(violations) != count:
            raise _damaged(self.path, "generation: not a population of this search")
        return Generation(saved.number, genomes, Evaluation(found, violations.reshape(count, -1)))

    def rounds(self, choices: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
        """The genomes of earlier rounds. Raises CheckpointError for those of another space."""
        for genome in itertools.chain.from_iterable(self.state.rounds):
            pairs = zip(genome, choices, strict=False)
            if len(genome) != len(choices) or any(not 0 <= gene < most for gene, most in pairs):
                raise _damaged(self.path, "rounds: not of this search")
        return [[tuple(genome) for genome in chosen] for chosen in self.state.rounds]

    def end_round(self, chosen: Sequence[Sequence[int]], predicted: int) -> None:
        """A genetic search is over, and these are to be measured before the next one."""
        self.state.rounds.append([list(genome) for genome in chosen])
        self.state.earlier += predicted
        self.state.generation, self.state.predicted, self.state.history = None, 0, []
        self.save()

    def keep(self, now: Generation, predicted: int, record: GenerationRecord) -> None:
        """Note a generation; every few of them are written."""
        self.state.history.append(record)
        if now.number % SAVE_EVERY:
            return
        self.state.predicted = predicted
        self.state.generation = SavedGeneration(
            number=now.number,
            genomes=now.genomes.tolist(),
            objectives=now.evaluation.objectives.tolist(),
            violations=now.evaluation.violations.tolist(),
        )
        self.save()


def _damaged(path: Path, told: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: not the state of a search: {told} (allowed: no --resume, which begins anew)"
    )
