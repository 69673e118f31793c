"""Settings of the desk, and of the issuer by whom people sign on there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator, model_validator

from dermbatch.records.access import Role
from dermbatch.settings.section import Seconds, Section

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"]
"""Public-key signature algorithms (RFC 7518, 3.1; RFC 9864): none uses a shared secret, or no key at all."""


class OidcSettings(Section):
    """An issuer of OpenID Connect by whom people and programs sign on at the desk."""

    issuer: str | None = Field(default=None, description="as its own documents name it; none: nobody signs on so")
    client_id: str | None = None
    client_secret: SecretStr | None = Field(default=None, description="none: a public client, by PKCE alone")
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    scopes: tuple[str, ...] = ("openid", "profile")
    audience: str | None = Field(default=None, description="of access tokens for the API; none: it takes none")
    token_types: tuple[Literal["at+jwt", "JWT"], ...] = Field(
        default=("at+jwt",),
        min_length=1,
        description="of access tokens; JWT where the issuer names them no better",
    )
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "PS256", "ES256", "Ed25519"), min_length=1)
    name_claim: str = Field(default="preferred_username", description="what somebody is called")
    roles_claim: str = Field(default="roles", description="a claim's name, or the way into it with dots between")
    roles: dict[str, Role] = Field(
        default={}, description="role by what the claim says; by its own name where none"
    )
    tenant_claim: str | None = None
    leeway: float = Field(default=30, ge=0, le=300, description="seconds by which clocks may differ")
    longest: Seconds = Field(default=12 * 3600, description="that a session lasts, however it is used")
    refresh: Seconds = Field(default=900, description="after which roles are read again, where tokens hold longer")
    timeout: Seconds = Field(default=5, description="that the issuer may take to answer")
    ca_file: Path | None = Field(default=None, description="certificates to trust, PEM; the system's where none")

    @field_validator("issuer")
    @classmethod
    def _encrypted(cls, issuer: str | None) -> str | None:
        return issuer if issuer is None else _encrypted(issuer)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.issuer is not None and self.client_id is None:
            raise ValueError("issuer needs client_id")
        if self.issuer is None and (self.client_id or self.audience):
            raise ValueError("client_id and audience need issuer")
        if "JWT" in self.token_types and self.audience is not None and self.audience == self.client_id:
            raise ValueError(
                "audience must not be client_id where JWT is among token_types: otherwise ID tokens would pass"
            )
        if "openid" not in self.scopes:
            raise ValueError("scopes need openid")
        return self


def _encrypted(url: str) -> str:
    """An address whose traffic nobody can listen to: HTTPS, or this machine."""
    parts = urlsplit(url)
    is_here = parts.hostname in {"127.0.0.1", "localhost", "::1"}
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_here)):
        raise ValueError("it must be https://HOST, or http:// of the loopback")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("it must have no query, fragment or user")
    return url


class DeskSettings(Section):
    """The desk: pages and an API over HTTP."""

    listen_address: str = "127.0.0.1"
    listen_port: int = Field(default=8080, ge=1, le=65535)
    hosts: tuple[str, ...] = Field(default=(), description="names that it is reached by, besides the loopback's")
    url: str | None = Field(default=None, description="by which browsers reach it; who signs on comes back there")
    oidc: OidcSettings = OidcSettings()
    user_header: str | None = Field(
        default=None, description="in which a proxy that authenticates says who asks; one-time links where none"
    )
    tenant_header: str | None = Field(
        default=None, description="in which the same proxy says whose batches that person may see; all where none"
    )
    proxies: tuple[IPvAnyNetwork, ...] = Field(default=(), description="networks that are believed these headers")
    roles_header: str | None = Field(
        default=None, description="in which the proxy says what somebody is, with commas between; by OIDC's roles"
    )
    proxied_roles: tuple[Role, ...] = Field(
        default=(Role.READER, Role.REVIEWER, Role.OPERATOR),
        description="of whom a proxy names, without that header",
    )
    requests_per_minute: int = Field(default=6000, ge=0, description="of one person or key; 0: any number")
    changes_per_minute: int = Field(default=600, ge=0, description="those that change something; 0: any number")
    refusals_per_minute: int = Field(
        default=30, ge=0, description="of one address, of what lets nobody in; 0: any number"
    )
    session: Seconds = Field(default=12 * 3600, description="that a session lasts after it was last used")
    upload_bytes: int = Field(default=20 * 1024**3, ge=1, description="of one file that is uploaded")
    cache_bytes: int = Field(default=2 * 1024**3, ge=0, description="of decoded pictures, on the disk, to zoom in")
    metrics_port: int = Field(default=9103, ge=0, description="0: none")
    metrics_address: str = "0.0.0.0"  # noqa: S104

    @field_validator("user_header", "roles_header")
    @classmethod
    def _none_where_empty(cls, name: str | None) -> str | None:
        return name or None

    @field_validator("url")
    @classmethod
    def _bare(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(_encrypted(url)).path.strip("/"):
            raise ValueError("it must have no path: the desk is served at the root of its host")
        return url and url.rstrip("/")

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.oidc.issuer is not None and self.url is None:
            raise ValueError("oidc needs url")
        if self.oidc.issuer is not None and self.user_header is not None:
            raise ValueError("give oidc or user_header, not both")
        return self
