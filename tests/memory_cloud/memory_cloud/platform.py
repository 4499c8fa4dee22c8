"""The platform `memory`: it asks for nothing, and has a format that the API does not know."""

from publisher.platforms.platform import Platform, PlatformElement

PLATFORM = Platform(
    formats=("memorydisk",),
    takes=("raw", "ISO"),
    label="Memory",
    account_elements=(PlatformElement("login"), PlatformElement("password", "secret")),
    target_elements=(PlatformElement("displayName"),),
)
