"""How a recipe stands to what its run folder holds: what has changed, what is missing, and what is damaged."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ddspo import components
from ddspo.checks import Checked
from ddspo.errors import InputError
from ddspo.growth import GROWS, Growth, why_not
from ddspo.manifest import Manifest
from ddspo.pairs.layout import Layout, layout_of
from ddspo.recipe import STAGES, VERBS
from ddspo.settings import changed, settings_of

MENDS = ("lr", "max_grad_norm")
"""Settings that may change where a guard stopped a stage: what is done stays, and the log says which rate it had."""

ANEW = ("judge", "report")
"""Stages that are done again where something changed: no score is computed twice, and pages are quick."""


@dataclass(frozen=True)
class Standing:
    """A checked recipe, and what was done of it."""

    found: Checked
    manifest: Manifest

    def enter(self, name: str) -> AbstractContextManager[bool]:
        """Enter a stage, as `Manifest.stage` does."""
        return self.manifest.stage(name, settings_of(name, self.found), self._inputs(name))

    def first_changed(self) -> str | None:
        """The first stage that a change reaches."""
        return next((name for name in STAGES if self._changed(name)), None)

    def check(self, names: Iterable[str]) -> None:
        """Refuse what changed since a stage was begun; what grows may, and what is quickly made anew is.

        Raises:
            InputError: One of some stages was begun with other settings, or made from something else; the first one.
        """
        for name in STAGES:
            keys = self._changed(name) if name in names and name not in ANEW else []
            more = bool(keys) and self._more(name, keys)
            why = why_not(name, self.found.recipe) if more else ""
            if keys and (why or not more):
                raise InputError(
                    f"{self.manifest.run.path}: stage {name} was begun with another {', '.join(keys)}{why}: choose "
                    f"another name=..., or add --fresh to `ddspo {_verb(name)}` or `ddspo run`, which starts anew at "
                    f"{name} and keeps what was made before it"
                )

    def growth(self) -> Growth:
        """What goes on to more, and what starts anew because of it."""
        more = {name: self._more(name, self._changed(name)) for name in GROWS}
        return Growth.of({name: numbers for name, numbers in more.items() if numbers}, self.found.recipe)

    def grow(self, growth: Growth) -> list[str]:
        """Open what goes on, forget what starts anew, and drop what the aligned model drew.

        Returns:
            Lines on what was kept and what was not.
        """
        begun = [name for name in growth.anew if self.manifest.entry(name)]
        said = growth.lines() + [f"{name}: starts anew on all pairs" for name in begun]
        said += self.manifest.forget(growth.anew)
        for name in growth.goes_on:
            self.manifest.go_on(name, settings_of(name, self.found))
        return said + self.manifest.drop_aligned()

    def _more(self, name: str, keys: list[str]) -> tuple[int, int] | None:
        """The number that a stage had and the larger one that is asked for, if nothing else has changed."""
        group, option = GROWS.get(name, ("", ""))
        if keys != [f"{group}.{option}"]:
            return None
        old = self.manifest.entry(name)["settings"].get(group, {}).get(option)
        new = settings_of(name, self.found)[group][option]
        known = name != "sample" or bool(layout_of(self.manifest.run.pairs, Layout(1, 1)).ends)
        return (old, new) if known and type(old) is int and new > old else None

    def needs(self, name: str) -> None:
        """Earlier stages must be finished and whole; one that was not begun is not run behind the user's back.

        Raises:
            InputError: One is not, or the recipe has no such stage.
        """
        recipe, folder = self.found.recipe, self.manifest.run.path
        if name == "pretrain" and not recipe.pretrains:
            raise InputError(
                f"pretrain: policy_pair {components.name_of(recipe.policy_pair)} needs no winner and loser: "
                "go on with `ddspo train`"
            )
        if name not in recipe.stages:
            raise InputError(f"{name}: the recipe has no such group: `ddspo show` prints what it may hold")
        for earlier in recipe.stages[: recipe.stages.index(name)]:
            if not self.manifest.has_finished(earlier):
                raise InputError(f"{folder}: {earlier} is not finished: run `ddspo {_verb(earlier)}` or `ddspo run`")
            for path, what in self.manifest.damage(earlier).items():
                raise InputError(f"{path}: {what}: `ddspo {_verb(earlier)}` or `ddspo run` makes it again")

    def mend(self, name: str) -> list[str]:
        """Take away what is damaged of a finished stage, so that it is made again, and a report of something else.

        Returns:
            A line for each damaged file.
        """
        if name in ANEW and self._changed(name):
            self.manifest.forget([name])
        return self.manifest.reopen(name)

    def _changed(self, name: str) -> list[str]:
        """What a stage was begun with and is no longer so: its settings, and the stages that it was made from."""
        entry = self.manifest.entry(name)
        if not entry:
            return []
        found = changed(entry["settings"], settings_of(name, self.found), self.found.recipe)
        if entry.get("stopped"):
            found = [key for key in found if key.rpartition(".")[2] not in MENDS]
        then = entry.get("inputs", {})
        return found + [
            f"result of {each}"
            for each, now in self._inputs(name).items()
            if now is not None and then.get(each) not in (None, now)
        ]

    def _inputs(self, name: str) -> dict[str, str | None]:
        """The digests of what the stages before one are there for."""
        stages = self.found.recipe.stages
        before = stages[: stages.index(name)] if name in stages else ()
        return {each: self.manifest.result(each) for each in before}


def _verb(stage: str) -> str:
    """The command that runs a stage."""
    return VERBS.get(stage, stage)
