"""Mask secrets as *** in everything that is printed, logged, tracked or stored."""

import logging
import sys
import threading
import traceback

from ray_distill.masking import HIDDEN, mask, mask_tree

__all__ = ["HIDDEN", "MaskedFormatter", "mask", "mask_threads", "mask_tree", "masked_traceback", "show"]


class MaskedFormatter(logging.Formatter):
    """Formatter that masks secrets in log lines and their tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def show(*lines: str) -> None:
    """Print ``lines`` to standard output, with secrets masked."""
    print(mask("\n".join(lines)))


def masked_traceback(error: BaseException | None) -> str:
    """The traceback of ``error`` and its causes as Python prints it, with secrets masked."""
    return mask("".join(traceback.format_exception(error)))


def mask_threads() -> None:
    """Mask secrets in the traceback that a thread prints when an error ends it."""

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread else "a thread"
            print(f"Exception in {name}:\n{masked_traceback(args.exc_value)}", file=sys.stderr)

    threading.excepthook = hook
