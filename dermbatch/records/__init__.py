"""The records: what was asked (order, batch, manifest), what travels (job), what came out (result, failure).

All are JSON with these field names, in the object store and in Celery messages alike. Times are UTC, ISO 8601;
durations are seconds; pixel coordinates are (row, column) from the top left of the image as displayed.
"""
