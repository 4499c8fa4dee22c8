"""The plugin for `nimbus`."""

from collections.abc import Callable
from typing import ClassVar, Self

from publisher.core.cloud_check import Explored
from publisher.core.ticket import Account, Target
from publisher.outbound.policy import OutboundPolicy
from workers.clouds.base import Timeouts
from workers.clouds.openstack.publisher import OpenStackPublisher


class NimbusPublisher(OpenStackPublisher):
    platform: ClassVar[str] = "nimbus"

    @classmethod
    def connect(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Self:
        return super().connect(*_of_openstack(account, target), timeouts, policy, check)

    @classmethod
    def explore(
        cls,
        account: Account,
        target: Target,
        timeouts: Timeouts,
        policy: OutboundPolicy,
        check: Callable[[], None] = lambda: None,
    ) -> Explored:
        return super().explore(*_of_openstack(account, target), timeouts, policy, check)


def _of_openstack(account: Account, target: Target) -> tuple[Account, Target]:
    fields, secrets = account.fields, account.secrets
    domain, _, project = str(target.fields.get("space") or "").partition("/")
    return (
        Account(
            "openstack",
            {"keystoneUrl": fields["endpointUrl"], "login": fields["accessKey"]},
            {"password": secrets["secretKey"]},
        ),
        Target("openstack", target.fields | {"keystoneDomain": domain, "keystoneProject": project}),
    )
