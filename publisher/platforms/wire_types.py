"""The cloud platforms of the API, and the elements that each adds to a published image and to a cloud account.

Here is what can be said on the wire. Whether a platform can be published to is the plugins' business. Platforms that
other packages bring stand behind those of the API; clients that know the API alone must not meet them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from publisher.platforms.fields import (
    CERTIFICATE_LIMIT,
    Document,
    Field,
    a_list,
    an_object,
    booleans,
    integers,
    secrets,
    strings,
    uris,
)
from publisher.platforms.platform import PlatformElement, brought
from publisher.platforms.target_formats import API_PLATFORMS


@dataclass(frozen=True, slots=True)
class PlatformTypes:
    """One cloud platform.

    name: `targetPlatform/type`, in lower case.
    label: what its types are called: PublishImage<label>, CredAccount<label>.
    publish_image, cred_account: what its types have beyond the abstract ones, in the order of the answers.
    aliases: other names that callers know it by.
    """

    name: str
    label: str
    publish_image: tuple[Field, ...]
    cred_account: tuple[Field, ...]
    aliases: tuple[str, ...] = ()

    @property
    def extension(self) -> bool:
        """Whether the API does not know it."""
        return self.name not in API_PLATFORMS

    @property
    def publish_image_type(self) -> str:
        """The name of the concrete type of its published images."""
        return f"PublishImage{self.label}"

    @property
    def cred_account_type(self) -> str:
        """The name of the concrete type of its accounts."""
        return f"CredAccount{self.label}"

    @property
    def secret_names(self) -> frozenset[str]:
        """The names of the secrets that an account may have."""
        return frozenset(field.name for field in self.cred_account if field.secret)

    def account_parts(self, document: Document) -> tuple[dict[str, Any], dict[str, str]]:
        """Split a `credAccount` into its elements in clear and its secrets. Elements of no account are left out.

        An empty secret counts as missing: some clients send an account back without the secret that they never saw.
        """
        given = {each.name: document[each.name] for each in self.cred_account if document.get(each.name) is not None}
        secrets = {name: str(value) for name, value in given.items() if name in self.secret_names and value}
        return {name: value for name, value in given.items() if name not in self.secret_names}, secrets


_LOGIN = (*strings("login"), *secrets("password"))
_CA_BUNDLE = (Field("caBundle", limit=CERTIFICATE_LIMIT),)
"""Ours, where the account names the addresses of its cloud. It is read and never written."""
_KEYSTONE = (*uris("glanceUrl", "keystoneUrl"), *_LOGIN, *_CA_BUNDLE, *strings("userDomain", "interface"))
"""The last two are ours as well; answers have them in JSON only."""
_AMAZON = (*strings("accessKeyId", "accountNumber", "keyPairName"), *secrets("secretAccessKeyId"))
_PORT = integers("port", minimum=1, maximum=65535)
_PROXY = (*strings("proxyHost"), *integers("proxyPort", minimum=1, maximum=65535))
_REGISTRY_IMAGE = strings("namespace", "repositoryName", "tagName")
# An account with certificates extends an intermediate type of the API: they come before what the platform adds.
_CERTIFICATES = (
    *uris("baseCertificatesUri"),
    *a_list("certificates", an_object("certificate"), secret=True),
    *a_list("certificateUris", uris("uri")),
)

_OF_THE_API: tuple[PlatformTypes, ...] = (
    PlatformTypes(
        "openstack",
        "OpenStack",
        (
            *strings("keystoneDomain", "keystoneProject", "displayName"),
            *booleans("publicImage"),
            *strings("tenantName"),
        ),
        (*_KEYSTONE, *strings("keystoneVersion")),
    ),
    PlatformTypes(
        "susecloud",
        "SuseCloud",
        (
            *strings("keystoneDomain", "keystoneProject", "displayName"),
            *booleans("publicImage"),
            *strings("tenantName"),
        ),
        _KEYSTONE,
    ),
    PlatformTypes(
        "cloudwatt",
        "Cloudwatt",
        (
            *strings("displayName", "keystoneDomain", "keystoneProject"),
            *booleans("publicImage"),
            *strings("tenantName"),
        ),
        _KEYSTONE,
    ),
    PlatformTypes("k5", "K5", strings("keystoneDomain", "keystoneProject", "displayName"), _LOGIN),
    PlatformTypes("aws", "Aws", strings("region"), (*_CERTIFICATES, *_AMAZON)),
    PlatformTypes("outscale", "Outscale", strings("bucket", "region"), _AMAZON),
    PlatformTypes(
        "azure",
        "Azure",
        strings("storageAccount", "container", "resourceGroup", "blob", "displayName", "region"),
        (
            *strings("tenantId", "subscriptionId", "applicationId"),
            *secrets("applicationKey"),
            *uris("endpointUrl"),
            *_CA_BUNDLE,
        ),
    ),
    PlatformTypes(
        "google",
        "Google",
        strings(
            "bucket",
            "bucketLocation",
            "diskNamePrefix",
            "description",
            "projectId",
            "storageClass",
            "zoneName",
        ),
        _CERTIFICATES,
    ),
    PlatformTypes("docker", "Docker", _REGISTRY_IMAGE, (*uris("endpointUrl"), *_LOGIN, *_CA_BUNDLE)),
    PlatformTypes("openshift", "OpenShift", _REGISTRY_IMAGE, (*uris("registryUrl"), *secrets("token"), *_CA_BUNDLE)),
    PlatformTypes(
        "vsphere",
        "VSphere",
        strings("datastore", "displayName", "esxHost", "network"),
        (*strings("hostname"), *_LOGIN, *_PORT, *_PROXY),
        aliases=("vcenter",),
    ),
    PlatformTypes(
        "vclouddirector",
        "VCloudDirector",
        strings("catalogName", "displayName", "vdcName"),
        (*strings("hostname", "organizationName"), *_LOGIN, *_PORT, *_PROXY),
        aliases=("vcd",),
    ),
    PlatformTypes(
        "cloudstack",
        "CloudStack",
        (
            *strings("description", "displayName"),
            *booleans("featuredEnabled", "passwordEnabled", "publicImage"),
            *strings("zoneName"),
        ),
        (*uris("endpointUrl"), *strings("publicApiKey"), *secrets("secretApiKey"), *_CA_BUNDLE),
    ),
    PlatformTypes("oracle", "Oracle", strings("computeEndPoint", "displayName"), (*_LOGIN, *strings("domainName"))),
)


def _fields(elements: tuple[PlatformElement, ...]) -> tuple[Field, ...]:
    makers = {"string": strings, "uri": uris, "boolean": booleans, "integer": integers, "secret": secrets}
    return tuple(field for each in elements for field in makers[each.kind](each.name))


PLATFORMS: tuple[PlatformTypes, ...] = (
    *_OF_THE_API,
    *(
        PlatformTypes(name, each.label, _fields(each.target_elements), _fields(each.account_elements))
        for name, each in brought().items()
    ),
)

_BY_NAME = {name: platform for platform in PLATFORMS for name in (platform.name, *platform.aliases)}


def find_platform(name: str) -> PlatformTypes | None:
    """The platform of that name or alias, in upper or lower case; None where there is none."""
    return _BY_NAME.get(name.strip().lower())
