"""The one exception for wrong use. Loads no TensorFlow."""


class InputError(ValueError):
    """Bad input from the user: the command line prints it as one line and exits with code 2.

    The message says what was found, what was expected and what to do, in that order, on one line.
    """


def one_line(error: Exception | str) -> str:
    """What another library says, on one line and not too long, to go into a message of our own."""
    return " ".join(str(error).split())[:300]


def nearest(word: str, choices) -> str:
    """`"; did you mean 'x'?"` for the closest of `choices`, or the list of choices when none is close."""
    from difflib import get_close_matches

    choices = [str(choice) for choice in choices]
    close = get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of: {', '.join(sorted(choices))}"
