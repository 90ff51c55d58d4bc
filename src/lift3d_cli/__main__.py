"""`python -m lift3d_cli` and the `lift3d` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from lift3d_cli.cli.app import app

    app()


if __name__ == "__main__":
    main()
