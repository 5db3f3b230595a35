"""What a target refuses of a profile, and what of that the profile may accept all the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from eqnet.backend.protocol import Exporter
from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.profile import HardwareProfile

RefusalKind = Literal["impossible", "slow", "float"]


class Refusal(str):
    """Why a target refuses a demand, in one line: ``key: found (allowed: ...)``.

    kind: "impossible" where the target would compute something else or nothing at all; "slow"
    where its integer kernels compute exactly that, but slowly; "float" where it computes exactly
    that, with layers in float kernels. A profile may accept all but the first. A plain string is
    an impossible one. key: the profile's key, by default what the line begins with.
    """

    kind: RefusalKind
    key: str

    def __new__(
        cls, line: str, kind: RefusalKind = "impossible", key: str | None = None
    ) -> Refusal:
        """The line, with its kind and key."""
        refusal = super().__new__(cls, line)
        refusal.kind, refusal.key = kind, key or line.partition(":")[0]
        return refusal


def accepted_refusals(exporter: Exporter, profile: HardwareProfile) -> tuple[Refusal, ...]:
    """The slow demands that the profile accepts with its ``accept_slow``, in order.

    Raises ProfileError, in one line, for every other demand that the exporter refuses.
    """
    accepted: list[Refusal] = []
    refused: list[Refusal] = []
    for line in exporter.refusals(profile):
        refusal = line if isinstance(line, Refusal) else Refusal(line)
        if refusal.kind != "impossible" and refusal.key in profile.accept_slow:
            accepted.append(refusal)
        else:
            refused.append(refusal)
    if refused:
        raise ProfileError(
            f"profile '{profile.name}' on {exporter.name}: {'; '.join(refused)}{_hint(refused)}"
        )
    return tuple(accepted)


def _hint(refused: Iterable[Refusal]) -> str:
    """How to accept what is only slow."""
    keys = {refusal.key for refusal in refused if refusal.kind != "impossible"}
    if not keys:
        return ""
    listed = ", ".join(sorted(keys))
    return f"; exact but slow, and accepted with accept_slow: [{listed}]"


def keeps_int8(accepted: Iterable[Refusal]) -> bool:
    """Whether every quantized layer still runs in integer kernels."""
    return all(refusal.kind != "float" for refusal in accepted)
