"""Parsing of options that more than one command has."""

from __future__ import annotations


def channel_numbers(text: str | None) -> tuple[int, ...] | None:
    """The numbers in a text like "0,3,17"; None for None.

    Raises:
        ValueError: something else than integers separated by commas.
    """
    try:
        return None if text is None else tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"channels: expected numbers separated by commas, got {text!r}") from None
