"""The contract suite for exporters, the built-in ones and third parties' alike.

``from eqnet.testing import ExporterContract`` in a test module; see docs/writing-an-exporter.md.
It needs pytest and the extra ``train``.
"""

import pytest

# The checks are plain asserts in modules that pytest would not rewrite by itself.
pytest.register_assert_rewrite("eqnet.testing.checks", "eqnet.testing.contract")

from eqnet.testing.contract import ExporterContract  # noqa: E402

__all__ = ["ExporterContract"]
