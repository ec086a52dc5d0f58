"""The group of all commands: near misses for what nobody knows, one exit code for each kind of failure."""

from __future__ import annotations

from typing import final

import click

from sweep.cli.comparing import compare, export
from sweep.cli.faults import exit_code, report
from sweep.cli.reading import logs, ls, show
from sweep.cli.running import rerun, resume, run, stop, validate
from sweep.cli.upkeep import config, gc
from sweep.errors import did_you_mean

__all__ = ["App", "app"]


@final
class App(click.Group):
    """Finds commands and turns what they raise into a message on stderr and an exit code."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first word.

        Raises:
            UsageError: There is none; the message has near misses.
        """
        name = args[0] if args else ""
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        known = self.list_commands(ctx)
        listed = did_you_mean(name, known) or f"; commands: {', '.join(known)}"
        raise click.UsageError(f"unknown command {name!r}{listed}", ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which one meets them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; failures end with their exit code."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            takes_values = error.ctx is not None and any(one.name == "values" for one in error.ctx.command.params)
            if not (takes_values and error.option_name.startswith("--")):
                raise
            message = f"{error.message} Values are given without dashes: {error.option_name[2:]}=VALUE."
            raise click.NoSuchOption(error.option_name, message, error.possibilities, error.ctx) from None
        except (click.ClickException, click.exceptions.Exit, click.exceptions.Abort):
            raise
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            click.echo("sweep: interrupted", err=True)
            ctx.exit(130)
        except Exception as error:  # noqa: BLE001  # the last stop: told to the user, and turned into an exit code
            report(error, debug=bool(ctx.obj and ctx.obj.debug))
            ctx.exit(exit_code(error))


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sweep", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Durable, typed, recursive experiments: run them, look at them, go on with them.

    RUN is an integer id, a name (its latest run), name#2, or a path in the tree such as digits/trial[5].
    Data goes to stdout, progress and messages to stderr. Exit codes: 0 ok, 1 the run failed, 2 usage, config or
    contract, 3 not found, 4 store, 130 Ctrl-C, 143 SIGTERM.
    """
    from os import environ

    if environ.get("NO_COLOR"):
        ctx.color = False


for _command in (run, resume, ls, show, logs, stop, rerun, compare, export, validate, config, gc):
    app.add_command(_command)
