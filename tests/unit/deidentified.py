"""Files that carry an identity, and what de-identification makes of them."""

import warnings
from io import BytesIO

from pydantic import SecretStr
from pydicom import dcmread

from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms

SALT = "a salt for tests, and long enough"
PSEUDONYMS = Pseudonyms(SecretStr(SALT))
DRAWN = phantom(4, height=96, width=128)
JPEG, PLAIN = dicom(DRAWN, identity=1), dicom(DRAWN, identity=1, sop_class=SECONDARY_CAPTURE, jpeg=False)
WORD = "Zqxsentinel"


def profile(**values):
    return Profile(name="test", **{"burned_in_text": "flag", **values})


def cleaned(data, pseudonyms=PSEUDONYMS, **values):
    return deidentify(data, profile(**values), pseudonyms, max_pixels=10**8)


def header(data):
    return dcmread(BytesIO(data))


def changed(data, change, **write):
    """A DICOM file with something done to its data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(BytesIO(data))
        change(dataset)
        file = BytesIO()
        dataset.save_as(file, **write)
    return file.getvalue()
