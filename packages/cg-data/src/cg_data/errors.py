"""The one exception a user can cause, and how messages count."""


class UserError(Exception):
    """Input that cannot be used; the message is one line for a person.

    The line says what was expected, what was received, where, and what to do. Command lines print it and exit with
    code 2; libraries let it propagate.
    """


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def counted(number: int, thing: str) -> str:
    """Return a number with its noun: `1 domain`, `2 domains`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
