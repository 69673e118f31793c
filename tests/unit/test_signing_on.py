"""What claims say, which tokens are believed, settings of an issuer, and what is sealed: without any server."""

import base64
import hashlib
import time

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from nacl.exceptions import CryptoError
from pydantic import SecretStr, ValidationError
from starlette.datastructures import Headers

from dermbatch.records.access import Role
from dermbatch.settings import Settings, TenantSettings
from dermbatch.settings.desk import DeskSettings, OidcSettings
from desk.__main__ import check
from desk.door.oidc.claims import claimed, is_name, roles_of
from desk.door.oidc.issuer import Issuer
from desk.door.oidc.tokens import access_token, id_token, logout_token
from desk.door.sessions import Session, seal, unseal
from desk.door.who import address_of, cookie_name
from desk.problems import Problem
from orchestrator.stack.environment import settings_environment

ISSUER = "https://sso.test/realms/clinic"
OIDC = OidcSettings(issuer=ISSUER, client_id="desk", audience="https://desk.test/api")
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
CURVE = ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})


class Keys:
    """An issuer that is not asked."""

    def __init__(self, settings=OIDC):
        self.settings = settings

    def keys(self, kid):
        return KeySet.import_key_set({"keys": [one.as_dict(private=False) for one in (KEY, CURVE)]})


def token(header=None, key=KEY, **claims):
    about = {"iss": ISSUER, "sub": "1", "aud": "desk", "exp": int(time.time()) + 60, "iat": int(time.time())}
    about = {name: value for name, value in {**about, **claims}.items() if value is not None}
    return jwt.encode({"alg": "RS256", "kid": "one", **(header or {})}, about, key)


def refused(call, *args, **more):
    with pytest.raises(Problem) as caught:
        call(*args, **more)
    assert (caught.value.status, caught.value.reason) == (401, "bad_token")
    return str(caught.value)


def test_an_id_token_is_believed_that_its_issuer_signed_for_this_client_and_sign_on():
    half = base64.urlsafe_b64encode(hashlib.sha256(b"access").digest()[:16]).decode().rstrip("=")
    good = token(nonce="n", at_hash=half)
    assert id_token(Keys(), good, nonce="n", access_token="access")["sub"] == "1"
    by_curve = token({"alg": "ES256", "kid": "two"}, CURVE)
    assert id_token(Keys(), by_curve, nonce=None)["sub"] == "1"
    assert id_token(Keys(), token(aud=["desk", "x"], azp="desk"), nonce=None)["sub"] == "1"
    assert "nonce" in refused(id_token, Keys(), good, nonce="m")
    assert "nonce" in refused(id_token, Keys(), token(), nonce="n")
    assert "at_hash" in refused(id_token, Keys(), good, nonce="n", access_token="another")
    for claims in (
        {"iss": "https://evil.test"},
        {"iss": ISSUER + "/"},
        {"aud": "another"},
        {"aud": []},
        {"aud": ["desk", "x"]},
        {"aud": ["desk", "x"], "azp": "x"},
        {"azp": "x"},
        {"sub": None},
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": int(time.time()) - 31},
        {"nbf": int(time.time()) + 60},
        {"iat": int(time.time()) + 60},
    ):
        refused(id_token, Keys(), token(**claims), nonce=None)
    assert id_token(Keys(), token(exp=int(time.time()) - 25), nonce=None)  # clocks differ
    stranger = RSAKey.generate_key(2048, {"kid": "one"})
    refused(id_token, Keys(), token(key=stranger), nonce=None)
    refused(id_token, Keys(), token({"kid": "three"}), nonce=None)
    refused(id_token, Keys(), token({"kid": "two"}), nonce=None)  # of another kind of key
    for nonsense in ("", "a.b", "a.b.c", "é.é.é", "e30.e30."):
        refused(id_token, Keys(), nonsense, nonce=None)


def test_an_access_token_is_no_id_token_and_of_this_audience():
    api = {"aud": "https://desk.test/api"}
    assert access_token(Keys(), token({"typ": "at+jwt"}, **api))["sub"] == "1"
    assert access_token(Keys(), token({"typ": "application/at+jwt"}, **api))["sub"] == "1"
    refused(access_token, Keys(), token({"typ": "JWT"}, **api))
    refused(access_token, Keys(), token({"typ": "at+jwt"}))
    lenient = Keys(OIDC.model_copy(update={"token_types": ("JWT",)}))
    assert access_token(lenient, token({"typ": "JWT"}, **api))["sub"] == "1"
    refused(access_token, lenient, token({"typ": "JWT"}, nonce="n", **api))
    refused(access_token, lenient, token({"typ": "logout+jwt"}, **api))


def test_a_logout_token_is_believed_that_says_so_and_no_other_token_puts_anybody_out():
    event = {"http://schemas.openid.net/event/backchannel-logout": {}}
    said = {"events": event, "jti": "1"}
    assert logout_token(Keys(), token({"typ": "logout+jwt"}, sid="s", **said))["sid"] == "s"
    assert logout_token(Keys(), token(sub=None, sid="s", **said))["sid"] == "s"
    for claims in (
        {"events": None},
        {"events": {"http://schemas.openid.net/event/other": {}}},
        {"events": list(event)},
        {"events": dict.fromkeys(event, 1)},
        {"nonce": "n"},
        {"sub": None},
        {"sub": None, "sid": 7},
        {"jti": None},
        {"iat": None},
        {"exp": None},
        {"exp": int(time.time()) - 31},
        {"aud": "https://desk.test/api"},
        {"iss": "https://evil.test"},
    ):
        refused(logout_token, Keys(), token(**{**said, **claims}))
    refused(logout_token, Keys(), token({"typ": "at+jwt"}, **said))
    refused(logout_token, Keys(), token(key=RSAKey.generate_key(2048, {"kid": "one"}), **said))
    refused(logout_token, Keys(), token(nonce="n"))  # an ID token


@pytest.mark.parametrize(
    ("value", "roles"),
    [
        (["reader", "admin", "else"], {"reader", "admin"}),
        ("operator", {"operator"}),
        ("", set()),
        ([], set()),
        ({"reviewer": {"x": 1}}, {"reviewer"}),
        (["Reader", 7, None], set()),
        (None, None),
        (7, None),
    ],
)
def test_a_claim_means_roles_and_one_that_is_absent_means_nothing(value, roles):
    assert roles_of(value, OIDC) == roles


def test_claims_are_found_by_name_or_by_the_way_to_them():
    by_way = OIDC.model_copy(update={"roles_claim": "realm_access.roles", "roles": {"derm": Role.READER}})
    assert claimed({"realm_access": {"roles": ["derm", "reader"]}}, by_way).roles == {Role.READER}
    by_url = OIDC.model_copy(update={"roles_claim": "https://clinic.test/roles", "tenant_claim": "org.id"})
    found = claimed({"sub": "7", "https://clinic.test/roles": ["admin"], "org": {"id": "a"}}, by_url)
    assert (found.name, found.roles, found.tenant) == ("7", {Role.ADMIN}, "a")
    assert claimed({"sub": "7", "realm_access": "x"}, by_way).roles is None


def test_nobody_is_called_as_a_key_is_or_by_what_cannot_be_seen():
    assert is_name("ada@clinic.test")
    assert is_name("Zoë 王")
    for name in ("", "key:nightly", " ada", "a\nb", "a\u202eb", "a" * 201):
        assert not is_name(name)


def test_settings_of_an_issuer_that_cannot_be_are_refused():
    whole = {"issuer": ISSUER, "client_id": "desk"}
    for changes in (
        {"issuer": "http://sso.test"},
        {"issuer": "https://sso.test/?x=1"},
        {"client_id": None},
        {"issuer": None},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"scopes": ["profile"]},
        {"roles": {"x": "king"}},
        {"audience": "desk", "token_types": ["JWT"]},
    ):
        with pytest.raises(ValidationError):
            OidcSettings(**{**whole, **changes})
    oidc = OidcSettings(**whole)
    for changes in (
        {"oidc": oidc},
        {"oidc": oidc, "url": "https://desk.test/below"},
        {"oidc": oidc, "url": "http://desk.test"},
        {"oidc": oidc, "url": "https://desk.test", "user_header": "X-User"},
    ):
        with pytest.raises(ValidationError):
            DeskSettings(**changes)
    good = DeskSettings(oidc=oidc, url="https://desk.test/", listen_address="0.0.0.0")
    check(good, TenantSettings())
    assert good.url == "https://desk.test"
    assert cookie_name(good) == "__Host-dermbatch-desk-8080"


def test_settings_of_an_issuer_come_through_to_the_desk_of_a_stack(monkeypatch):
    oidc = OidcSettings(issuer=ISSUER, client_id="desk", client_secret="s", roles={"a": "reader"})
    asked = Settings(desk=DeskSettings(oidc=oidc, url="https://desk.test"))
    for name, value in settings_environment(asked).items():
        monkeypatch.setenv(name, value)
    assert Settings() == asked


def test_what_is_sealed_opens_by_its_own_token_alone():
    sealed = seal("token", {"refresh_token": "r"})
    assert unseal("token", sealed) == {"refresh_token": "r"}
    with pytest.raises(CryptoError):
        unseal("another", sealed)


def test_a_session_is_read_as_it_was_kept():
    session = Session("ada", frozenset({Role.READER}), "clinic-a")
    assert Session.read(session.as_json()) == session


def test_an_address_is_the_last_that_no_proxy_of_ours_is():
    settings = DeskSettings(proxies=("10.0.0.0/8",))

    def at(client, forwarded=""):
        headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})
        return address_of(headers, {"client": (client, 1)}, settings)

    assert at("10.1.1.1", "203.0.113.9, 198.51.100.7, 10.2.2.2") == "198.51.100.7"
    assert at("198.51.100.7", "1.2.3.4") == "198.51.100.7"  # no proxy of ours: not believed
    assert at("10.1.1.1") == "10.1.1.1"
    assert at("10.1.1.1", "nonsense") == "unknown"
    assert at("2001:db8::1:2:3:4") == "2001:db8::/64"


# An issuer as it may be found.


class Answers:
    """What an issuer answers to each address, and which were asked; away where there is none."""

    def __init__(self, **documents):
        self.asked = []
        self.documents = {
            "/realms/clinic/.well-known/openid-configuration": {
                "issuer": ISSUER,
                **{name: f"https://sso.test/{name}" for name in ("authorization_endpoint", "token_endpoint")},
                "jwks_uri": "https://sso.test/keys",
                **documents,
            },
            "/keys": {"keys": [KEY.as_dict(private=False)]},
        }

    def __call__(self, request):
        self.asked.append(request.url.path)
        if request.url.path not in self.documents:
            raise httpx.ConnectError("away")
        return httpx.Response(200, json=self.documents[request.url.path])


@pytest.fixture
def found():
    made = []

    def found(answers, **changes):
        issuer = Issuer(OIDC.model_copy(update=changes))
        issuer._http = httpx.Client(transport=httpx.MockTransport(answers))
        made.append(issuer)
        return issuer

    yield found
    for one in made:
        one.close()


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://another.test"},
        {"token_endpoint": "javascript:alert(1)"},
        {"jwks_uri": "http://sso.test/keys"},
        {"authorization_endpoint": None},
    ],
)
def test_an_issuer_whose_documents_are_wrong_is_not_asked(found, metadata):
    with pytest.raises(Problem) as caught:
        found(Answers(**metadata)).keys(None)
    assert (caught.value.status, caught.value.reason) == (503, "issuer_unavailable")


def test_addresses_that_are_none_are_not_led_to(found):
    issuer = found(Answers(end_session_endpoint="javascript:alert(1)"))
    assert issuer.endpoint("end_session_endpoint") is None


def test_keys_that_are_no_public_ones_are_none(found):
    for keys in ([], [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}], "none", [7]):
        answers = Answers()
        answers.documents["/keys"] = {"keys": keys}
        with pytest.raises(Problem, match="its keys are not valid"):
            found(answers).keys("one")


def test_what_an_issuer_said_holds_while_it_is_away_and_it_is_not_asked_all_the_time(found, monkeypatch):
    answers = Answers()
    issuer = found(answers)
    assert issuer.keys("one").keys[0].kid == "one"
    asked = len(answers.asked)
    assert issuer.keys("one").keys[0].kid == "one"
    assert len(answers.asked) == asked
    answers.documents.clear()
    monkeypatch.setattr("desk.door.oidc.issuer._HOLDS", 0)
    assert issuer.keys("one").keys[0].kid == "one"
    away = len(answers.asked)
    assert away == asked + 1  # and then for a while not at all
    assert issuer.keys("one").keys[0].kid == "one"
    with pytest.raises(Problem, match="it did not answer a moment ago"):
        issuer.token(grant_type="refresh_token", refresh_token="r")
    assert len(answers.asked) == away


def test_a_client_proves_itself_as_it_is_set_up(found):
    secret = SecretStr("a secret+")
    for changes, header, body in (
        ({"client_secret": secret}, "Basic ZGVzazphK3NlY3JldCUyQg==", "grant_type=x"),
        (
            {"client_secret": secret, "client_auth": "client_secret_post"},
            None,
            "grant_type=x&client_id=desk&client_secret=a+secret%2B",
        ),
        ({"client_secret": None}, None, "grant_type=x&client_id=desk"),
    ):
        answers, seen = Answers(), []
        answers.documents["/token_endpoint"] = {"access_token": "a"}
        issuer = found(
            lambda request, answers=answers, seen=seen: seen.append(request) or answers(request), **changes
        )
        assert issuer.token(grant_type="x") == {"access_token": "a"}
        assert (seen[-1].headers.get("authorization"), seen[-1].content.decode()) == (header, body)
