"""A row of the table of commands, and how its parts are found when the command runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnafeat.settings import Settings


# The section of a help page with options that every command has.
COMMON = "of every command"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command. Import paths are `module:name`, and nothing is imported before the command runs or explains itself.

    Attributes
    ----------
    name : str
    group : str
        A key of `commands.GROUPS`.
    summary : str
        What it does: an imperative phrase for the overview, and with a capital and a full stop the first line of its page.
    settings : str
        Import path of the settings class, whose fields are the options.
    job : str
        Import path of what is called with the settings. It gets `show` (draw progress), `stdout`, `as_json` and, where it narrates,
        `say`, if it has parameters for them.
    form : str
        Import path of the function that makes the text of a result; of one with a parameter `width`, the terminal's is given.
        Empty where the job returns a `Report`.
    examples : tuple of str
        Command lines without `dnafeat`.
    about : str
        More, below the first line of its page.
    reads : tuple of str
        Settings that name files which must exist.
    needs : tuple of str
        Packages of the extra `jobs` that it cannot do without.
    narrates : bool
        Whether what the job says is its result (a demo), and not a remark on standard error.
    streams : bool
        Whether `--output -` fills standard output with data.
    """

    name: str
    group: str
    summary: str
    settings: str = "dnafeat.cli.config:NoConfig"
    job: str
    form: str = ""
    examples: tuple[str, ...]
    about: str = ""
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    narrates: bool = False
    streams: bool = False

    def settings_class(self) -> type[Settings]:
        """Import the settings class."""
        return found(self.settings)

    def run(self) -> Callable[..., Any]:
        """Import the job."""
        return found(self.job)

    @property
    def lists(self) -> bool:
        """Whether the whole text is the result, and not its first line with a summary below."""
        return self.group in ("try", "look", "measure", "help")

    @property
    def sentence(self) -> str:
        """The summary as a sentence."""
        return f"{self.summary[0].upper()}{self.summary[1:]}."


def found(path: str) -> Any:
    """Import what `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
