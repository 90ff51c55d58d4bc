"""`python -m lift3d_cli` and the `lift3d` command."""

from __future__ import annotations

import os

from lift3d_cli.machine import interrupts


def main() -> None:
    """Run the command line."""
    # OpenMP's threads spin while they wait for each other. Where other programs want the same cores, that makes a
    # render several times slower (two cores, three other busy programs: 103 s spinning, 20 s not). torch reads this
    # when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    interrupts.listen()
    try:
        from lift3d_cli.cli.app import app

        app()
    except KeyboardInterrupt as error:  # while it is imported, or at the very end
        os.write(2, b"interrupted\n")
        os._exit(getattr(error, "exit_code", 130))


if __name__ == "__main__":
    main()
