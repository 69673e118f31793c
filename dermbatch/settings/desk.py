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

    issuer: str | None = Field(
        default=None,
        description="issuer as its own documents name it; if unset, nobody signs on by OpenID Connect",
    )
    client_id: str | None = Field(default=None, description="the desk's name at the issuer")
    client_secret: SecretStr | None = Field(
        default=None, description="secret of a confidential client; if unset, a public client with PKCE alone"
    )
    client_auth: Literal["client_secret_basic", "client_secret_post"] = Field(
        default="client_secret_basic", description="how the secret is sent to the token endpoint"
    )
    scopes: tuple[str, ...] = Field(
        default=("openid", "profile"), description="scopes that are asked for; openid is needed"
    )
    audience: str | None = Field(
        default=None, description="audience of access tokens for the API; if unset, the API takes none"
    )
    token_types: tuple[Literal["at+jwt", "JWT"], ...] = Field(
        default=("at+jwt",),
        min_length=1,
        description="types of access tokens; JWT if the issuer does not name them more exactly",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "PS256", "ES256", "Ed25519"),
        min_length=1,
        description="algorithms with which the issuer may sign; public keys only",
    )
    name_claim: str = Field(default="preferred_username", description="claim with a person's name")
    roles_claim: str = Field(
        default="roles", description="claim with a person's roles, or the path to it with dots in between"
    )
    roles: dict[str, Role] = Field(
        default={},
        description="role for each value of that claim; if empty, the values are names of roles",
    )
    tenant_claim: str | None = Field(default=None, description="claim with the person's tenant")
    leeway: float = Field(default=30, ge=0, le=300, description="seconds by which clocks may differ")
    longest: Seconds = Field(
        default=12 * 3600, description="seconds after which a session ends, however it is used"
    )
    refresh: Seconds = Field(
        default=900, description="seconds after which roles are read again, if tokens are valid for longer"
    )
    timeout: Seconds = Field(default=5, description="seconds that the issuer may take to answer")
    ca_file: Path | None = Field(
        default=None, description="PEM file of certificates to trust; if unset, the system's"
    )

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

    listen_address: str = Field(default="127.0.0.1", description="address on which the desk listens")
    listen_port: int = Field(default=8080, ge=1, le=65535, description="port on which the desk listens")
    hosts: tuple[str, ...] = Field(
        default=(), description="names by which it is reached, besides those of the loopback"
    )
    url: str | None = Field(
        default=None, description="address at which browsers reach it; people come back to it from signing on"
    )
    oidc: OidcSettings = OidcSettings()
    user_header: str | None = Field(
        default=None,
        description="header in which an authenticating proxy says who asks; if "
        "unset, one-time links let people in",
    )
    tenant_header: str | None = Field(
        default=None,
        description="header in which that proxy says whose batches this person may see; if unset, all",
    )
    proxies: tuple[IPvAnyNetwork, ...] = Field(default=(), description="networks whose headers are believed")
    roles_header: str | None = Field(
        default=None,
        description="header in which the proxy gives the person's roles, separated "
        "by commas; they are read like OIDC's",
    )
    proxied_roles: tuple[Role, ...] = Field(
        default=(Role.READER, Role.REVIEWER, Role.OPERATOR),
        description="roles of people that a proxy names without that header",
    )
    requests_per_minute: int = Field(
        default=6000, ge=0, description="requests of one person or key in a minute; 0: any number"
    )
    changes_per_minute: int = Field(
        default=600, ge=0, description="changes of one person or key in a minute; 0: any number"
    )
    refusals_per_minute: int = Field(
        default=30, ge=0, description="failed attempts to get in from one address in a minute; 0: any number"
    )
    session: Seconds = Field(default=12 * 3600, description="seconds that a session lasts after its last use")
    upload_bytes: int = Field(default=20 * 1024**3, ge=1, description="most bytes of an uploaded file")
    cache_bytes: int = Field(
        default=2 * 1024**3, ge=0, description="bytes on disk for decoded pictures, so that zooming in is fast"
    )
    metrics_port: int = Field(default=9103, ge=0, description="port of the metrics; 0: none")
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
