"""Every bad input, by what is bad."""

from __future__ import annotations

from error_cases import cache, depth, machine, models, paths, scenes

# In the order of golden/errors.json.
CASES = scenes.case | depth.case | paths.case | models.case | cache.case | machine.case
