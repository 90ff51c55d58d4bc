"""The photos that most of these tests render from."""

from __future__ import annotations

import pytest
from plane_world import rig, source_views

from lift3d_cli.lifting.sources import SourceViews


@pytest.fixture(scope="module")
def sources() -> SourceViews:
    return source_views(rig(6))
