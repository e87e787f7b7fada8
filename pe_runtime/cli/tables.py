"""Tables that more than one command prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pe_runtime.profiles import Profile


def score_table(profiles: Mapping[str, Profile], paths: Mapping[str, Path]) -> Table:
    """PE at a glance: a row per tap, with the channels that have most of it.

    Args:
        profiles: tap to profile.
        paths: tap to the file that the profile was saved in.
    """
    table = Table("tap", "channels", "PE = 0", "H-10 holds", "best channels", "profile", box=SIMPLE_HEAD)
    for tap, profile in profiles.items():
        silent = int((profile.pe == 0).sum())
        total = profile.pe.sum()
        highest = profile.top(10).indices
        share = (
            f"{100 * profile.pe[list(highest)].sum() / total:.0f} % of PE" if total > 0 else "no PE at all"
        )
        ranked = np.argsort(-profile.pe, kind="stable")[:6]
        best = " ".join(str(channel) for channel in ranked) if total > 0 else ""
        table.add_row(tap, str(len(profile)), str(silent), share, best, str(paths[tap]))
    return table
