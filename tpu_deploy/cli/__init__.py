"""The `tpu-deploy` command: verbs, files in, files out. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from tpu_deploy.errors import BadInput, CheckFailed

OK, CHECK_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

ENVIRONMENT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})
"""Faults of the machine rather than of the program, wherever they come up."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command: 0 done, 1 a check failed, 2 bad input, 130 interrupted; one line says why."""
    from tpu_deploy.cli.app import USAGE_ERROR, Abort, execute

    try:
        code = execute(arguments or ["--help"])
        sys.stdout.flush()
        return _told("interrupted", INTERRUPTED) if code == INTERRUPTED else code
    except BadInput as error:
        return _told(str(error), BAD_INPUT)
    except CheckFailed as error:
        return _told(str(error), CHECK_FAILED)
    except USAGE_ERROR as error:
        return _told(_usage(error), BAD_INPUT)
    except (KeyboardInterrupt, Abort):
        return _told("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing more to say
        return OK
    except OSError as error:
        if error.errno not in ENVIRONMENT_ERRORS:
            raise
        return _told(f"{error.filename or 'a file'}: {error.strerror}; choose a writable place with space", BAD_INPUT)


def _told(message: str, code: int) -> int:
    print(f"tpu-deploy: {' '.join(message.split())}", file=sys.stderr)
    return code


def _usage(error: Exception) -> str:
    """What is wrong with the command line, in one line."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "tpu-deploy")
    return f"{message} (see `{command} --help`)"
