"""What commands print."""


def only_line(text: str) -> str:
    """The line that `text` has; the failure of a test shows all of it if there are more, or none."""
    lines = text.splitlines()
    if len(lines) != 1:
        raise AssertionError(f"expected one line, got {len(lines)}:\n{text}")
    return lines[0]
