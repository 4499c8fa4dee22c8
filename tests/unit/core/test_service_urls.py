"""Invalid URLs of the database or broker are refused at start. The error names the setting and hides the password."""

import pytest

from publisher.core.errors import ConfigurationError
from publisher.core.settings import Settings

BROKER, DATABASE = "PUBLISHER_BROKER_URL", "PUBLISHER_DATABASE_URL"
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        (BROKER, "redis://broker.example.com"),
        (BROKER, "redis://:p%40ss%2F@broker.example.com:6379/0"),
        (BROKER, "rediss://user:secret@[::1]:6380/15"),
        (BROKER, "redis+socket:///run/redis@1/redis.sock"),
        (BROKER, "redis+socket://:secret@/run/redis.sock"),
        (BROKER, "amqp://guest:guest@127.0.0.1:5672//"),
        (BROKER, "amqps://user:secret@mq.example.com/vhost"),
        (BROKER, "pyamqp://mq"),
        (DATABASE, "sqlite:////srv/a@b/publisher.db"),
        (DATABASE, "sqlite:///relative.db"),
        (DATABASE, "postgresql://u:p%40@db/x"),
        (DATABASE, "postgresql+psycopg://u:p@db:5432/x?sslmode=verify-full"),
        (DATABASE, "postgresql:///x?host=/run/postgresql"),
    ],
)
def test_valid_urls_are_accepted(variable: str, url: str) -> None:
    settings = Settings.from_environment({variable: url})
    assert url in (settings.broker_url, settings.database_url)


@pytest.mark.parametrize(
    ("variable", "url", "words"),
    [
        (BROKER, f"redis://:{SECRET}@more@host:6379/0", "%40"),
        (BROKER, f"redis://:{SECRET}/more@host:6379/0", "%2F"),
        (BROKER, f"redis://:{SECRET}?more@host:6379/0", "%3F"),
        (BROKER, f"redis://:{SECRET}#more@host:6379/0", "%23"),
        (BROKER, f"redis://:{SECRET}%@host:6379/0", "%25"),
        (BROKER, f"amqp://user:{SECRET}[@host:5672//", "%5B"),
        (BROKER, f"amqp://user:{SECRET};more@host:5672//", "%3B"),
        (BROKER, f"amqp://user:{SECRET}\n@host:5672//", "line break"),
        (BROKER, f"redis://user:{SECRET}", "port"),
        (BROKER, f"redis://:{SECRET}@host:http/0", "port"),
        (BROKER, f"redis://:{SECRET}@host:70000/0", "65535"),
        (BROKER, f"redis://:{SECRET}@host:6379/name", "number of a Redis database"),
        (BROKER, f"redis://:{SECRET}@one:6379,two:6379/0", "several hosts"),
        (BROKER, f"redis://:{SECRET}@one:6379;redis://:{SECRET}@two:6379", "encode"),
        (BROKER, f"amqp://user:{SECRET}@one;two", "several hosts"),
        (BROKER, f"rediss://:{SECRET}@host:6380/0?ssl_cert_reqs=none", "PUBLISHER_BROKER_TLS_VERIFY"),
        (BROKER, f"sentinel://:{SECRET}@host:26379/0", "rediss"),
        (BROKER, f"kafka://:{SECRET}@host:9092", "amqps"),
        (BROKER, f":{SECRET}@host:6379", "scheme"),
        (BROKER, "redis+socket://", "socket"),
        (DATABASE, f"postgresql://user:{SECRET}@more@host/x", "%40"),
        (DATABASE, f"postgresql://user:{SECRET}/more@host/x", "%2F"),
        (DATABASE, f"postgresql://user:{SECRET}%zz@host/x", "%25"),
        (DATABASE, f"postgresql://user:{SECRET}@one:5432,two:5432/x", "several hosts"),
        (DATABASE, f"postgresql://user:{SECRET}@host:port/x", "port"),
        (DATABASE, f"postgres://user:{SECRET}@host/x", "postgresql://"),
        (DATABASE, f"mysql+pymysql://user:{SECRET}@host/x", "postgresql://"),
        (DATABASE, f"user:{SECRET}@host/x", "scheme"),
        (DATABASE, f"sqlite://{SECRET}/publisher.db", "no host"),
    ],
)
def test_invalid_urls_are_refused_without_showing_the_password(variable: str, url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_environment({variable: url})
    message = str(refused.value)
    assert message.startswith(f"{variable}: ")
    assert words in message
    assert SECRET not in message
    assert "more" not in message
