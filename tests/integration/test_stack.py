"""The stack as a whole: it serves, looks after its parts, keeps others out, and leaves nothing."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest
import redis
from tiny_models import write_repository

from dermbatch.errors import HomeInUse, StackError
from dermbatch.models import repository
from dermbatch.models.triton import Triton
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.stack import host
from orchestrator.stack.process import http_ok
from orchestrator.stack.stack import Stack
from orchestrator.stack.state import Lock, make_home, read_state, state_path
from tests.waiting import patience, wait_for


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A repository with one model, so that Triton is up soon."""
    whole, small = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("small")
    write_repository(whole)
    shutil.move(whole / "segment_tiny", small / "segment_tiny")
    return small


@pytest.fixture(scope="module")
def stack(tmp_path_factory, models):
    home = tmp_path_factory.mktemp("home of a stack") / "new"
    with Stack(home, Settings(), workers=2, live_slots=1, model_repository=models) as stack:
        yield stack


def pids_of(home):
    state = read_state(home)
    parts = [pid for part in state.parts.values() for pid in (part.pid, part.program_pid)]
    return [state.pid, *parts]


def none_left(pids):
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_its_settings_lead_to_the_running_parts(stack):
    with redis.Redis.from_url(stack.settings.redis.url) as client:
        assert client.ping()
    store = ObjectStore(stack.settings.store)
    store.put("stack/hello", b"hello", "text/plain")
    assert stack.file_of("stack/hello").read_bytes() == b"hello"
    assert list(store.list(store.incoming_bucket, "")) == []
    with closing(Triton(stack.settings.triton)) as triton:
        assert triton.versions("segment_tiny")
    for port in (stack.settings.orchestrator.metrics_port, stack.settings.worker.metrics_port):
        assert http_ok(port, "/metrics")


def test_a_program_with_its_environment_has_the_same_settings(stack):
    script = "from dermbatch.settings import Settings; import sys; sys.stdout.write(Settings().model_dump_json())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **stack.environment}
    output = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True).stdout
    assert json.loads(output) == json.loads(stack.settings.model_dump_json())


def test_each_worker_has_a_metrics_port_of_its_own(stack):
    names = [part.name for part in stack.parts]
    assert names == ["redis", "s3", "triton", "orchestrator", "worker-1", "worker-2", "worker-live"]
    ports = read_state(stack.home).ports
    assert len(set(ports.values())) == len(ports)
    assert http_ok(ports["worker-2"], "/metrics")
    assert http_ok(ports["worker-live"], "/metrics")


def test_one_worker_takes_live_images_only(stack):
    def queues_and_slots(name):
        program = psutil.Process(read_state(stack.home).parts[name].program_pid)
        with redis.Redis.from_url(stack.settings.redis.url, decode_responses=True) as client:
            slots = [int(slot.rpartition("/")[2]) for slot in client.zrange("dermbatch:slots", 0, -1)]
        pool = {child.pid for child in program.children()}
        log = (stack.logs / f"{name}.log").read_text()
        return {lane for lane in ("live", "bulk") if f".> dermbatch.{lane} " in log}, len(pool.intersection(slots))

    assert queues_and_slots("worker-live") == ({"live"}, 1)
    assert queues_and_slots("worker-2") == ({"live", "bulk"}, stack.settings.worker.concurrency)


def test_only_a_stack_that_stays_up_has_a_worker_for_live_images(tmp_path, models):
    assert "worker-live" not in [part.name for part in _prepared(tmp_path / "run", models)]
    host.up(tmp_path / "up", Settings(), model_repository=models)
    try:
        assert "worker-live" in host.running(tmp_path / "up").parts
    finally:
        host.down(tmp_path / "up")


def test_a_worker_has_time_to_give_back_what_it_does_not_finish(tmp_path, models):
    settings = Settings(worker={"grace": 40})
    grace = {part.name: part.grace for part in _prepared(tmp_path, models, settings)}
    assert grace["worker"] > 40
    assert grace["orchestrator"] < 40


def _prepared(home, models, settings=None):
    home.mkdir(exist_ok=True)
    stack = Stack(home, settings or Settings(), model_repository=models)
    stack._prepare()
    return stack.parts


def test_its_state_is_for_others_to_find_and_for_the_owner_only(stack):
    assert stat.S_IMODE(state_path(stack.home).stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.home.stat().st_mode) == 0o700
    assert host.attach(stack.home) == stack.settings
    state = host.running(stack.home)
    assert state.pid == os.getpid()
    for name, part in state.parts.items():
        assert psutil.Process(part.program_pid).ppid() == part.pid
        assert part.log == str(stack.logs / f"{name}.log")


@pytest.mark.parametrize(
    ("holder", "sentence"),
    [
        ("run", "another dermbatch run, pid {pid}, writes into {folder}: wait until it has ended"),
        ("fetch", "another command, pid {pid}, reads the results in {folder}/home"),
        ("up", "a stack is already running in {folder}/home, pid {pid}; end it with: dermbatch down"),
    ],
)
def test_who_has_a_home_is_said(tmp_path, models, holder, sentence):
    home = tmp_path / "home"
    make_home(home)
    held = Lock(home, holder)
    with pytest.raises(HomeInUse, match=re.escape(sentence.format(pid=os.getpid(), folder=tmp_path))):
        host.up(home, Settings(), model_repository=models)
    held.release()


def test_a_second_stack_is_kept_out_of_its_home(stack, models):
    with pytest.raises(StackError, match=rf"already running.*pid {os.getpid()}.*dermbatch down --home"):
        Stack(stack.home, Settings(), model_repository=models).start()
    with pytest.raises(StackError, match="already running"):
        host.up(stack.home, Settings(), model_repository=models)
    assert stack.check() == []


def test_parts_that_are_killed_come_back_with_their_data(stack):
    with redis.Redis.from_url(stack.settings.redis.url) as client:
        client.set("kept", "yes")
    time.sleep(1.2)
    for name in ("redis", "worker-1"):
        os.kill(read_state(stack.home).parts[name].program_pid, signal.SIGKILL)
    heard = []

    def both_ready():
        heard.extend(stack.check())
        return {"redis is ready again", "worker-1 is ready again"} <= set(heard)

    wait_for(both_ready)
    assert any("redis ended early (by SIGKILL)" in sentence for sentence in heard)
    with redis.Redis.from_url(stack.settings.redis.url) as client:
        assert client.get("kept") == b"yes"
    for part in read_state(stack.home).parts.values():
        assert psutil.pid_exists(part.program_pid)


def test_a_full_disk_is_noticed(stack, monkeypatch):
    more_than_any_disk = Settings().stack.model_copy(update={"least_free": 2**80})
    monkeypatch.setattr(stack, "_asked", stack.settings.model_copy(update={"stack": more_than_any_disk}))
    with pytest.raises(StackError, match=r"disk of .* is full"):
        stack.check()


def test_where_a_part_does_not_come_up_nothing_stays(tmp_path, models):
    broken = [sys.executable, "-c", "raise SystemExit('the service has a bad day')"]
    stack = Stack(tmp_path, Settings(), model_repository=models, service_command=broken)
    with pytest.raises(StackError, match=r"(?s)orchestrator ended early.*orchestrator\.log.*a bad day"):
        stack.start()
    assert not any(part.running for part in stack.parts)
    assert read_state(tmp_path) is None
    with pytest.raises(StackError, match="no stack is running"):
        host.attach(tmp_path)


def test_a_home_that_cannot_be_used_is_reported(tmp_path, models):
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"file/home cannot be made: Not a directory"):
        Stack(tmp_path / "file" / "home", Settings(), model_repository=models).start()


def test_up_attach_kill_up_again_and_down(tmp_path, models):
    settings = host.up(tmp_path, Settings(), model_repository=models)
    assert host.attach(tmp_path) == settings
    ObjectStore(settings.store).put("kept", b"yes", "text/plain")
    pids = pids_of(tmp_path)
    assert not none_left(pids)
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: none_left(pids), 10)
    with pytest.raises(StackError, match="no stack is running"):
        host.down(tmp_path)
    again = host.up(tmp_path, Settings(), model_repository=models)
    assert ObjectStore(again.store).get("dermbatch", "kept") == b"yes"
    pids = pids_of(tmp_path)
    host.down(tmp_path)
    assert none_left(pids)
    assert not state_path(tmp_path).exists()


def test_up_reports_why_it_could_not(tmp_path):
    empty = tmp_path / "models"
    with pytest.raises(StackError, match=r"(?s)stack\.log says:.*models is not a folder"):
        host.up(tmp_path / "home", Settings(), model_repository=empty)


def test_a_stack_that_is_not_up_in_time_is_ended(tmp_path, models):
    with pytest.raises(StackError, match=r"did not start within 0\.5 s"):
        host.up(tmp_path, Settings(), model_repository=models, timeout=0.5)
    host.up(tmp_path, Settings(), model_repository=models)
    host.down(tmp_path)


def test_an_end_during_the_start_leaves_nothing(tmp_path, models):
    home = tmp_path / "home"
    argv = [sys.executable, "-m", "orchestrator.stack", f"--home={home}", f"--model-repository={models}"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    starting = subprocess.Popen(argv, env=env)
    wait_for(lambda: read_state(home) is not None)
    with pytest.raises(StackError, match="still starting"):
        host.running(home)
    pids = pids_of(home)
    starting.terminate()
    assert starting.wait(30) == 0
    assert none_left([pid for pid in pids if pid is not None])


def test_an_end_that_falls_into_a_destructor_during_the_start_is_not_lost():
    script = """
import os, signal, time
from orchestrator.stack.host import serve

class Falls:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

class Stack:
    home = "here"
    def __enter__(self):
        Falls()
    def __exit__(self, *_):
        print("stopped")
    def check(self):
        return []

serve(Stack())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=patience(30), check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "the stack is running in here\nstopped\n")
    assert "Exception ignored" in ran.stderr


def test_the_default_models_are_found_in_a_checkout_and_beside_an_installed_package(tmp_path, monkeypatch):
    for place in ("site-packages/dermbatch/model_repository", "checkout/model_repository"):
        (tmp_path / place / "segment").mkdir(parents=True)
        (tmp_path / place / "segment" / "config.pbtxt").touch()
        package = tmp_path / place.split("/")[0] / "dermbatch"
        monkeypatch.setattr(repository.dermbatch, "__file__", str(package / "__init__.py"))
        assert repository.default_model_repository() == tmp_path / place
    monkeypatch.setattr(repository.dermbatch, "__file__", str(tmp_path / "else" / "dermbatch" / "__init__.py"))
    with pytest.raises(StackError, match="no models found"):
        repository.default_model_repository()
