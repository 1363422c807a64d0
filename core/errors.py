"""The one error a person is meant to read."""


class UserError(Exception):
    """Something in the input, the settings or the machine that the user can mend.

    The message names the file, line, column or setting, what was expected, and what to do.
    The command line prints it without a traceback and exits with status 1.
    """
