"""Who may do what at the desk, over real servers: links, sessions, proxies, tokens of pages."""

from urllib.parse import quote

import httpx
from desk_server import Server

from dermbatch import metrics
from desk.results.view import View


def test_only_health_and_the_entrance_answer_whom_nobody_knows(server):
    with httpx.Client(base_url=server.url) as nobody:
        assert nobody.get("/health").status_code == 200
        for path in ("/v1/batches", "/openapi.json", "/v1/nothing", "/dicom-web/studies"):
            answer = nobody.get(path)
            assert (answer.status_code, answer.json()["reason"]) == (401, "unauthorized")
        for path in ("/", "/batches", "/image/x/1"):
            answer = nobody.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"] in {"/enter", f"/enter?next={quote(path, safe='')}"}
        assert nobody.get("/enter").status_code == 200


def test_a_link_opens_the_desk_once(server):
    link = server.link()
    with httpx.Client() as first, httpx.Client() as second:
        answer = first.get(link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/batches")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert first.get(f"{server.url}/v1/batches").status_code == 200
        again = second.get(link)
        assert again.status_code == 403
        assert "was used, or is too old" in again.text
        assert second.get(f"{server.url}/v1/batches").status_code == 401


def test_a_session_holds_at_another_replica_and_ends_when_it_was_not_used(
    server, ada, redis_settings, object_store_settings, tmp_path
):
    with Server(redis_settings, object_store_settings, tmp_path) as other:
        session = next(iter(ada.cookies.values()))
        cookie = {f"dermbatch-desk-{other.port}": session}
        assert httpx.get(f"{other.url}/v1/batches", cookies=cookie).status_code == 200
    with server.client("eve") as eve:
        for key in server.desk.redis.scan_iter("desk:session:*"):
            if "eve" in server.desk.redis.get(key):
                server.desk.redis.delete(key)
        assert eve.get("/v1/batches").status_code == 401


def test_who_signs_in_comes_to_the_page_that_was_asked_for(server):
    wanted = "/gallery?batch=a&q=name:%22%D8%AE%D8%A7%D9%84%22"
    with httpx.Client(base_url=server.url) as nobody:
        entrance = nobody.get(wanted, follow_redirects=True)
        assert "/gallery?batch=a&amp;q=name:%22%D8%AE%D8%A7%D9%84%22" in entrance.text
        for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"):
            assert "Go on" not in nobody.get("/enter", params={"next": elsewhere}).text


def test_people_are_told_on_a_page_what_is_wrong_and_programs_in_json(server, ada):
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path, status in (
        ("/gallery?batch=never", 404),
        ("/nothing", 404),
        ("/image/never/x", 400),
        ("/v1/batches/never/files/report.html", 404),
        ("/v1/results/order", 400),
    ):
        page = ada.get(path, headers=browser)
        assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (status, "text/html"), path
        assert "To the batches" in page.text
        assert ada.get(path).headers["content-type"] == "application/problem+json"
    with httpx.Client(base_url=server.url) as nobody:
        page = nobody.get("/v1/exports/csv?batch=a", headers=browser)
        assert (page.status_code, "Sign in" in page.text) == (401, True)


def test_what_fails_by_our_own_fault_is_counted_and_bound_as_all_else(ada, monday, monkeypatch):
    def fails(self):
        raise RuntimeError("by a fault of ours")

    monkeypatch.setattr(View, "facets", fails)
    counted = metrics.DESK_REQUESTS.labels("api", "5xx")._value
    before = counted.get()
    answer = ada.get("/v1/results/facets", params={"batch": monday})
    assert (answer.status_code, answer.json()["reason"]) == (500, "internal")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert counted.get() == before + 1
    assert "fault of ours" not in answer.text


def test_progress_ends_with_the_session_and_prolongs_none(server, monkeypatch):
    monkeypatch.setattr("desk.api.batches._LOOK_EVERY", 0.02)
    with server.client("fay") as fay, fay.stream("GET", "/v1/events") as events:
        lines = events.iter_lines()
        next(lines)
        for key in server.desk.redis.scan_iter("desk:session:*"):
            if "fay" in server.desk.redis.get(key):
                server.desk.redis.delete(key)
        list(lines)  # comes to an end


def test_other_hosts_other_sites_and_requests_without_the_token_are_refused(server, ada):
    assert ada.get("/batches", headers={"host": "evil.example"}).status_code == 421
    assert ada.get("/batches", headers={"host": f"localhost:{server.port}"}).status_code == 200
    path = "/v1/sets/mine"
    for headers in ({"x-csrf-token": ""}, {"x-csrf-token": "wrong"}, {"sec-fetch-site": "cross-site"}):
        answer = ada.patch(path, json={}, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (403, "csrf")


def test_every_answer_binds_the_browser_to_this_server(ada):
    for path in ("/batches", "/v1/batches", "/static/style.css", "/nothing"):
        headers = ada.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_a_proxy_says_who_asks_and_nobody_else(redis_settings, object_store_settings, tmp_path):
    header = {"x-user": "grace"}
    changes = {"user_header": "X-User", "proxies": ("10.0.0.0/8",)}
    with Server(redis_settings, object_store_settings, tmp_path, **changes) as strict:
        assert httpx.get(f"{strict.url}/v1/batches", headers=header).status_code == 401
    changes["proxies"] = ("127.0.0.0/8",)
    with (
        Server(redis_settings, object_store_settings, tmp_path, **changes) as trusting,
        httpx.Client(base_url=trusting.url, timeout=60) as asked,
    ):
        assert asked.get("/v1/batches").status_code == 401
        twice = [("x-user", "eve"), ("x-user", "grace")]
        assert asked.get("/v1/batches", headers=twice).status_code == 401
        assert asked.get("/v1/batches", headers={"x-user": ""}).status_code == 401
        named = {"x-user": "Zoë 山田".encode()}
        assert asked.get("/v1/session", headers=named).json()["name"] == "Zoë 山田"
        page = asked.get("/batches", headers=header)
        assert "grace" in page.text
        token = page.text.partition('name="csrf-token" content="')[2].partition('"')[0]
        path = "/v1/sets/hers"
        assert asked.patch(path, json={}, headers=header).status_code == 403
        assert asked.patch(path, json={}, headers=header | {"x-csrf-token": token}).status_code == 200
