"""`pruned-upstream hook`: our upstreams in s3prl started from a clone."""

from __future__ import annotations

import typer

from ..s3prl_plugin import hook
from . import CommandGroup, add

hook_app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Let every s3prl of this environment, a clone included, know our upstreams (-u pruned_wavlm).",
)


def add_to(app: typer.Typer) -> None:
    """Add `hook` and its commands to the command line."""
    for command in (install, remove, status):
        add(hook_app, command, f"hook {command.__name__}")
    app.add_typer(hook_app, name="hook")


def install() -> None:
    """Write the hook, a .pth file in site-packages. s3prl itself is not touched."""
    typer.echo(f"installed {hook.install()}")
    typer.echo(f"it does nothing until s3prl is imported; {hook.SWITCH}=0 switches it off")


def remove() -> None:
    """Delete the hook."""
    path = hook.status().path
    typer.echo(f"removed {path}" if hook.remove() else f"there was no hook at {path}")


def status() -> None:
    """Say whether the hook is there and active."""
    found = hook.status()
    state = "not installed" if not found.installed else "installed" if found.enabled else "installed, switched off"
    typer.echo(f"{state}: {found.path}")
