"""What the environment tells the parts of the stack."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

import orchestrator
from dermbatch.settings import Settings

_PREFIX = "DERMBATCH_"
_LOOPBACK = "127.0.0.1,localhost"


def plain(settings: Settings) -> dict[str, Any]:
    """All settings as JSON types, secrets in clear: ``Settings(**plain(settings)) == settings``.

    Secrets among them are those of this stack; the result goes only into its own processes and files.
    """
    text = json.dumps(settings.model_dump(), default=_reveal)
    found: dict[str, Any] = json.loads(text)
    return found


def audited(settings: Settings, home: Path) -> Settings:
    """The settings with an audit log in the stack's own folder, if none is set."""
    folder = settings.audit.folder or str(home.resolve() / "logs" / "audit")
    return settings.model_copy(update={"audit": settings.audit.model_copy(update={"folder": folder})})


def without_salt(settings: Settings) -> Settings:
    """The settings for parts that see only pseudonyms, since they take no images in."""
    return settings.model_copy(update={"privacy": settings.privacy.model_copy(update={"salt": None})})


def without_report_key(settings: Settings) -> Settings:
    """The settings for all parts but the orchestrator, which alone signs reports."""
    return settings.model_copy(update={"metering": settings.metering.model_copy(update={"signing_key": None})})


def without_credentials(settings: Settings) -> Settings:
    """The settings for files: credentials for external systems, such as a PACS, are passed to processes only."""
    none = {"user": None, "password": None, "token": None}
    pacs = {name: one.model_copy(update=none) for name, one in settings.dicomweb.items()}
    fhir = {name: one.model_copy(update=none) for name, one in settings.fhir.items()}
    return settings.model_copy(update={"dicomweb": pacs, "fhir": fhir})


def settings_environment(settings: Settings) -> dict[str, str]:
    """The ``DERMBATCH_*`` variables from which a program builds the same settings."""
    variables = {}
    for name, value in plain(settings).items():
        fields = type(settings).model_fields
        if isinstance(value, dict) and isinstance(fields[name].annotation, type):
            for inner, content in value.items():
                if content is not None:
                    variables[f"{_PREFIX}{name}__{inner}".upper()] = _text(content)
        elif value is not None:
            variables[f"{_PREFIX}{name}".upper()] = _text(value)
    return variables


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of every part before its settings.

    It is this process's own, without its ``DERMBATCH_*`` variables (they are in the settings already), with this
    installation on the import path wherever the part runs, and with no proxy for the loopback address.
    """
    env = {name: value for name, value in environ.items() if not name.startswith(_PREFIX)}
    installed = Path(orchestrator.__file__).resolve().parent.parent
    if installed != Path(sysconfig.get_path("purelib")).resolve():
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(installed), env.get("PYTHONPATH", "")]))
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, [env.get(name, ""), _LOOPBACK]))
    return env


def _reveal(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"settings hold a {type(value).__name__}, which has no JSON form")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
