"""An example for each command, as its help shows it."""

from __future__ import annotations

EXAMPLES = {
    "run": "dermbatch run export/ scans.zip --out results",
    "samples": "dermbatch samples images --count 24",
    "up": "dermbatch up --desk",
    "down": "dermbatch down",
    "desk": "dermbatch desk",
    "submit": "dermbatch submit s3://archive/2026/ --include '*.dcm' --batch archive-2026",
    "resegment": "dermbatch resegment archive-2026 --model segment=segment_unet@2",
    "status": "dermbatch status archive-2026 --watch",
    "fetch": "dermbatch fetch archive-2026 --out results",
    "verify": "dermbatch verify archive-2026",
    "pause": "dermbatch pause archive-2026",
    "resume": "dermbatch resume archive-2026",
    "cancel": "dermbatch cancel archive-2026",
    "prioritize": "dermbatch prioritize archive-2026 --lane live",
    "retry": "dermbatch retry archive-2026 --reason attempts_exhausted",
    "reconcile": "dermbatch reconcile",
    "reidentify": "dermbatch reidentify archive-2026 --key private.key",
    "keys new": "dermbatch keys new private.key",
    "watch": "dermbatch watch s3://inbox/clinic-a/",
    "canary start": "dermbatch canary start new-unet --model segment=segment_unet@2 --share 0.1",
    "canary stop": "dermbatch canary stop new-unet",
    "canary report": "dermbatch canary report new-unet",
    "rules check": "dermbatch rules check rules.yaml",
    "rules test": "dermbatch rules test rules.yaml s3://inbox/clinic-a/1.dcm",
    "audit": "dermbatch audit --object s3://inbox/clinic-a/1.dcm --since 2026-01-01",
    "audit verify": "dermbatch audit verify",
    "models": "dermbatch models",
    "doctor": "dermbatch doctor",
}
