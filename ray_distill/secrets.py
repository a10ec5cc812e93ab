"""Mask secrets as *** in everything that is printed, logged, tracked or stored."""

import logging
import sys
import threading
import traceback

from ray_distill.masking import HIDDEN, mask, masked

__all__ = ["HIDDEN", "MaskedFormatter", "mask", "mask_threads", "masked", "masked_traceback", "show"]


class MaskedFormatter(logging.Formatter):
    """Log lines, their tracebacks too, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def show(*lines: str) -> None:
    """Print to standard output, without secrets."""
    print(mask("\n".join(lines)))


def masked_traceback(error: BaseException | None) -> str:
    """The traceback as Python prints it, with the errors that led to it, and without secrets."""
    return mask("".join(traceback.format_exception(error)))


def mask_threads() -> None:
    """Have threads that end by an error print it without secrets."""

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread else "a thread"
            print(f"Exception in {name}:\n{masked_traceback(args.exc_value)}", file=sys.stderr)

    threading.excepthook = hook
