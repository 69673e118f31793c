"""A real Ceph: Debian's monitor, one OSD in memory, and the RADOS Gateway, which sends notifications."""

import os
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
from botocore.config import Config

from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part
from tests.needed import program

PACKAGES = "ceph-mon, ceph-osd, ceph-common and radosgw"
USER, SECRET = "tester", "a-secret-of-the-test"

CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
mon initial members = a
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 2
osd objectstore = memstore
memstore device bytes = 268435456
osd class load list = *
osd class default list = *
run dir = {folder}
log file = {folder}/$name.internal.log
admin socket =
mon data = {folder}/mon
osd data = {folder}/osd
[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{http}
rgw enable apis = s3,notifications
"""

KEYS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
    "client.rgw.a": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
}


class Gateway:
    """The gateway as clients see it."""

    def __init__(self, port: int) -> None:
        access = {
            "endpoint_url": f"http://127.0.0.1:{port}",
            "aws_access_key_id": USER,
            "aws_secret_access_key": SECRET,
            "region_name": "default",
        }
        config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 10})
        self.s3 = boto3.client("s3", config=config, **access)
        self._sns = boto3.client("sns", **access)

    def notify(self, bucket: str, url: str) -> None:
        """Have creations in a bucket told to an address."""
        arn = self._sns.create_topic(Name="dermbatch", Attributes={"push-endpoint": url})["TopicArn"]
        topic = {"Id": "dermbatch", "TopicArn": arn, "Events": ["s3:ObjectCreated:*"]}
        self.s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [topic]}
        )


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """Start all of it; about 10 s."""
    v2, v1, http = free_ports(3)
    fsid = str(uuid.uuid4())
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    configuration = folder / "ceph.conf"
    configuration.write_text(CONFIGURATION.format(fsid=fsid, v2=v2, v1=v1, http=http, folder=folder))
    keyring, monmap = str(folder / "keyring"), str(folder / "monmap")
    common = ["-c", str(configuration)]

    def done(name: str, *words: str) -> str:
        command = [program(name, PACKAGES), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def part(name: str, who: str, ready) -> Part:
        argv = [program(name, PACKAGES), *common, "-f", *who.split()]
        return Part(name, argv, base_environment(os.environ), folder / f"{name}.log", ready, grace=1)

    def serves() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{http}/", timeout=5).close()
        except OSError:
            return False
        return True

    for key, capabilities in KEYS.items():
        capability = [word for of, what in capabilities.items() for word in ("--cap", of, what)]
        done(
            "ceph-authtool",
            *([] if Path(keyring).exists() else ["-C"]),
            keyring,
            "--gen-key",
            "-n",
            key,
            *capability,
        )
    done("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]", monmap)
    done("ceph-mon", *common, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
    with ExitStack() as ending:

        def started(one: Part) -> None:
            one.start()
            ending.callback(one.stop)
            one.wait()

        started(part("ceph-mon", "-i a", lambda: True))
        osd = str(uuid.uuid4())
        done("ceph", *common, "--connect-timeout", "30", "osd", "new", osd)
        done("ceph-osd", *common, "-i", "0", "--mkfs", "--osd-uuid", osd)
        started(part("ceph-osd", "-i 0", lambda: "1 up" in done("ceph", *common, "osd", "stat")))
        words = "--uid", USER, "--display-name", USER, "--access-key", USER, "--secret-key", SECRET
        started(part("radosgw", "-n client.rgw.a", serves))
        done("radosgw-admin", *common, "user", "create", *words)
        yield Gateway(http)
