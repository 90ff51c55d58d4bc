"""The entry point: what must be set before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def _wait_policy_after_main(environment: dict[str, str]) -> str:
    code = """
import os, sys
sys.argv = ["lift3d", "--version"]
from lift3d_cli.__main__ import main
try:
    main()
except SystemExit:
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return out.stdout.splitlines()[-1]


@pytest.mark.parametrize(("given", "want"), [(None, "passive"), ("active", "active")])
def test_openmp_threads_do_not_spin_unless_the_user_wants_it(given, want):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    assert _wait_policy_after_main(environment) == f"{want} False"
