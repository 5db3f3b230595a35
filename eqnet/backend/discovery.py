"""Finding exporters by entry point, the built-in ones and third parties' alike."""

from __future__ import annotations

from importlib import metadata

from eqnet.backend.protocol import Exporter
from eqnet.spec.errors import MissingExtraError, ProfileError, UsageError, unknown
from eqnet.spec.hardware.profile import HardwareProfile

GROUP = "eqnet.exporters"
_registered: dict[str, type[Exporter]] = {}


def register(exporter: type[Exporter]) -> None:
    """Let this process find an exporter that no installed package has an entry point for.

    For trying one out; it comes before an installed one of its name.
    """
    _registered[exporter.name] = exporter


def is_registered(name: str) -> bool:
    """Whether that name is one of `register`, so that no other process can find it."""
    return name in _registered


def exporter_names() -> list[str]:
    """Names of all installed exporters, sorted."""
    return sorted({entry.name for entry in metadata.entry_points(group=GROUP)} | set(_registered))


def find_exporter(name: str) -> Exporter:
    """The exporter of that name: one registered here, or of the group ``eqnet.exporters``.

    Raises UsageError for an unknown name (with the nearest and all valid names) or for an entry
    that is no exporter, and MissingExtraError when a package that it needs is not installed.
    """
    if name in _registered:
        return _registered[name]()
    entries = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if name not in entries:
        raise UsageError(unknown("backend", name, exporter_names()))
    entry = entries[name]
    try:
        exporter = entry.load()()
    except ImportError as error:
        raise MissingExtraError(
            f"backend '{name}' cannot be loaded: {error} (install what it needs: "
            f"pip install 'eqnet[{name}]')"
        ) from error
    except AttributeError as error:
        raise UsageError(f"backend '{name}': {entry.value} does not exist: {error}") from error
    if not isinstance(exporter, Exporter):
        raise UsageError(f"backend '{name}': {entry.value} is no exporter (eqnet.backend.protocol)")
    return exporter


def exporter_of(profile: HardwareProfile) -> Exporter:
    """The exporter of a profile's backend.

    Raises ProfileError for a backend that no exporter serves, else as `find_exporter`.
    """
    names = exporter_names()
    if profile.backend not in names:
        raise ProfileError(
            f"profile '{profile.name}': {unknown('backend', profile.backend, names)}"
        )
    return find_exporter(profile.backend)
