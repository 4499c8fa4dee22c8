"""The platform `nimbus`: an address, an access key with its secret, and a space that images go to."""

from typing import Any

from publisher.core.errors import InvalidRequest
from publisher.platforms.platform import Platform, secrets, strings, uris


class Nimbus(Platform):
    def identity(self, account: dict[str, Any], target: dict[str, Any]) -> list[Any]:
        return [account.get("endpointUrl"), account.get("accessKey")]

    def own_target_check(self, account: dict[str, Any], target: dict[str, Any]) -> None:
        if "/" not in (target.get("space") or ""):
            raise InvalidRequest("is needed: the space that the image goes to, such as lab/web", field="space")


PLATFORM = Nimbus(
    name="nimbus",
    label="Nimbus",
    account_fields=(*uris("endpointUrl"), *strings("accessKey"), *secrets("secretKey")),
    target_fields=strings("displayName", "space"),
    required=("endpointUrl", "accessKey", "secretKey"),
    addresses=("endpointUrl",),
    names=("displayName", "space"),
    formats=("nimbusdisk",),
    takes=("raw",),
    secret_routing=("endpointUrl", "accessKey"),
    hints={"space": "The part of Nimbus that the image goes to"},
)
