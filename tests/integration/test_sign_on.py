"""Signing on at the desk by a real issuer, and tokens of programs; what lets nobody in."""

import base64
import hashlib
import hmac
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from desk_server import Server
from oidc_issuer import AUDIENCE, SECRET, serving

from dermbatch.settings.desk import OidcSettings
from desk.door.oidc import issuer as issuers
from desk.door.oidc.issuer import away
from desk.door.sessions import unseal
from desk.remote import DeskClient
from orchestrator.stack.ports import free_ports
from tests.acceptance.browser import chromium
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("nothing_refused_yet")

DESK = free_ports(1)[0]
HOME = f"http://127.0.0.1:{DESK}"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("issuer"), HOME) as found:
        yield found


def settings(issuer, **changes):
    return OidcSettings(
        **{
            "issuer": issuer.url,
            "client_id": "desk",
            "client_secret": SECRET,
            "scopes": ("openid", "profile", "offline_access"),
            "audience": AUDIENCE,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def server(issuer, redis_settings, object_store_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    with Server(
        redis_settings, object_store_settings, folder, port=DESK, url=HOME, oidc=settings(issuer)
    ) as found:
        yield found


@contextmanager
def signed_on(issuer, name, *, onward="", home=HOME, **claims):
    """Somebody who has signed on in a browser of their own; the answer at which they arrived is ``arrived``."""
    issuer.told(
        user=name, **{"id_token": {"preferred_username": name, "roles": ["reader"]}, "userinfo": {}, **claims}
    )
    with httpx.Client(base_url=home, follow_redirects=True, timeout=60) as browser:
        browser.arrived = browser.get(f"/sign-in?next={onward}", headers={"accept": "text/html"})
        if browser.cookies.get(f"dermbatch-desk-{DESK}"):
            browser.headers["x-csrf-token"] = browser.get("/v1/session").json()["csrf"]
        yield browser


def token_of(browser):
    return browser.cookies[f"dermbatch-desk-{DESK}"]


def lapse(server, browser):
    """As after the time that the issuer vouched for."""
    server.desk.redis.delete(f"desk:vouched:{hashlib.sha256(token_of(browser).encode()).hexdigest()}")


# Signing on, and what the issuer says since.


def test_who_signs_on_arrives_where_they_were_going_and_may_what_the_issuer_says(server, issuer):
    with signed_on(issuer, "rita", onward="/models?x=1") as rita:
        assert rita.arrived.status_code == 200
        assert rita.arrived.url.path == "/models"
        assert "Sign out" in rita.arrived.text
        assert ">Usage<" not in rita.arrived.text
        session = rita.get("/v1/session").json()
        assert (session["name"], session["roles"], session["tenant"]) == ("rita", ["reader"], None)
        refused = rita.post("/v1/rules/trial", json={"rules": "", "objects": []})
        assert (refused.status_code, refused.json()["reason"]) == (403, "role_missing")
        assert "operator" in refused.json()["detail"]
    looks = server.looks()
    assert re.search(r'"action":"sign-in","object":"desk:session","to":"reader".*"user":"rita"', looks)
    assert re.search(r'"action":"refuse","object":"desk:POST /v1/rules/trial".*"user":"rita"', looks)


def test_no_page_is_shown_to_whom_the_issuer_gives_no_role_or_of_whom_it_says_nothing(server, issuer):
    with signed_on(issuer, "nora", id_token={"preferred_username": "nora", "roles": []}) as nora:
        assert (nora.arrived.status_code, "no_role" in nora.arrived.text) == (403, True)
        assert nora.get("/v1/session").status_code == 401
    with signed_on(issuer, "olga", id_token={"preferred_username": "olga"}) as olga:
        assert (olga.arrived.status_code, "claim_missing" in olga.arrived.text) == (403, True)
        assert "&#39;roles&#39;" in olga.arrived.text
    assert '"action":"refuse","object":"desk:sign-in","outcome":"no_role"' in server.looks()


def test_a_name_is_the_subjects_who_came_by_it_first(server, issuer):
    with signed_on(issuer, "paul") as paul:
        assert paul.arrived.status_code == 200
    with signed_on(issuer, "mallory", id_token={"preferred_username": "paul", "roles": ["admin"]}) as mallory:
        assert (mallory.arrived.status_code, "name_taken" in mallory.arrived.text) == (403, True)


def test_an_answer_of_the_issuer_opens_once_and_for_the_browser_that_set_out(server, issuer):
    issuer.told(user="quinn", id_token={"preferred_username": "quinn", "roles": ["reader"]})
    with httpx.Client(base_url=HOME, timeout=60) as browser, httpx.Client(base_url=HOME, timeout=60) as thief:
        answer = browser.get("/sign-in")
        while not answer.headers["location"].startswith(f"{HOME}/signed-in"):
            answer = browser.get(httpx.URL(str(answer.url)).join(answer.headers["location"]))
        back = answer.headers["location"]
        thief.get("/sign-in")
        stolen = thief.get(back)
        assert (stolen.status_code, stolen.json()["reason"]) == (400, "bad_state")
        assert browser.get(back).status_code == 400  # and by that it was used
        answer = browser.get("/sign-in", follow_redirects=True)
        assert answer.status_code == 200
        assert browser.get(str(answer.history[-2].url)).status_code == 400  # replayed
        for query in ("state=x&code=y", "code=y", "", "state=&error=access_denied"):
            assert browser.get(f"/signed-in?{query}").status_code == 400
        started = browser.get("/sign-in").headers["location"]
        state = parse_qs(urlsplit(started).query)["state"][0]
        refused = browser.get(f"/signed-in?state={state}&error=access_denied")
        assert (refused.status_code, refused.json()["reason"]) == (401, "refused_by_issuer")
        state = parse_qs(urlsplit(browser.get("/sign-in").headers["location"]).query)["state"][0]
        assert browser.get(f"/signed-in?state={state}&code=x&iss=https://evil.test").status_code == 400
        state = parse_qs(urlsplit(browser.get("/sign-in").headers["location"]).query)["state"][0]
        assert browser.get(f"/signed-in?state={state}&code=made-up").status_code == 401


def test_nobody_is_led_elsewhere_after_signing_on(server, issuer):
    for onward in ("//evil.test/", "https://evil.test/", "/\\evil.test", "javascript:alert(1)"):
        with signed_on(issuer, "rita", onward=onward) as rita:
            assert str(rita.arrived.url) == f"{HOME}/batches"


def test_roles_are_read_again_and_one_that_is_withdrawn_is_gone_in_mid_session(server, issuer):
    with signed_on(
        issuer, "sven", id_token={"preferred_username": "sven", "roles": ["reader", "operator"]}
    ) as sven:
        assert sven.get("/v1/usage").status_code == 200
        issuer.told(id_token={"preferred_username": "sven", "roles": ["reader"]})
        assert sven.get("/v1/usage").status_code == 200  # until the issuer is asked again
        lapse(server, sven)
        assert sven.get("/v1/usage").status_code == 403
        assert sven.get("/v1/session").json()["roles"] == ["reader"]
        issuer.told(id_token={"preferred_username": "sven", "roles": []})
        lapse(server, sven)
        gone = sven.get("/v1/batches")
        assert (gone.status_code, gone.json()["reason"]) == (403, "no_role")
        assert sven.get("/v1/batches").status_code == 401


def test_a_claim_that_an_id_token_leaves_out_is_no_empty_list_and_ends_the_session_by_name(server, issuer):
    with signed_on(issuer, "tara") as tara:
        issuer.told(id_token={"preferred_username": "tara"})
        lapse(server, tara)
        gone = tara.get("/v1/batches")
        assert (gone.status_code, gone.json()["reason"]) == (403, "claim_missing")
        assert tara.get("/v1/batches").status_code == 401


def test_where_a_refresh_says_nothing_of_roles_they_stay(server, issuer, monkeypatch):
    with signed_on(issuer, "ugo") as ugo:
        speaks_to = server.recognition.sign_on.issuer
        whole = speaks_to.token

        def without_id_token(**asked):
            tokens = whole(**asked)
            tokens.pop("id_token")
            return tokens

        monkeypatch.setattr(speaks_to, "token", without_id_token)
        issuer.told(id_token={"preferred_username": "ugo", "roles": []})
        lapse(server, ugo)
        assert ugo.get("/v1/session").json()["roles"] == ["reader"]
        issuer.told(userinfo={"roles": ["operator"]})  # asked where the ID token does not come
        lapse(server, ugo)
        assert ugo.get("/v1/session").json()["roles"] == ["operator"]


def test_roles_that_userinfo_says_are_read_there_again(server, issuer):
    there = {"preferred_username": "vera@clinic", "roles": ["reviewer"]}
    with signed_on(issuer, "vera", id_token={}, userinfo=there) as vera:
        session = vera.get("/v1/session").json()
        assert (session["name"], session["roles"]) == ("vera@clinic", ["reviewer"])
        issuer.told(userinfo={})
        lapse(server, vera)
        assert vera.get("/v1/batches").json()["reason"] == "claim_missing"


def test_tabs_that_come_at_a_time_are_one_refresh_at_two_replicas(
    server, issuer, redis_settings, object_store_settings, tmp_path
):
    port = free_ports(1)[0]
    other = Server(redis_settings, object_store_settings, tmp_path, port=port, url=HOME, oidc=settings(issuer))
    with signed_on(issuer, "wim") as wim, other, ThreadPoolExecutor(12) as tabs:
        asked = [(one.url, {f"dermbatch-desk-{one.port}": token_of(wim)}) for one in (server, other)] * 6
        for _ in range(3):  # a refresh token that is used twice is worth nothing at this issuer
            lapse(server, wim)
            found = tabs.map(lambda one: httpx.get(f"{one[0]}/v1/session", cookies=one[1], timeout=60), asked)
            assert [one.status_code for one in found] == [200] * 12


def test_a_session_that_ends_loses_nothing_and_goes_on_with_the_next_one(server, issuer):
    with signed_on(issuer, "xenia") as xenia:
        token = token_of(xenia)
        session = server.recognition.sessions.who(token)
        refresh = unseal(token, session.granted.sealed)["refresh_token"]
        httpx.post(f"{issuer.url}/token/revocation", data={"token": refresh}, auth=("desk", SECRET))
        assert xenia.patch("/v1/sets/kept", json={"add": {"b": [1]}}).status_code == 200  # it was vouched for
        lapse(server, xenia)
        ended = xenia.patch("/v1/sets/kept", json={"add": {"b": [2]}})
        assert (ended.status_code, ended.headers["content-type"]) == (401, "application/problem+json")
        assert "Bearer" in ended.headers["www-authenticate"]
        xenia.get("/sign-in")  # in another tab
        again = xenia.patch("/v1/sets/kept", json={"add": {"b": [2]}})
        assert (again.status_code, again.json()["reason"]) == (403, "csrf")
        xenia.headers["x-csrf-token"] = xenia.get("/v1/session").json()["csrf"]
        assert xenia.patch("/v1/sets/kept", json={"add": {"b": [2]}}).json()["images"] == {"b": [1, 2]}


def test_a_refresh_that_fails_early_is_not_tried_at_every_request(server, issuer, monkeypatch):
    with signed_on(issuer, "xaver") as xaver:
        speaks_to, asked = server.recognition.sign_on.issuer, []

        def refuses(**request):
            asked.append(request)
            raise issuers.IssuerRefused("invalid_grant")

        monkeypatch.setattr(speaks_to, "token", refuses)
        key = f"desk:vouched:{hashlib.sha256(token_of(xaver).encode()).hexdigest()}"
        server.desk.redis.pexpire(key, 60_000)  # less than a fifth of the time that it was vouched for
        assert [xaver.get("/v1/session").status_code for _ in range(3)] == [200] * 3
        assert len(asked) == 1


def test_who_reads_redis_reads_no_token(server, issuer):
    with signed_on(issuer, "yves") as yves:
        token = token_of(yves)
        kept = server.desk.redis.get(f"desk:session:{hashlib.sha256(token.encode()).hexdigest()}")
        inside = unseal(token, json.loads(kept)["granted"]["sealed"])
        assert set(inside) == {"refresh_token", "id_token"}
        assert not any(one in kept for one in (token, *inside.values()))


def test_an_issuer_that_is_away_ends_no_session(server, issuer, monkeypatch):
    with signed_on(issuer, "zoe") as zoe:
        speaks_to = server.recognition.sign_on.issuer
        with monkeypatch.context() as broken:
            broken.setattr(speaks_to, "_send", lambda *args, **more: (_ for _ in ()).throw(away("ConnectError")))
            assert zoe.get("/v1/session").status_code == 200  # it was vouched for
            lapse(server, zoe)
            answer = zoe.get("/v1/session")
            assert (answer.status_code, answer.json()["reason"]) == (503, "issuer_unavailable")
            assert answer.headers["retry-after"]
        assert zoe.get("/v1/session").status_code == 200


def test_an_issuer_that_was_never_there_is_said_on_a_page(redis_settings, object_store_settings, tmp_path):
    oidc = OidcSettings(issuer=f"http://127.0.0.1:{free_ports(1)[0]}", client_id="desk", audience=AUDIENCE)
    port = free_ports(1)[0]
    changes = {"port": port, "url": f"http://127.0.0.1:{port}", "oidc": oidc}
    with Server(redis_settings, object_store_settings, tmp_path, **changes) as alone:
        answer = httpx.get(f"{alone.url}/sign-in", headers={"accept": "text/html"})
        assert answer.status_code == 503
        assert "does not answer" in answer.text
        headers = {"authorization": f"Bearer {forged({'alg': 'RS256', 'kid': 'x'}, {})}"}
        assert httpx.get(f"{alone.url}/v1/batches", headers=headers).status_code == 503
        assert httpx.get(alone.link()).status_code == 303  # whoever has the machine gets in anyway


def test_signing_out_ends_it_here_and_at_the_issuer(server, issuer):
    with signed_on(issuer, "abel") as abel:
        token = token_of(abel)
        refresh = unseal(token, server.recognition.sessions.who(token).granted.sealed)["refresh_token"]
        to = abel.post("/v1/sign-out").json()["to"]
        assert to.startswith(f"{issuer.url}/session/end?")
        assert "id_token_hint" in parse_qs(urlsplit(to).query)
        asked = {"grant_type": "refresh_token", "refresh_token": refresh}
        assert httpx.post(f"{issuer.url}/token", data=asked, auth=("desk", SECRET)).status_code == 400
        assert httpx.get(f"{HOME}/v1/session", cookies={f"dermbatch-desk-{DESK}": token}).status_code == 401
        page = abel.get(to)
        form = re.search(r'action="([^"]+)".*?name="xsrf" value="([^"]+)"', page.text, re.DOTALL)
        left = abel.post(form[1], data={"xsrf": form[2], "logout": "yes"})
        assert str(left.url).startswith(f"{HOME}/enter")
    assert re.search(r'"action":"sign-out".*"user":"abel"', server.looks())


def test_who_signs_out_at_the_issuer_is_out_here_in_that_session_alone(server, issuer):
    with signed_on(issuer, "mona") as mona, signed_on(issuer, "mona") as elsewhere:
        page = mona.get(f"{issuer.url}/session/end")
        form = re.search(r'action="([^"]+)".*?name="xsrf" value="([^"]+)"', page.text, re.DOTALL)
        mona.post(form[1], data={"xsrf": form[2], "logout": "yes"})
        wait_for(lambda: mona.get("/v1/session").status_code == 401, 10)
        assert elsewhere.get("/v1/session").status_code == 200
        for nonsense in ({}, {"logout_token": "a.b.c"}, {"logout_token": issuer.token()}):
            answer = httpx.post(f"{HOME}/signed-out", data=nonsense)
            assert (answer.status_code, answer.json()["reason"]) == (400, "bad_token")
        assert server.recognition.sessions.end_all("sub", "mona") == 1
        assert elsewhere.get("/v1/session").status_code == 401
    assert re.search(r'"action":"sign-out".*"to":"1 sessions".*"user":"issuer"', server.looks())


def test_a_public_client_signs_on_by_pkce_alone_and_a_tenant_comes_with_the_claims(
    issuer, redis_settings, object_store_settings, tmp_path
):
    claims = {"preferred_username": "bela", "groups": {"derm": ["Derm Readers", "others"]}, "roles": {"x": {}}}
    oidc = settings(
        issuer,
        client_id="public",
        client_secret=None,
        audience=None,
        tenant_claim="tenant",
        roles={"x": "reviewer"},
    )
    port = free_ports(1)[0]
    with (
        Server(redis_settings, object_store_settings, tmp_path, port=port, url=HOME, oidc=oidc) as other,
        httpx.Client(timeout=60) as browser,
    ):
        for tenant, status in (({"tenant": "clinic-a"}, 303), ({}, 403)):
            issuer.told(user="bela", id_token=claims | tenant)
            answer = browser.get(f"{other.url}/sign-in")
            while not answer.headers["location"].startswith(f"{HOME}/signed-in"):
                answer = browser.get(httpx.URL(str(answer.url)).join(answer.headers["location"]))
            back = answer.headers["location"].replace(HOME, other.url)
            assert browser.get(back).status_code == status
        person = browser.get(f"{other.url}/v1/session").json()
        assert (person["roles"], person["tenant"]) == (["reviewer"], "clinic-a")


# Tokens of programs.


def b64(part):
    return (
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode())
        .rstrip(b"=")
        .decode()
    )


def forged(header, claims, key=None):
    """A token with a signature of nothing, or by a secret."""
    signed = f"{b64(header)}.{b64(claims)}"
    return f"{signed}.{b64(b'' if key is None else hmac.digest(key, signed.encode(), 'sha256'))}"


def bearer(token):
    headers = {"authorization": f"Bearer {token}".encode("latin-1")}
    return httpx.get(f"{HOME}/v1/session", headers=headers, timeout=60)


def test_a_program_asks_by_an_access_token_and_needs_no_csrf_token(server, issuer):
    issuer.told(id_token={"preferred_username": "program", "roles": ["operator"]})
    token = issuer.token()
    assert bearer(token).json() == {"name": "program", "csrf": "", "roles": ["operator"], "tenant": None}
    headers = {"authorization": f"Bearer {token}"}
    asked = {"rules": "rules: []", "objects": ["s3://a/b.png"]}
    assert httpx.post(f"{HOME}/v1/rules/trial", json=asked, headers=headers).status_code in {200, 400, 422}
    assert httpx.get(f"{HOME}/v1/keys", headers=headers).status_code == 403
    with DeskClient(HOME, key=token) as client:
        assert client._json("GET", "/v1/session")["name"] == "program"


def test_tokens_that_are_not_to_be_believed_let_nobody_in(server, issuer):
    issuer.told(id_token={"preferred_username": "program", "roles": ["admin"]}, user="cleo")
    good = issuer.token()
    header, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    public = httpx.get(f"{issuer.url}/jwks").json()["keys"][0]
    from joserfc.jwk import RSAKey

    pem = RSAKey.import_key(public).as_pem(private=False)
    with signed_on(issuer, "cleo") as cleo:
        inside = unseal(token_of(cleo), server.recognition.sessions.who(token_of(cleo)).granted.sealed)
    bad = {
        "another audience": issuer.token("https://elsewhere.test"),
        "alg none": forged({"alg": "none", "typ": "at+jwt"}, claims),
        "alg None": forged({"alg": "None", "typ": "at+jwt", "kid": public["kid"]}, claims),
        "HS256 with the public key": forged({"alg": "HS256", "typ": "at+jwt", "kid": public["kid"]}, claims, pem),
        "other claims": f"{header}.{b64({**claims, 'roles': ['admin'], 'sub': 'x'})}.{signature}",
        "an ID token": inside["id_token"],
        "a refresh token": inside["refresh_token"],
        "nothing": "x.y.z",
        "no text": "\xff\xfe",
    }
    for name, token in bad.items():
        answer = bearer(token)
        assert (answer.status_code, answer.json()["reason"]) == (401, "bad_token"), name
        assert "invalid_token" in answer.headers["www-authenticate"]
    assert bearer(good).status_code == 200
    assert server.looks().count('"object":"desk:token","outcome":"bad_token"') == len(bad)


def test_a_token_expires_and_clocks_may_differ_a_little(server, issuer, monkeypatch):
    issuer.told(id_token={"preferred_username": "program", "roles": ["reader"]}, ttl=60)
    token = issuer.token()
    issuer.told(ttl=3600)
    now = time.time()
    for ahead, status in ((0, 200), (85, 200), (95, 401), (-25, 200), (-100, 401)):
        with monkeypatch.context() as later:
            later.setattr("joserfc._rfc7519.claims._generate_now", lambda ahead=ahead: int(now + ahead))
            assert bearer(token).status_code == status, ahead


def test_a_token_without_roles_is_refused_by_name(server, issuer):
    issuer.told(id_token={"preferred_username": "program"})
    assert bearer(issuer.token()).json()["reason"] == "claim_missing"
    issuer.told(id_token={"preferred_username": "program", "roles": ["unheard-of"]})
    assert bearer(issuer.token()).json()["reason"] == "no_role"


def test_keys_of_the_issuer_change_and_strangers_do_not_have_it_asked_without_end(server, issuer, monkeypatch):
    issuer.told(id_token={"preferred_username": "program", "roles": ["reader"]})
    assert bearer(issuer.token()).status_code == 200
    speaks_to, asked = server.recognition.sign_on.issuer, []
    whole = speaks_to._send
    monkeypatch.setattr(speaks_to, "_send", lambda *args, **more: asked.append(args) or whole(*args, **more))
    issuer.told(key="two")
    try:
        token = issuer.token()
        monkeypatch.setattr(issuers, "_ANEW_AFTER", 0)
        assert bearer(token).status_code == 200
        assert len(asked) == 1
        monkeypatch.setattr(issuers, "_ANEW_AFTER", 3600)
        for kid in "abc":
            assert bearer(forged({"alg": "RS256", "kid": kid, "typ": "at+jwt"}, {})).status_code == 401
        assert len(asked) == 1
    finally:
        issuer.told(key="one")
        speaks_to._keys = None


# In a browser.


def test_a_page_outlives_its_session_and_goes_on_once_the_same_person_has_signed_on_again(server, issuer):
    issuer.told(user="dora", id_token={"preferred_username": "dora", "roles": ["reader"]}, userinfo={})
    with chromium() as browser:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{HOME}/gallery")
        page.get_by_role("link", name="Sign in", exact=True).click()
        page.wait_for_url(f"{HOME}/gallery")  # over the issuer, and back to what was asked for
        assert page.get_by_text("dora").is_visible()
        page.goto(f"{HOME}/batches")
        assert not page.locator("#new").is_visible()  # of operators
        assert page.get_by_role("link", name="Usage").count() == 0
        page.evaluate("window.drawing = [1, 2, 3]")
        token = next(one["value"] for one in context.cookies() if one["name"] == f"dermbatch-desk-{DESK}")
        session = server.recognition.sessions.who(token)
        refresh = unseal(token, session.granted.sealed)["refresh_token"]
        httpx.post(f"{issuer.url}/token/revocation", data={"token": refresh}, auth=("desk", SECRET))
        server.desk.redis.delete(f"desk:vouched:{hashlib.sha256(token.encode()).hexdigest()}")
        keep = (
            "import('/static/api.js').then((api) => api.json('/v1/sets/drawn', "
            "{method: 'PATCH', json: {add: {b: window.drawing}}}))"
            ".then((body) => body.images.b, (error) => error.status)"
        )
        assert page.evaluate(keep) == 401
        with context.expect_page() as opened:
            page.locator("#messages").get_by_role("link", name="Sign in").click()
        opened.value.get_by_role("link", name="Sign in", exact=True).click()
        opened.value.wait_for_url(f"{HOME}/batches")
        assert page.evaluate(keep) == [1, 2, 3]
        assert page.locator("#messages").get_by_text("Your session has ended").count() == 0
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{issuer.url}/session/end*")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{HOME}/enter")
        assert page.goto(f"{HOME}/batches").url.startswith(f"{HOME}/enter")
