"""What stores send: as their makers' documentation and source have it, and one of Ceph's gateway as it came.

Ids and addresses are made up; the keys are ``folder one/a+b ü.dcm`` wherever they are encoded.
"""

import json

KEY = "folder one/a+b ü.dcm"

# Amazon S3 User Guide, "Event message structure"; keys are URL-encoded, with + for a space.
AWS = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-west-2",
            "eventTime": "1970-01-01T00:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "testConfigRule",
                "bucket": {
                    "name": "exports",
                    "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                    "arn": "arn:aws:s3:::exports",
                },
                "object": {
                    "key": "folder+one/a%2Bb+%C3%BC.dcm",
                    "size": 1024,
                    "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "sequencer": "0055AED6DCD90281E5",
                },
            },
        }
    ]
}

# Amazon S3 User Guide, "Event message structure": sent once when notifications are set up.
AWS_TEST = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2014-10-13T15:57:02.089Z",
    "Bucket": "exports",
    "RequestId": "5582815E1AEA5ADF",
    "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
}

# Amazon S3 User Guide, "EventBridge event message structure"; keys are as they are.
EVENTBRIDGE = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": "111122223333",
    "time": "2021-11-12T00:00:00Z",
    "region": "ca-central-1",
    "resources": ["arn:aws:s3:::exports"],
    "detail": {
        "version": "0",
        "bucket": {"name": "exports"},
        "object": {
            "key": KEY,
            "size": 5,
            "etag": "b1946ac92492d2347c6235b4d2611184",
            "sequencer": "617f08299329d189",
        },
        "request-id": "N4N7GDK58NMKJ12R",
        "requester": "123456789012",
        "source-ip-address": "1.2.3.4",
        "reason": "PutObject",
    },
}

# MinIO, internal/event/target/webhook.go and cmd/event-notification.go: Go's url.QueryEscape, slashes and all.
MINIO = {
    "EventName": "s3:ObjectCreated:Put",
    "Key": f"exports/{KEY}",
    "Records": [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2019-05-18T07:34:32Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": {"principalId": "minio"},
            "requestParameters": {"accessKey": "minio", "region": "", "sourceIPAddress": "172.18.0.1"},
            "responseElements": {
                "x-amz-request-id": "159FB6B233B08AF0",
                "x-minio-origin-endpoint": "http://172.18.0.6:9000",
            },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {
                    "name": "exports",
                    "ownerIdentity": {"principalId": "minio"},
                    "arn": "arn:aws:s3:::exports",
                },
                "object": {
                    "key": "folder+one%2Fa%2Bb+%C3%BC.dcm",
                    "size": 488,
                    "eTag": "f22d66a7d0dbbc4a7cf1122eeeb1a106",
                    "contentType": "application/octet-stream",
                    "userMetadata": {"content-type": "application/octet-stream"},
                    "sequencer": "159FB6B233E5A0B1",
                },
            },
            "source": {"host": "172.18.0.1", "port": "", "userAgent": "MinIO (linux; amd64)"},
        }
    ],
}

# Sent by the gateway of Ceph 16.2 (test_ceph_notifications.py has it send more); keys are as they are.
CEPH = {
    "Records": [
        {
            "eventVersion": "2.2",
            "eventSource": "ceph:s3",
            "awsRegion": "",
            "eventTime": "2026-11-21T15:30:14.358761Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "tester"},
            "requestParameters": {"sourceIPAddress": ""},
            "responseElements": {
                "x-amz-request-id": "623c0d80-6c66-44c3-a9a7-a890e5ce24c1.4108.8297461299213882369",
                "x-amz-id-2": "100c-default-default",
            },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "n",
                "bucket": {
                    "name": "exports",
                    "ownerIdentity": {"principalId": "tester"},
                    "arn": "arn:aws:s3:::exports",
                    "id": "623c0d80-6c66-44c3-a9a7-a890e5ce24c1.4115.1",
                },
                "object": {
                    "key": KEY,
                    "size": 5,
                    "eTag": "5d41402abc4b2a76b9719d911017c592",
                    "versionId": "",
                    "sequencer": "06B9016B23588815",
                    "metadata": [{"key": "x-amz-date", "val": "20261121T153012Z"}],
                    "tags": [],
                },
            },
            "eventId": "1795275014.361256.5d41402abc4b2a76b9719d911017c592",
            "opaqueData": "",
        }
    ]
}


def in_sns(message):
    """Amazon SNS Developer Guide, "HTTP/HTTPS notification JSON format"."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "Subject": "Amazon S3 Notification",
        "Message": json.dumps(message),
        "Timestamp": "2012-05-02T00:54:06.655Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLEw6JRN",
        "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem",
        "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
    }


SUBSCRIBE_URL = (
    "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription"
    "&TopicArn=arn:aws:sns:us-west-2:123456789012:MyTopic&Token=2336412f37"
)

# Amazon SNS Developer Guide, "HTTP/HTTPS subscription confirmation JSON format".
SNS_SUBSCRIPTION = {
    "Type": "SubscriptionConfirmation",
    "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
    "Token": "2336412f37",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
    "Message": "You have chosen to subscribe to the topic.\nTo confirm, visit the SubscribeURL.",
    "SubscribeURL": SUBSCRIBE_URL,
    "Timestamp": "2012-04-26T20:45:04.751Z",
    "SignatureVersion": "1",
    "Signature": "EXAMPLEpH+",
    "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem",
}
