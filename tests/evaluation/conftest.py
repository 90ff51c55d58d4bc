"""These tests are about measuring, not about how well a network was trained."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _untrained_network(use_untrained):
    with pytest.MonkeyPatch.context() as patch:
        use_untrained(patch)
        yield
