"""Where a file says its picture comes from: whether a network generated it.

The IPTC's Digital Source Type in an XMP packet says so (IPTC Photo Metadata Standard 2023.1; ISO 16684-1). Tools
that write or copy pictures keep it, and other generators state it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MADE_UP = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

XMP_SYNTHETIC = f"""\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{_MADE_UP}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
"""The packet of a picture that a network generated."""


def is_said_synthetic(info: Mapping[Any, Any]) -> bool:
    """Whether the header that Pillow read contains such a packet."""
    packet = info.get("xmp", b"")
    return isinstance(packet, bytes) and _MADE_UP.encode() in packet
