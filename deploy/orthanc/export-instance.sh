#!/bin/sh
# export-instance.sh INSTANCE STUDY: from Orthanc's REST interface into the bucket, under exports/STUDY/INSTANCE.dcm.
# Needs curl and the AWS command line. Of the environment: ORTHANC_URL; ORTHANC_NETRC, a netrc file with user and
# password, readable by Orthanc only; BUCKET; and what the AWS command line reads (AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL ...).
set -eu
file=$(mktemp)
trap 'rm -f "$file"' EXIT
curl --fail --silent --show-error --netrc-file "$ORTHANC_NETRC" --output "$file" "$ORTHANC_URL/instances/$1/file"
aws s3 cp --only-show-errors "$file" "s3://$BUCKET/exports/$2/$1.dcm"
