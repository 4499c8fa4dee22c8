"""The plugin for `nimbus`."""

from collections.abc import Callable
from typing import ClassVar, Self

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
        fields, secrets = account.fields, account.secrets
        account = Account(
            "openstack",
            {"keystoneUrl": fields["endpointUrl"], "login": fields["accessKey"]},
            {"password": secrets["secretKey"]},
        )
        domain, _, project = target.fields["space"].partition("/")
        target = Target("openstack", target.fields | {"keystoneDomain": domain, "keystoneProject": project})
        return super().connect(account, target, timeouts, policy, check)
