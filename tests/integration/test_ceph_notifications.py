"""Ceph's real gateway tells the webhook of objects: under their own keys, and of nothing but creations."""

import threading

import pytest
from ceph import gateway

from dermbatch.settings import WatchSettings
from orchestrator.watching.news.events import ObjectEvent
from orchestrator.watching.news.webhook import Webhook


class Heard:
    """Events, and a way to wait for one."""

    def __init__(self):
        self.events = set()
        self._more = threading.Condition()

    def take(self, events):
        with self._more:
            self.events.update(events)
            self._more.notify_all()

    def wait_for(self, key):
        with self._more:
            assert self._more.wait_for(lambda: ObjectEvent("exports", key) in self.events, 30)


@pytest.mark.timeout(180)
def test_objects_are_told_of_under_their_own_keys(tmp_path):
    heard = Heard()
    with gateway(tmp_path) as ceph, Webhook(WatchSettings(), heard.take) as webhook:
        ceph.s3.create_bucket(Bucket="exports")
        ceph.notify("exports", f"http://127.0.0.1:{webhook.port}/events")
        keys = ["plain.png", "folder one/a+b ü%20.dcm", "copied", "in parts"]
        ceph.s3.put_object(Bucket="exports", Key=keys[0], Body=b"one")
        ceph.s3.put_object(Bucket="exports", Key=keys[1], Body=b"two")
        ceph.s3.copy_object(Bucket="exports", Key=keys[2], CopySource={"Bucket": "exports", "Key": keys[0]})
        upload = {"Bucket": "exports", "Key": keys[3]}
        upload["UploadId"] = ceph.s3.create_multipart_upload(**upload)["UploadId"]
        part = ceph.s3.upload_part(**upload, PartNumber=1, Body=b"three")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        ceph.s3.complete_multipart_upload(**upload, MultipartUpload=parts)
        ceph.s3.delete_object(Bucket="exports", Key=keys[0])
        ceph.s3.put_object(Bucket="exports", Key="last", Body=b"four")
        for key in (*keys, "last"):
            heard.wait_for(key)
    assert heard.events == {ObjectEvent("exports", key) for key in (*keys, "last")}
