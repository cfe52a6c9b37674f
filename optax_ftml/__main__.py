"""The commands of `python -m optax_ftml`."""

import argparse
import sys
from collections.abc import Sequence

from optax_ftml._report import _command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m optax_ftml")
    commands = parser.add_subparsers(required=True)
    report = commands.add_parser(
        "report",
        description="Says what XLA makes of one step of an optimizer, also "
        "for a device that is not here.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _command.add_arguments(report)
    report.set_defaults(run=_command.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
