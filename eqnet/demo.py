"""The main job, end to end: every profile from search to benchmark, and one report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eqnet.backend.machine.isa import Cpu, onednn_cpu
from eqnet.chain import Chain, Source, run_all
from eqnet.spec.hardware.load import builtin_profiles
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.scheme import Frozen
from eqnet.stages.report import Row, require_plotting

# Built-in profiles that differ from another in one respect: run when they are named.
# Without VNNI 8-bit weights overflow: there these stand for the profiles that need it.
WITHOUT_VNNI = {"onnxruntime_x86": "onnxruntime_avx2", "openvino_asym": "openvino_avx2"}
VARIANTS = ("custom_pow2", "onnxruntime_arm", "onnxruntime_avx2", "openvino_avx2", "openvino_bf16")


class DemoResult(Frozen):
    """A row for each profile, and the page."""

    rows: tuple[Row, ...]
    report: Path


def demo_profiles(cpu: Cpu | None = None) -> list[str]:
    """Names of the profiles that the demo runs where none are named, for a CPU (None: this one)."""
    usual = [name for name in builtin_profiles() if name not in VARIANTS]
    if not (cpu or onednn_cpu()).adds_in_16_bits():
        return usual
    return [WITHOUT_VNNI.get(name, name) for name in usual]


def demo(
    out: Path,
    *,
    profiles: Sequence[str] | None = None,
    supernet: Path | None = None,
    data: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DemoResult:
    """Search, export, verify and bench each profile; write `out`/PROFILE and `out`/report.html.

    `profiles` defaults to `demo_profiles`, `supernet` to the bundled one. A profile that fails
    gets its reason in its row, and the others go on: a caller looks at the rows' verdicts.
    Raises OutputError when the report cannot be written, MissingExtraError at once when the
    packages that draw it are missing.
    """
    require_plotting()
    source = Source(supernet, data, seed, progress=progress or Silent())
    chains = [Chain(name, out, source) for name in profiles or demo_profiles()]
    page = out / "report.html"
    return DemoResult(rows=run_all(chains, page, "eqnet demo"), report=page)
