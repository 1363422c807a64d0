"""The entry of the command line: ``merlin-pipeline STAGE`` or ``python -m pipeline STAGE``.

Its import is quick: signals are handled, and standard streams are usable, before anything heavy is
loaded. The subcommands are in :mod:`pipeline.command_line`.
"""

import sys
from collections.abc import Sequence

from core import failures, signals, streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status.

    Args:
        arguments: None: those of this process, which ends afterwards.
    """
    with signals.handled(last=arguments is None):
        try:
            return _run(arguments)
        except KeyboardInterrupt as error:  # while an error was shown
            return signals.status(getattr(error, "number", signals.signal.SIGINT))
        finally:
            signals.done()
            streams.finish()


def _run(arguments: Sequence[str] | None) -> int:
    command = failures.Command(last=arguments is None)
    try:
        streams.prepare()
        from pipeline import command_line

        command_line.run(arguments, command)
        signals.done()
        return 0
    except SystemExit:
        raise
    except BaseException as error:
        signals.done()
        try:
            return failures.report(error, command)
        except Exception:
            return failures.report_plainly()


if __name__ == "__main__":
    sys.exit(main())
