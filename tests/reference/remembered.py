"""What was asked before: the same question is asked once for each engine, and the slow answer is always the same."""

import functools
import hashlib
import pickle


def remembered(function):
    """The function; asked again with equal arguments, it gives a copy of its answer."""
    known = {}

    @functools.wraps(function)
    def ask(*arguments, **options):
        question = hashlib.blake2b(pickle.dumps((arguments, options))).digest()
        if question not in known:
            known[question] = pickle.dumps(function(*arguments, **options))
        return pickle.loads(known[question])

    return ask
