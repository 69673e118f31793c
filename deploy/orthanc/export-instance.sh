#!/bin/sh
# export-instance.sh INSTANCE STUDY: from Orthanc's REST interface into the bucket, under exports/STUDY/INSTANCE.dcm.
# Needs curl and the AWS command line. Of the environment: ORTHANC_URL; ORTHANC_NETRC, a netrc file with user and
# password, readable by Orthanc only; BUCKET; and what the AWS command line reads (AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL ...).
# Tried up to TRIES times (8), after PAUSE seconds (2) and then twice as long each time: some four minutes. What could
# not be exported by then is a line "INSTANCE STUDY" of NOT_EXPORTED, to be given to this script again.
set -u
file=$(mktemp)
trap 'rm -f "$file"' EXIT
pause=${PAUSE:-2}
for try in $(seq "${TRIES:-8}"); do
   if curl --fail --silent --show-error --netrc-file "$ORTHANC_NETRC" --output "$file" "$ORTHANC_URL/instances/$1/file" &&
      aws s3 cp --only-show-errors "$file" "s3://$BUCKET/exports/$2/$1.dcm"; then
      exit 0
   fi
   if [ "$try" -lt "${TRIES:-8}" ]; then
      sleep "$pause"
      pause=$((pause * 2))
   fi
done
echo "$1 $2" >> "${NOT_EXPORTED:-/var/lib/orthanc/not-exported}"
exit 1
