"""The commands of `python -m optax_ftml`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

# Name: (module, extra of this package that it needs, help).
_COMMANDS = {
    "demo": (
        "optax_ftml._demo._command",
        "demo",
        "train a small network on handwritten digits with FTML and its peers",
    ),
    "report": (
        "optax_ftml._report._command",
        "aot",
        "say what XLA makes of one step of an optimizer, on any device",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name and returns its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="python -m optax_ftml")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, (module_name, extra, help_) in _COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=help_,
            description=help_[0].upper() + help_[1:] + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        if argv[:1] != [name]:
            continue  # Its module may need packages that are not here.
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            parser.exit(
                1,
                f"{name} needs {error.name}, which is not installed: "
                f"pip install 'optax-ftml[{extra}]'\n",
            )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
