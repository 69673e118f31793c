"""Rules: what becomes of a new object. The first one that takes it decides.

``docs/watch.md`` explains the file for users.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from dermbatch.errors import UsageError
from dermbatch.store import split_uri
from orchestrator.planning.intake.selection import Selection
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.tenants.folders import folder
from orchestrator.watching.rules.document import Document, Step, read_document
from orchestrator.watching.rules.rule import LONGEST_NAME, Rule

__all__ = ["Explanation", "Rule", "RuleBook", "load_rules", "rule_of_prefix"]

_Model = TypeVar("_Model", bound=BaseModel)

Test = Literal["prefix", "marker", "exclude", "include", "earlier"]


@dataclass(frozen=True)
class Explanation:
    """What one rule says to one object.

    Attributes:
        rule: The rule.
        fires: Whether it is the one that decides.
        failed: The test that the object did not pass; none if the rule fires.
        why: A sentence for people.
    """

    rule: Rule
    fires: bool
    failed: Test | None
    why: str


class RuleBook:
    """Rules in their order, ready to be asked many times.

    Args:
        rules: The first one that takes an object decides.
        profiles: De-identification profiles by the names that rules use.
    """

    def __init__(self, rules: Sequence[Rule], profiles: Mapping[str, Profile] | None = None) -> None:
        self.rules = tuple(rules)
        self.profiles = dict(profiles or {})
        self._selections = tuple(Selection(rule.filters) for rule in self.rules)

    def rule_for(self, bucket: str, key: str) -> Rule | None:
        """The rule that decides about an object; none if no rule takes it."""
        for rule, selection in zip(self.rules, self._selections, strict=True):
            if _refusal(rule, selection, bucket, key) is None:
                return rule
        return None

    def explain(self, bucket: str, key: str) -> tuple[Explanation, ...]:
        """What each rule says to an object, in their order."""
        explanations: list[Explanation] = []
        first: Rule | None = None
        for rule, selection in zip(self.rules, self._selections, strict=True):
            refusal = _refusal(rule, selection, bucket, key)
            if first is not None and refusal is None:
                refusal = "earlier", f"it would take the object, but {first.name} comes before it"
            if refusal is None:
                first = rule
                explanations.append(
                    Explanation(rule, fires=True, failed=None, why="it is the first that takes the object")
                )
            else:
                explanations.append(Explanation(rule, fires=False, failed=refusal[0], why=refusal[1]))
        return tuple(explanations)

    def check_apart(self, own: Iterable[str]) -> None:
        """Refuse rules that watch the system's own buckets, or copy results into one.

        Args:
            own: Names of these buckets.

        Raises:
            UsageError: For the first such rule.
        """
        buckets = set(own)
        for rule in self.rules:
            watched, _ = split_uri(rule.prefix)
            if watched in buckets:
                raise UsageError(
                    f"rule {rule.name!r} watches the bucket {watched!r}, which the system itself writes to, so "
                    f"its own files would be taken for new images; watch another bucket"
                )
            if rule.output is not None and split_uri(rule.output)[0] in buckets:
                raise UsageError(
                    f"rule {rule.name!r}: output: {rule.output} lies in one of the system's own buckets; choose "
                    f"another"
                )


def _refusal(rule: Rule, selection: Selection, bucket: str, key: str) -> tuple[Test, str] | None:
    below = rule.below(bucket, key)
    if below is None:
        return "prefix", f"the object does not lie below {rule.prefix}"
    if rule.is_marker(bucket, key):
        return "marker", f"it is the marker {rule.marker} that others wait for, and no input"
    if selection.excludes(below):
        return "exclude", "a pattern of exclude matches the path below the prefix"
    if not selection.names([below]):
        return "include", "no pattern of include matches the path below the prefix"
    return None


def rule_of_prefix(*uris: str) -> RuleBook:
    """Rules for ``dermbatch watch s3://bucket/prefix`` without a file: one for each prefix, with defaults.

    Its name is made from the bucket's name and a digest, the same at every start, because folders may be named
    after patients.

    Raises:
        UsageError: If one is not such a URI, or lies below another one.
    """
    rules: list[Rule] = []
    for uri in uris:
        try:
            prefix = folder(uri)
        except ValueError as error:
            raise UsageError(f"{uri!r} cannot be watched: {error}; write s3://bucket/prefix") from error
        if clash := [rule for rule in rules if rule.prefix.startswith(prefix) or prefix.startswith(rule.prefix)]:
            raise UsageError(f"{prefix} and {clash[0].prefix} are nested; give only the upper one")
        bucket = re.sub("[^a-z0-9]+", "-", split_uri(prefix)[0].lower())[: LONGEST_NAME - 9].strip("-")
        name = f"{bucket}-{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"
        rules.append(Rule(name=name, prefix=prefix))
    return RuleBook(rules)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    profiles: dict[StrictStr, dict[StrictStr, Any]] = {}
    rules: list[dict[StrictStr, Any]] = Field(min_length=1)


def load_rules(path: Path) -> RuleBook:
    """The rules of a YAML file.

    Raises:
        UsageError: If it cannot be read or is wrong anywhere: one sentence with line and rule.
    """
    document = read_document(path)
    if not isinstance(document.values, dict):
        raise UsageError(f"{path}: there are no rules in it; write them as a list under 'rules:'")
    file = _validated(_File, document.values, document, (), "")
    profiles = {name: _profile(name, fields, document) for name, fields in file.profiles.items()}
    rules: list[Rule] = []
    for number, fields in enumerate(file.rules):
        name = fields.get("name")
        who = f"rule {name!r}: " if isinstance(name, str) else f"rule {number + 1}: "
        rule = _validated(Rule, fields, document, ("rules", number), who)
        _check_beside(rule, rules, document)
        if rule.deidentify is not None and rule.deidentify not in profiles:
            there = f"there are {', '.join(profiles)}" if profiles else "the file has no profiles"
            place = document.place(("rules", number, "deidentify"))
            raise UsageError(f"{place}: {who}deidentify: there is no profile {rule.deidentify!r}; {there}")
        rules.append(rule)
    _check_outputs(rules, document)
    return RuleBook(rules, profiles)


def _profile(name: str, fields: dict[str, Any], document: Document) -> Profile:
    steps = ("profiles", name)
    if "name" in fields:
        place = document.place((*steps, "name"))
        raise UsageError(f"{place}: profile {name!r}: its name is what stands before its colon")
    return _validated(Profile, {**fields, "name": name}, document, steps, f"profile {name!r}: ")


def _check_beside(rule: Rule, earlier: list[Rule], document: Document) -> None:
    """Refuse a rule that has an earlier one's name, or that an earlier one leaves nothing to."""
    steps = ("rules", len(earlier))
    for other in earlier:
        if other.name == rule.name:
            raise UsageError(
                f"{document.place((*steps, 'name'))}: rule {rule.name!r}: another rule has this name; rename one"
            )
        if other.takes_all_of(rule):
            raise UsageError(
                f"{document.place(steps)}: rule {rule.name!r} can never fire: "
                f"{other.name!r} comes before it and takes all of {rule.prefix}; put it before that one"
            )


def _check_outputs(rules: list[Rule], document: Document) -> None:
    """Refuse outputs that are watched: results would be taken for new images."""
    for number, rule in enumerate(rules):
        for other in rules:
            if rule.output is not None and rule.output.startswith(other.prefix):
                raise UsageError(
                    f"{document.place(('rules', number, 'output'))}: rule {rule.name!r}: output: {rule.output} "
                    f"lies below {other.prefix}, which rule {other.name!r} watches: "
                    "results would be taken for new images"
                )


def _validated(
    model: type[_Model], values: dict[str, Any], document: Document, steps: tuple[Step, ...], who: str
) -> _Model:
    """The model of these values; the error is the first thing wrong with them."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = tuple(step for step in first["loc"] if step != "[key]")
    if first["type"] == "extra_forbidden":
        problem = f"there is no such field; there are {', '.join(model.model_fields)}"
    elif first["type"] == "value_error":
        problem = str(first["ctx"]["error"])
    else:
        problem = first["msg"][0].lower() + first["msg"][1:]
    field = "".join(f"{step}: " for step in where if not isinstance(step, int))
    raise UsageError(f"{document.place((*steps, *where))}: {who}{field}{problem}")
