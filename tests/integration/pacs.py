"""A real PACS: Debian's Orthanc with its DICOMweb plugin, and what talks to it as other devices do."""

import base64
import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass

from pydantic import SecretStr

from dermbatch.settings.destinations import DicomwebSettings
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part
from tests.needed import program

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
USER, PASSWORD = "dermbatch", "open sesame: ümlaut"


def dciodvfy(path):
    """Errors that dicom3tools' judge finds in a DICOM file."""
    ended = subprocess.run(
        [program("dciodvfy", "dicom3tools"), path], check=False, capture_output=True, text=True, errors="replace"
    )
    lines = (ended.stdout + ended.stderr).splitlines()
    assert lines, "it says at least what kind of object it is"
    return [line for line in lines if line.startswith("Error")]


@dataclass
class Pacs:
    """Orthanc under way, as its REST and DICOMweb interfaces and dcmtk's programs see it."""

    part: Part
    http: int
    dicom: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http}/dicom-web"

    def settings(self, **changes):
        named = {"url": self.url, "user": USER, "password": SecretStr(PASSWORD), "timeout": 20, **changes}
        return DicomwebSettings(**named)

    def start(self):
        self.part.start()
        self.part.wait()

    def ask(self, path, *, body=None, accept="application/json", method=None):
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}", "Accept": accept}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}{path}", data=body, headers=headers, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers, answer.read()

    def json(self, path):
        return json.loads(self.ask(path)[1])

    def store(self, *paths):
        """Send files by C-STORE, each as it is."""
        words = ["--aetitle", "CAMERA", "--call", "ORTHANC", "--propose-jpeg8", "127.0.0.1", str(self.dicom)]
        subprocess.run([program("storescu", "dcmtk"), *words, *paths], check=True, capture_output=True, timeout=60)

    def take(self, path):
        """Put a file there by REST; its identifier, none where Orthanc does not take it."""
        try:
            return json.loads(self.ask("/instances", body=path.read_bytes())[1])["ID"]
        except urllib.error.HTTPError as error:
            error.close()
            return None

    def media(self, instances):
        """Instances as a zip with a DICOMDIR."""
        body = json.dumps(instances).encode()
        return self.ask("/tools/create-media", body=body, accept="application/zip")[1]

    def forget(self):
        for patient in self.json("/patients"):
            self.ask(f"/patients/{patient}", method="DELETE")

    def instances(self):
        return self.json("/instances")

    def archive(self, study, kind):
        """A study as a zip: ``archive`` (folders by patient, study and series) or ``media`` (with a DICOMDIR)."""
        return self.ask(f"/studies/{study}/{kind}", accept="application/zip")[1]

    def found(self, study_uid, **wanted):
        """QIDO-RS: the instances of a study."""
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        return self.json(f"/dicom-web/studies/{study_uid}/instances?{query}")

    def studies(self, **wanted):
        """QIDO-RS: studies."""
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        return self.json(f"/dicom-web/studies?{query}&includefield=ModalitiesInStudy")

    def retrieved(self, study_uid):
        """WADO-RS: every file of a study."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        headers, body = self.ask(f"/dicom-web/studies/{study_uid}", accept=accept)
        boundary = re.search(r'boundary="?([^";]+)', headers["Content-Type"])[1]
        parts = body.split(b"--" + boundary.encode())[1:-1]
        return [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts]


def orthanc(folder):
    """Orthanc, not started. It cannot be bound to an address, so it is told to take nothing from elsewhere."""
    http, dicom = free_ports(2)
    words = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomPort": dicom,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowEcho": False,
        "DicomCheckModalityHost": True,
        "DicomModalities": {"camera": ["CAMERA", "127.0.0.1", 104]},
        "OverwriteInstances": False,
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(words), encoding="utf-8")
    part = Part(
        name="orthanc",
        argv=[program("Orthanc", "orthanc"), str(configuration)],
        env=base_environment(os.environ),
        log=folder / "orthanc.log",
        probe=lambda: answers(http),
        grace=0.5,  # it waits for connections that are kept open; killed, it keeps what it has
    )
    return Pacs(part, http, dicom)


def answers(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/system", timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False
    return True
