"""Elements that the accounts and images of several platforms have."""

from __future__ import annotations

from publisher.platforms.fields import CERTIFICATE_LIMIT, Field, a_list, an_object, integers, secrets, strings, uris

LOGIN = (*strings("login"), *secrets("password"))
CA_BUNDLE = (Field("caBundle", limit=CERTIFICATE_LIMIT),)
"""Ours, for accounts that name the addresses of their cloud. It is read and never written."""
AMAZON = (*strings("accessKeyId", "accountNumber", "keyPairName"), *secrets("secretAccessKeyId"))
PORT = integers("port", minimum=1, maximum=65535)
PROXY = (*strings("proxyHost"), *integers("proxyPort", minimum=1, maximum=65535))
REGISTRY_IMAGE = strings("namespace", "repositoryName", "tagName")
CERTIFICATES = (
    *uris("baseCertificatesUri"),
    *a_list("certificates", an_object("certificate"), secret=True),
    *a_list("certificateUris", uris("uri")),
)
"""An account with certificates extends an intermediate type of the API: they precede what the platform adds."""
