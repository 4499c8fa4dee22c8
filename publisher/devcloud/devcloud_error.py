"""The error of the development cloud."""


class DevCloudError(Exception):
    """The development cloud cannot do it; the message says what to do and which log file to read."""
