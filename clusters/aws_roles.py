"""Roles for the nodes of cluster.yaml on AWS: `python clusters/aws_roles.py BUCKET --region REGION`, once.

Without them `ray up` gives the head all rights over EC2 and every bucket. These give workers one bucket and the image,
the head besides that what starting and ending workers takes. With your own credentials; a second run renews them.
"""

import argparse
import contextlib
import json
from typing import Any

import boto3

HEAD, WORKER = "jasper-ray-head", "jasper-ray-worker"
ASSUME = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
Statement = dict[str, Any]


def worker_statements(bucket: str) -> list[Statement]:
    """One bucket, and images of the account's registry."""
    return [
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
            "Resource": f"arn:aws:s3:::{bucket}",
        },
        {
            "Effect": "Allow",
            "Action": [
                "s3:GetObject",
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        },
        {
            "Effect": "Allow",
            "Action": ["ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": "*",
        },
    ]


def head_statements(bucket: str, region: str, account: str) -> list[Statement]:
    """What a worker may, and starting and ending machines of this cluster in one region."""
    here = {"StringEquals": {"aws:RequestedRegion": region}}
    ours = {"StringEquals": {"aws:RequestedRegion": region, "aws:ResourceTag/ray-cluster-name": "jasper"}}
    machines = f"arn:aws:ec2:{region}:{account}:instance/*"
    return [
        *worker_statements(bucket),
        {"Effect": "Allow", "Action": ["ec2:Describe*", "ec2:RunInstances"], "Resource": "*", "Condition": here},
        {
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": "*",
            "Condition": {"StringEquals": {"aws:RequestedRegion": region, "ec2:CreateAction": "RunInstances"}},
        },
        {
            "Effect": "Allow",
            "Action": ["ec2:TerminateInstances", "ec2:StopInstances", "ec2:StartInstances", "ec2:CreateTags"],
            "Resource": machines,
            "Condition": ours,
        },
        {
            "Effect": "Allow",
            "Action": "ssm:GetParameters",
            "Resource": f"arn:aws:ssm:{region}::parameter/aws/service/*",
        },
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": f"arn:aws:iam::{account}:role/{WORKER}"},
    ]


def make_roles(bucket: str, region: str) -> dict[str, str]:
    """Make or renew both roles and their instance profiles; gives the profiles' ARNs."""
    account = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
    return {
        WORKER: _make_role(WORKER, worker_statements(bucket), region),
        HEAD: _make_role(HEAD, head_statements(bucket, region, account), region),
    }


def _make_role(name: str, statements: list[Statement], region: str) -> str:
    iam = boto3.client("iam", region_name=region)
    try:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(ASSUME))
    except iam.exceptions.EntityAlreadyExistsException:
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(ASSUME))
    policy = {"Version": "2012-10-17", "Statement": statements}
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_instance_profile(InstanceProfileName=name)
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if name not in [role["RoleName"] for role in profile["Roles"]]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(profile["Arn"])


def main() -> None:
    """Make the two roles that nodes of cluster.yaml have."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bucket", help="the bucket with data, checkpoints and bundles")
    parser.add_argument("--region", required=True, help="of cluster.yaml")
    arguments = parser.parse_args()
    for name, arn in make_roles(arguments.bucket, arguments.region).items():
        print(f"{name}: {arn}")


if __name__ == "__main__":
    main()
