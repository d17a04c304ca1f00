"""The two ways a command can end badly, each one line to a person."""


class BadInput(Exception):
    """The user's input cannot be used: exit code 2.

    The message is one line: which file, tensor or option, why, and what to do about it.
    """


class CheckFailed(Exception):
    """A verification or a comparison said no: exit code 1.

    The message is one line naming the first tensor or stage that broke.
    """
