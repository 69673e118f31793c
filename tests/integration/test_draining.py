"""Tritons that end, load and unload models during the client's requests: no image fails for good."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from functools import partial

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from digests import copy_with_digests
from tiny_models import write_repository

from benchmarks import drains
from dermbatch.errors import InferenceAway, InferenceUnavailable, ModelContractError
from dermbatch.models.triton import Triton
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage
from orchestrator.stack.process import python_module, stop_all, wait_all
from tests.waiting import patience, wait_for
from workers.triton.client import TritonClient

NEWEST = ModelChoice(name="segment_tiny")
FIRST = ModelChoice(name="segment_tiny", version="1")
SECOND = ModelChoice(name="segment_tiny", version="2")
GREY = {"IMAGE": np.full((6, 8, 3), 120, np.uint8)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two Tritons without a key: the first has versions 1 and 2 of a model, the second, not updated, only 1."""
    folder = tmp_path_factory.mktemp("pair")
    write_repository(folder / "tiny")
    shutil.copytree(folder / "tiny" / "segment_tiny", folder / "new" / "segment_tiny")
    copy_with_digests(folder / "new", folder / "updated")
    shutil.copytree(folder / "updated", folder / "old")
    shutil.rmtree(folder / "old" / "segment_tiny" / "2")
    made = drains.tritons(folder / "a", 1, folder / "updated") + drains.tritons(folder / "b", 1, folder / "old")
    for part, _ in made:
        part.argv = [*part.argv, "--model-control-mode=explicit", "--load-model=*"]
        part.start()
    try:
        wait_all([part for part, _ in made])
        yield made
    finally:
        stop_all([part for part, _ in made])


@pytest.fixture
def behind(pair, tmp_path):
    """Starts HAProxy before some of the two; gives its address."""
    started = []

    def start(mode, servers):
        if drains.haproxy() is None:
            pytest.skip("needs HAProxy (make system-packages)")
        part, port = drains.balancer(tmp_path, mode, [ports for _, ports in servers])
        part.start()
        started.append(part)
        part.wait()
        return f"127.0.0.1:{port}"

    yield start
    stop_all(started)


def straight(pair):
    return "ipv4:" + ",".join(f"127.0.0.1:{ports.grpc}" for _, ports in pair)


@contextmanager
def client_of(url):
    with closing(TritonClient(TritonSettings(url=url))) as client:
        yield client


def ask(client, choice=SECOND):
    """Describe and run the model as an image does, what is remembered aside; the error it ends with, if any."""
    client._known.clear()
    try:
        client.infer(client.model(Stage.SEGMENT, choice), GREY, ("LESION",))
    except (InferenceUnavailable, ModelContractError) as error:
        return error
    return None


@contextmanager
def ending(part):
    """While inside, a Triton ends as Kubernetes has it end; it is there again afterwards."""
    os.kill(part.program_pid, signal.SIGTERM)
    try:
        yield
    finally:
        while part.running:
            time.sleep(0.05)
        part.start()
        part.wait()


def under_load(client, ended, choice):
    """Ask from two threads until ``ended``, and a little longer; the kinds of errors, and their texts."""
    kinds, texts, over = Counter(), set(), threading.Event()

    def go():
        while not over.is_set():
            error = ask(client, choice)
            kinds[type(error)] += 1
            time.sleep(0.02)  # load enough, and the processors are for the servers
            texts.add(str(error))

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + patience(20)
    while not ended() and time.monotonic() < until:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    return kinds, " ".join(texts)


@pytest.mark.parametrize("mode", [None, "tcp"])
def test_a_server_that_ends_under_load_fails_nothing_for_good(pair, behind, mode):
    (part, ports), _ = pair
    url = f"127.0.0.1:{ports.grpc}" if mode is None else behind(mode, pair[:1])
    with client_of(url) as client:
        assert ask(client) is None
        with ending(part):
            kinds, texts = under_load(client, lambda: not part.running, NEWEST)
            assert isinstance(ask(client), InferenceUnavailable)
            assert part._process.returncode == 0  # unforced, within the chart's grace
        assert kinds[ModelContractError] == 0, texts
        assert kinds[InferenceAway] > 0  # so that it costs no image a try
        assert "a server is not ready" in texts
        wait_for(lambda: ask(client) is None, 10)


def failed(client, model):
    with pytest.raises(InferenceUnavailable) as caught:
        client.infer(model, GREY, ("LESION",))
    return caught.type


def test_a_request_that_was_under_way_when_its_server_died_is_told_from_one_that_met_no_server(pair):
    """The one may have killed it, so it has to cost its image a try; the other says nothing about its own."""
    part, ports = pair[1]
    with client_of(f"127.0.0.1:{ports.grpc}") as client:
        model = client.model(Stage.SEGMENT, FIRST)
        client.infer(model, GREY, ("LESION",))
        os.kill(part.program_pid, signal.SIGSTOP)  # so that it has the request, and does not answer
        killed = threading.Timer(0.5, os.kill, [part.program_pid, signal.SIGKILL])
        killed.start()
        try:
            assert failed(client, model) is InferenceUnavailable
            assert not killed.is_alive()
            assert failed(client, model) is InferenceAway
            assert type(ask(client, FIRST)) is InferenceAway
        finally:
            killed.join()
            while part.running:
                time.sleep(0.05)
            part.start()
            part.wait()
        wait_for(lambda: ask(client, FIRST) is None, 10)


def test_a_server_that_is_not_ready_costs_no_try_one_that_is_does(pair):
    part, ports = pair[0]
    url = f"127.0.0.1:{ports.grpc}"
    with client_of(url) as client, closing(grpc_client.InferenceServerClient(url)) as operator:
        operator.unload_model("segment_tiny")
        try:  # of a server that is ready except for this model, which may never come back
            until = time.monotonic() + patience(10)
            while isinstance(error := ask(client), InferenceAway) and time.monotonic() < until:
                time.sleep(0.1)  # it unloads
            assert type(error) in (InferenceUnavailable, ModelContractError), error
        finally:
            operator.load_model("segment_tiny")
        with ending(part):
            kinds, texts = under_load(client, lambda: not part.running, NEWEST)
            assert type(ask(client)) is InferenceAway
        assert kinds[InferenceAway] > 0, texts


def test_a_proxy_that_goes_by_the_name_is_asked_by_it(pair, behind, tmp_path):
    if drains.haproxy() is None:
        pytest.skip("needs HAProxy (make system-packages)")
    part, port = drains.balancer(tmp_path, "http", [ports for _, ports in pair[1:]])
    config = tmp_path / "haproxy.cfg"
    rule = "  http-request return status 404 unless { req.hdr(host) -m beg localhost }\n"
    config.write_text(config.read_text().replace("\nbackend", f"\n{rule}backend"))
    part.start()
    try:
        part.wait()
        for host, ready in (("localhost", True), ("127.0.0.1", False)):
            with closing(Triton(TritonSettings(url=f"{host}:{port}"))) as triton:
                asked = partial(lambda of, answer: of.ready() is answer, triton, ready)
                wait_for(asked, 10, host)  # HAProxy looks first
    finally:
        part.stop()


def test_what_waits_for_triton_waits_for_one_that_is_ready(pair):
    part, ports = pair[1]
    url = f"127.0.0.1:{ports.grpc}"
    with closing(Triton(TritonSettings(url=url))) as triton:
        assert triton.ready()
        with ending(part):
            asked = []
            while part.running and not asked.count(False):
                asked.append(triton.ready())
            # It still listens, and what waits would be let in by a mere connection.
            assert asked[-1] is False
            env = {**os.environ, "DERMBATCH_TRITON__URL": url}
            waiting = subprocess.Popen(python_module("workers.triton.waiting"), env=env)
            while part.running:
                time.sleep(0.05)
            assert waiting.poll() is None
        assert waiting.wait(patience(30)) == 0


@pytest.mark.parametrize("mode", ["tcp", "http", "client"])
def test_of_two_servers_one_may_end(pair, behind, mode):
    part = pair[1][0]
    url = straight(pair) if mode == "client" else behind(mode, pair)
    with client_of(url) as client:
        assert ask(client, FIRST) is None
        with ending(part):
            kinds, texts = under_load(client, lambda: not part.running, FIRST)
        assert kinds[ModelContractError] == 0, texts
        assert kinds[type(None)] > 0
        if mode == "client":  # it knows which one ends, and leaves it: threads do not meet it again and again
            assert kinds[InferenceUnavailable] + kinds[InferenceAway] < kinds[type(None)], texts


def test_requests_go_to_both_and_follow_them(pair):

    def answered():
        counts = []
        for _, ports in pair:
            with closing(grpc_client.InferenceServerClient(f"127.0.0.1:{ports.grpc}")) as server:
                stats = server.get_inference_statistics("segment_tiny", "1").model_stats
                counts.append(stats[0].inference_count)
        return counts

    with client_of(straight(pair)) as client:
        model = client.model(Stage.SEGMENT, FIRST)
        until = time.monotonic() + patience(10)
        while min(answered()) == 0 and time.monotonic() < until:  # both are connected to before it counts
            client.infer(model, GREY, ("LESION",))
        before = answered()
        for _ in range(20):
            client.infer(model, GREY, ("LESION",))
        shares = [after - one for after, one in zip(answered(), before, strict=True)]
        assert sum(shares) == 20
        assert min(shares) >= 5
        assert not client._endpoints.local  # so no shared memory, which only one of them would know
        assert client._shared.take(100) is None


@pytest.mark.parametrize("mode", ["tcp", "http", "client"])
def test_a_version_that_has_not_come_to_every_server_is_no_failure_for_good(pair, behind, mode):
    url = straight(pair) if mode == "client" else behind(mode, pair)
    for _ in range(4):
        with client_of(url) as client:
            kinds = Counter(type(ask(client)) for _ in range(8))
            assert kinds[ModelContractError] == 0
            if mode != "http":  # which leads each request to another one; else the client stays where it has it
                assert kinds[type(None)] >= 7


@pytest.mark.parametrize("mode", ["tcp", "http", "client"])
def test_what_no_server_has_fails_for_good(pair, behind, mode):
    url = straight(pair) if mode == "client" else behind(mode, pair)
    with client_of(url) as client:
        with pytest.raises(ModelContractError, match="serves no version 7 of model segment_tiny, but 1"):
            client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny", version="7"))
        with pytest.raises(ModelContractError, match="serves no model nobody"):
            client.model(Stage.SEGMENT, ModelChoice(name="nobody"))


def test_models_that_are_unloaded_and_loaded_again_are_waited_for(pair):
    ports = pair[0][1]
    url = f"127.0.0.1:{ports.grpc}"
    with client_of(url) as client, closing(grpc_client.InferenceServerClient(url)) as operator:
        assert ask(client) is None
        again = threading.Timer(0.5, operator.load_model, ["segment_tiny"])
        again.start()
        operator.unload_model("segment_tiny")
        loaded = lambda: not again.is_alive()  # noqa: E731 - what is waited for
        kinds, texts = under_load(client, loaded, SECOND)
        assert kinds[ModelContractError] == 0, texts
        assert kinds[InferenceUnavailable] + kinds[InferenceAway] > 0
        assert ask(client) is None


def test_what_a_proxy_says_is_no_failure_for_good(tmp_path):
    """Without a server it answers 503; where its rules know no such path, 404: gRPC's UNIMPLEMENTED."""
    if drains.haproxy() is None:
        pytest.skip("needs HAProxy (make system-packages)")
    part, port = drains.balancer(tmp_path, "http", [])
    config = tmp_path / "haproxy.cfg"
    for rule, answer in (
        ("", "503"),
        ("  http-request return status 404\n", "404"),
        ("  http-request return status 502\n", "502"),
    ):
        config.write_text(config.read_text().partition("  http-request")[0] + rule)
        part.start()
        try:
            part.wait()
            with client_of(f"127.0.0.1:{port}") as client:
                error = ask(client)
                assert isinstance(error, InferenceUnavailable), error
                assert answer in str(error)
        finally:
            part.stop()


def test_a_plain_client_sorts_alike(pair):
    """The one by which commands ask."""
    with closing(Triton(TritonSettings(url=straight(pair)))) as triton:
        found = Counter()
        for _ in range(8):
            try:
                found[triton.model(Stage.SEGMENT, SECOND).version] += 1
            except InferenceUnavailable:
                found["later"] += 1
        assert found["2"] >= 7
        assert "segment_tiny" in triton.index(5)
