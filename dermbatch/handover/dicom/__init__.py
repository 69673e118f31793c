"""The results of a DICOM image as DICOM objects that a PACS takes: segmentation, report, enhanced picture.

The only place that knows highdicom. Importing :mod:`dermbatch.handover.dicom.objects` takes a second and 60 MB, so
it happens only when such objects are first asked for.
"""
