"""The platform `memory`: it requires nothing, and has a format that the API does not know."""

from publisher.platforms.platform import Platform, secrets, strings

PLATFORM = Platform(
    name="memory",
    label="Memory",
    account_fields=(*strings("login"), *secrets("password")),
    target_fields=strings("displayName"),
    formats=("memorydisk",),
    takes=("raw", "ISO"),
    older=frozenset({"hide", "rename"}),
)
