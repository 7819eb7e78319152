"""Help texts with the options in groups: choosing cells, computing, output."""

from __future__ import annotations

from collections.abc import Mapping

import click

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Choosing": (
        *("grid", "configs", "only", "add", "parameters", "images", "seeds", "redraws"),
        *("adaptive", "card", "data", "weights", "models", "minutes", "epsilon"),
    ),
    "Computing": (
        *("device", "settings", "inline", "address", "workers", "force", "start"),
        *("stop_after", "system_metrics", "for_device"),
    ),
    "Output": (
        *("store", "reports", "mlflow_uri", "as_json", "quiet", "verbose", "every"),
        *("markdown", "paths", "half"),
    ),
}
"""Headings and the options below each; all other options come last."""
FEWEST = 8
"""Minimum number of options of a command for grouping them."""


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups, if there are many."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command`."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        records = [(str(each.name), each.get_help_record(ctx)) for each in options]
        told = [(name, record) for name, record in records if record is not None]
        if len(told) < FEWEST:
            super().format_options(ctx, formatter)
            return
        known = {name for names in GROUPS.values() for name in names}
        for heading, names in {**GROUPS, "Other": None}.items():
            rows = [
                record
                for name, record in told
                if (name in names if names is not None else name not in known)
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
