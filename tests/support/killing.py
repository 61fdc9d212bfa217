"""Processes that kill themselves at one moment, and what became of them. POSIX only."""

import os
import signal
import threading
import traceback


class Moments:
    """The moments that a process passes by, in order; at the n-th it kills itself."""

    def __init__(self, last=None):
        self.last, self.seen, self.one_by_one = last, [], threading.Lock()

    def pass_by(self, name):
        with self.one_by_one:
            self.seen.append(name)
            if len(self.seen) == self.last:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched(self, call, name, *, after=True):
        """`call`, with a moment before it and one after it."""

        def watched(*arguments, **options):
            self.pass_by(f"before {name}")
            result = call(*arguments, **options)
            if after:
                self.pass_by(f"after {name}")
            return result

        return watched


def fork(action):
    """What `action` in a process of its own ended with: 0, 1, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)  # none of the parent's cleaning up
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
