"""Help pages: one screen with ``--help``, everything in groups with ``--help-all``."""

from __future__ import annotations

from typing import Any

import click

ALL = "fre.help_all"
"""Key of a context's meta: whether to show every option."""


class LongCommand(click.Command):
    """A command whose ``--help`` shows its basic options only, and ``--help-all`` every one.

    Args:
        groups: option names by the title of their group; options in no group are basic.
        details: paragraphs that only ``--help-all`` shows.
    """

    def __init__(
        self, *arguments: Any, groups: dict[str, str], details: str = "", **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.title_of = {name: title for title, names in groups.items() for name in names.split()}
        self.details = details
        show_all = click.Option(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=self._show_all,
            help="Show all options.",
        )
        self.params.append(show_all)

    def _show_all(self, context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            context.meta[ALL] = True
            click.echo(context.get_help(), color=context.color)
            context.exit()

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description, with the details on the full page."""
        super().format_help_text(ctx, formatter)
        if self.details and ctx.meta.get(ALL):
            with formatter.indentation():
                for paragraph in self.details.split("\n\n"):
                    formatter.write_paragraph()
                    formatter.write_text(" ".join(paragraph.split()))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the basic options; on the full page, the groups after them."""
        everything = bool(ctx.meta.get(ALL))
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        groups |= {title: [] for title in self.title_of.values()}
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue
            name, record = max(parameter.opts, key=len), parameter.get_help_record(ctx)
            if record and name != ("--help-all" if everything else "--help"):
                groups[self.title_of.get(name, "Options")].append(record)
        for title, records in groups.items():
            if title == "Options" or everything:
                with formatter.section(title):
                    formatter.write_dl(records)


class CommandGroup(click.Group):
    """A group whose help lists its commands under titles, with whole summaries.

    Args:
        titles: names of commands by the title that they are listed under.
    """

    def __init__(self, *arguments: Any, titles: dict[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.titles = titles

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their titles."""
        width = max(map(len, self.commands))
        for title, names in self.titles.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name.ljust(width), self.commands[name].get_short_help_str(limit=1000))
                        for name in names.split()
                    ]
                )
