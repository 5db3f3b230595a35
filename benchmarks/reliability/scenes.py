"""What is killed: each command with what it begins from, and what must hold after a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forks
import tiny
from forks import ask, start


@dataclass(frozen=True)
class World:
    """A folder that commands work in, with images, a supernet and an artifact; and one for
    temporaries. saved: what a folder of it held when all was whole."""

    folder: Path
    scratch: Path
    own_scratch: Path

    @classmethod
    def build(cls, root: Path) -> World:
        """All of it, made by the commands themselves, and this process ready to fork."""
        world = cls(root / "world", root / "scratch", root / "own")
        for folder in (world.folder, world.scratch, world.own_scratch):
            folder.mkdir()
        os.chdir(world.folder)
        tiny.write_world(world.folder)
        forks.import_all()
        world.do(tiny.train(world.folder))
        forks.warm(world.folder / "supernet", tiny.PROFILE)
        world.do(tiny.export(world.folder))
        for name in ("supernet", "artifact"):
            shutil.copytree(world.folder / name, root / "saved" / name)
        return world

    def do(self, arguments: list[str]) -> None:
        """Run a command to its end. Raises RuntimeError where it fails."""
        code = start(arguments, self.scratch).wait().code
        if code:
            log = (self.scratch.parent / "log").read_text()[-2000:]
            raise RuntimeError(f"{' '.join(arguments)}: exit code {code}\n{log}")

    def restore(self, name: str) -> None:
        """A folder as it was when all was whole."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder.parent / "saved" / name, self.folder / name)

    def names(self) -> set[str]:
        """All that lies in it and among temporaries, hidden files and folders included."""
        found = set()
        for folder in (self.folder, self.scratch):
            found |= {str(path.relative_to(folder.parent)) for path in folder.rglob("*")}
        return {name for name in found if "__pycache__" not in name}

    def clean(self, left: list[str]) -> None:
        """Remove what was left over, so that it is counted once."""
        for name in left:
            path = self.folder.parent / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Scene:
    """One command. prepare: what it begins from. again: the run after a kill. problem: what is
    wrong after a kill, None, "lost" or "not whole". result: what every whole run must give."""

    name: str
    command: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    prepare: Callable[[World], None]
    problem: Callable[[World], str | None]
    result: Callable[[World], Any]


def _passes(artifact: Path) -> bool:
    from eqnet.stages.report.load import load_artifact
    from eqnet.stages.verify import verify

    load_artifact(artifact)  # reads its reports
    return verify(artifact, threads=1).verdict == "passed"


def artifact_problem(world: World) -> str | None:
    """Of the artifact."""
    artifact = world.folder / "artifact"
    if not artifact.is_dir():
        return "lost"
    return None if ask(lambda: _passes(artifact), world.own_scratch) else "not whole"


def _new_artifact_problem(world: World) -> str | None:
    """Of one that was not there before: it may still not be there."""
    if not (world.folder / "artifact").exists():
        return None
    return artifact_problem(world)


def _files_problem(folder: Path) -> str | None:
    """Of a training or a search: every file that has its name can be read to its end."""
    from safetensors.numpy import load_file

    if not folder.is_dir():
        return None
    try:
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_text().splitlines()]
            else:
                json.loads(path.read_text())
    except Exception:  # any that a reader has
        return "not whole"
    return None


def _contents(folder: Path) -> Mapping[str, bytes | dict[str, Any]]:
    """The bytes of all files; of a search's report without the time that it took."""
    found: dict[str, bytes | dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if path.name == "search.json":
            report = json.loads(content)
            report.pop("seconds")
            found[path.name] = report
        else:
            found[path.name] = content
    return found


def _artifact_files(world: World) -> Any:
    """The names of an artifact's own files: what a race finds may differ from run to run."""
    own = {path.name for path in (world.folder / "artifact").iterdir()}
    return own if artifact_problem(world) is None else None


def _without(name: str) -> Callable[[World], None]:
    return lambda world: shutil.rmtree(world.folder / name, ignore_errors=True)


def _resumed(command: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
    return lambda folder: [*command(folder), "--resume"]


def _prepare_search(world: World) -> None:
    world.restore("supernet")
    _without("found")(world)


def _on_artifact(
    name: str,
    command: Callable[[Path], list[str]],
    prepare: Callable[[World], None] = lambda world: world.restore("artifact"),
    problem: Callable[[World], str | None] = artifact_problem,
) -> Scene:
    return Scene(name, command, command, prepare, problem, _artifact_files)


SCENES = {
    scene.name: scene
    for scene in (
        _on_artifact("verify", tiny.verify),
        _on_artifact("bench", tiny.bench),
        Scene(
            "search",
            tiny.search,
            _resumed(tiny.search),
            _prepare_search,
            lambda world: _files_problem(world.folder / "found"),
            lambda world: _contents(world.folder / "found"),
        ),
        Scene(
            "train",
            tiny.train,
            _resumed(tiny.train),
            _without("supernet"),
            lambda world: _files_problem(world.folder / "supernet"),
            lambda world: _contents(world.folder / "supernet"),
        ),
        _on_artifact("export", tiny.export),
        _on_artifact("export, new", tiny.export, _without("artifact"), _new_artifact_problem),
    )
}
