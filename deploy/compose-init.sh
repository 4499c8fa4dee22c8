#!/bin/sh
# Creates the secrets that docker-compose.yml mounts. Each is readable by the one container user that needs it. Existing secrets are kept.
# With --rabbitmq the broker is RabbitMQ: start it with `docker compose --profile rabbitmq up --detach --scale redis=0`.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
# give FILE USER-ID: reads the content from standard input.
give() {
    if [ ! -s "secrets/$1" ]; then cat > "secrets/$1"; fi
    chmod 400 "secrets/$1"
    if [ "$(id -u)" = 0 ]; then chown "$2" "secrets/$1"; else sudo chown "$2" "secrets/$1"; fi
}

publisher=10001 postgres=70 redis=999 rabbitmq=100
if [ -e secrets/database_url ]; then
    echo "secrets/ already contains secrets; remove it to create new ones" >&2
    exit 1
fi
postgres_password=$(random) broker_password=$(random)
printf '%s\n' "$postgres_password" | give postgres_password "$postgres"
printf 'postgresql://publisher:%s@postgres/publisher\n' "$postgres_password" | give database_url "$publisher"
printf 'requirepass %s\nsave ""\nappendonly no\n' "$broker_password" | give redis_conf "$redis"
# A consumer acknowledges an upload when it has ended, which may take longer than the default of half an hour.
printf 'default_user = publisher\ndefault_pass = %s\nconsumer_timeout = 86400000\n' "$broker_password" | give rabbitmq_conf "$rabbitmq"
if [ "${1:-}" = --rabbitmq ]; then
    printf 'amqp://publisher:%s@rabbitmq//\n' "$broker_password" | give broker_url "$publisher"
else
    printf 'redis://:%s@redis:6379/0\n' "$broker_password" | give broker_url "$publisher"
fi
# A Fernet key: 32 random bytes in URL-safe base64.
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | give publisher_key "$publisher"
random | give flower_password "$publisher"
echo "Created the secrets in secrets/. Keep a copy of publisher_key with your backups."
