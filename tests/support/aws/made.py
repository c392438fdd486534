"""Resources that moto is asked to make as the template says: load balancer, alarms, rules, their topic, a secret.

moto looks at what it is asked for: an unknown attribute or certificate, or a subnet that is not there, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

from tests.support.cloudformation import Resource

Properties = Mapping[str, Any]
Client = Callable[[str], Any]
"""A boto client of the service named."""


@dataclass(frozen=True, slots=True)
class Made:
    id: str
    """What `Ref` gives."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What `GetAtt` gives."""


def _key(client: Client, stack: str, said: Properties) -> Made:
    kms = client("kms")
    made = kms.create_key(Description=said["Description"], Policy=json.dumps(said["KeyPolicy"]))["KeyMetadata"]
    if said["EnableKeyRotation"]:
        kms.enable_key_rotation(KeyId=made["KeyId"])
    return Made(made["KeyId"], {"Arn": made["Arn"]})


def _topic(client: Client, stack: str, said: Properties) -> Made:
    return Made(client("sns").create_topic(Name=_named(stack, "topic"), Attributes=dict(said))["TopicArn"])


def _topic_policy(client: Client, stack: str, said: Properties) -> Made:
    policy = json.dumps(said["PolicyDocument"])
    for topic in said["Topics"]:
        client("sns").set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
    return Made(_named(stack, "policy"))


def _subscription(client: Client, stack: str, said: Properties) -> Made:
    return Made(client("sns").subscribe(**said)["SubscriptionArn"])


def _rule(client: Client, stack: str, said: Properties) -> Made:
    name, events = _named(stack, "rule"), client("events")
    events.put_rule(Name=name, Description=said["Description"], EventPattern=json.dumps(said["EventPattern"]))
    assert events.put_targets(Rule=name, Targets=said["Targets"])["FailedEntryCount"] == 0
    return Made(name)


def _alarm(client: Client, stack: str, said: Properties) -> Made:
    client("cloudwatch").put_metric_alarm(**{**said, "Threshold": float(said["Threshold"])})
    return Made(said["AlarmName"])


def _load_balancer(client: Client, stack: str, said: Properties) -> Made:
    elb, rest = client("elbv2"), dict(said)
    attributes = rest.pop("LoadBalancerAttributes")
    (made,) = elb.create_load_balancer(Name=_named(stack, "lb"), **rest)["LoadBalancers"]
    own = made["LoadBalancerArn"]
    elb.modify_load_balancer_attributes(LoadBalancerArn=own, Attributes=attributes)
    full = own.partition("loadbalancer/")[2]
    return Made(own, {"DNSName": made["DNSName"], "LoadBalancerFullName": full})


def _target_group(client: Client, stack: str, said: Properties) -> Made:
    elb, rest = client("elbv2"), dict(said)
    attributes = rest.pop("TargetGroupAttributes")
    (made,) = elb.create_target_group(Name=_named(stack, "tg"), **rest)["TargetGroups"]
    own = made["TargetGroupArn"]
    elb.modify_target_group_attributes(TargetGroupArn=own, Attributes=attributes)
    return Made(own, {"TargetGroupFullName": own.rpartition(":")[2]})


def _listener(client: Client, stack: str, said: Properties) -> Made:
    return Made(client("elbv2").create_listener(**said)["Listeners"][0]["ListenerArn"])


def _secret(client: Client, stack: str, said: Properties) -> Made:
    secrets = client("secretsmanager")
    text = secrets.get_random_password(**said["GenerateSecretString"])["RandomPassword"]
    name = _named(stack, "secret")
    return Made(secrets.create_secret(Name=name, Description=said["Description"], SecretString=text)["ARN"])


_MAKERS: Final[Mapping[str, Callable[[Client, str, Properties], Made]]] = {
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::ElasticLoadBalancingV2::Listener": _listener,
    "AWS::ElasticLoadBalancingV2::LoadBalancer": _load_balancer,
    "AWS::ElasticLoadBalancingV2::TargetGroup": _target_group,
    "AWS::Events::Rule": _rule,
    "AWS::KMS::Key": _key,
    "AWS::SNS::Subscription": _subscription,
    "AWS::SNS::Topic": _topic,
    "AWS::SNS::TopicPolicy": _topic_policy,
    "AWS::SecretsManager::Secret": _secret,
}


def makes(kind: str) -> bool:
    return kind in _MAKERS


def make(client: Client, stack: str, resource: Resource) -> Made:
    return _MAKERS[resource.type](client, stack, resource.properties)


def remove(client: Client, kind: str, own: str) -> None:
    """The rest goes with what it belongs to."""
    match kind:
        case "AWS::CloudWatch::Alarm":
            client("cloudwatch").delete_alarms(AlarmNames=[own])
        case "AWS::Events::Rule":
            client("events").remove_targets(Rule=own, Ids=["topic"])
            client("events").delete_rule(Name=own)
        case "AWS::SNS::Topic":
            client("sns").delete_topic(TopicArn=own)
        case "AWS::ElasticLoadBalancingV2::Listener":
            client("elbv2").delete_listener(ListenerArn=own)
        case "AWS::ElasticLoadBalancingV2::TargetGroup":
            client("elbv2").delete_target_group(TargetGroupArn=own)
        case "AWS::ElasticLoadBalancingV2::LoadBalancer":
            client("elbv2").delete_load_balancer(LoadBalancerArn=own)


def _named(stack: str, kind: str) -> str:
    return f"{stack}-{kind}-{token_hex(4)}"
