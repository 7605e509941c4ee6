"""Reads the command line, runs one command, and turns bad input into one line and exit code 2."""

import sys
from collections.abc import Sequence
from typing import Annotated

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `torchebm` with the given arguments, those of the process if left out, and exits.

    Exit codes: 0 done, 1 training diverged, 2 bad input, 130 interrupted.
    """
    try:
        import tyro
    except ImportError:
        sys.exit('torchebm: the command line needs its extra: pip install "torchebm[cli]"')
    from torchebm.core import keep_freed_memory
    from torchebm.training import TrainingDivergedError

    from . import commands

    keep_freed_memory()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        named = tyro.conf.subcommand
        training = commands.Train.with_recipe_of(arguments)
        command = tyro.cli(
            Annotated[commands.Train, named("train", default=training)]
            | Annotated[commands.Sample, named("sample")]
            | Annotated[commands.Evaluate, named("evaluate")]
            | Annotated[commands.Report, named("report")]
            | Annotated[commands.Recipes, named("recipes")],
            prog="torchebm",
            description="Learn energy-based models from data, and sample them.",
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        command.run()
    except TrainingDivergedError as error:
        _stop(error, 1)
    except (
        ValueError,
        OSError,
        ImportError,
    ) as error:  # what users can mend; anything else is ours, with its traceback
        _stop(error, 2)
    except KeyboardInterrupt as interrupt:
        print(f"\ntorchebm: {interrupt or 'interrupted'}", file=sys.stderr)
        sys.exit(130)


def _stop(error: Exception, code: int) -> None:
    print(f"torchebm: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)
