#!/bin/sh
# Installs what the tests need and no wheel carries: RabbitMQ; Chromium, which reads the pages; faketime, for workers whose
# clocks are wrong; tinyproxy, and a network whose only way out it is (iproute2); and the programs that read what we give them: promtool the alert rules, docker-compose, kubectl and
# systemd-analyze the files in deploy, qemu-img the demo's images, curl the downloads. Redis and PostgreSQL come from wheels,
# but the wheel's PostgreSQL lacks the extension pg_trgm, so a second one is installed.
# As root on Debian or Ubuntu; anywhere else it says what will be skipped. Starts no service. Quick when all is there.
set -eu

missing=
if ! [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && ! command -v rabbitmq-server >/dev/null 2>&1; then
    missing=' rabbitmq-server'
fi
ls /usr/share/postgresql/*/extension/pg_trgm.control >/dev/null 2>&1 || missing="$missing postgresql"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v faketime >/dev/null 2>&1 || missing="$missing faketime"
command -v promtool >/dev/null 2>&1 || missing="$missing prometheus"
command -v tinyproxy >/dev/null 2>&1 || missing="$missing tinyproxy-bin"
command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
command -v curl >/dev/null 2>&1 || missing="$missing curl"
command -v kubectl >/dev/null 2>&1 || missing="$missing kubernetes-client"
command -v qemu-img >/dev/null 2>&1 || missing="$missing qemu-utils"
command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1 || missing="$missing docker-compose"
[ -n "$missing" ] || exit 0
skipped='the tests that need it are skipped (with CI set, they fail)'
if [ "$(id -u)" -ne 0 ]; then
    echo "install_servers: no$missing, and not root to install it: $skipped" >&2
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "install_servers: no$missing, and no apt-get to install it with: $skipped" >&2
    exit 0
fi

# Debian starts the services of what it installs, unless this file says that it must not (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
kept=
restore() {
    rm -f "$policy"
    if [ -n "$kept" ]; then mv "$kept" "$policy"; fi
}
if [ -e "$policy" ] || [ -L "$policy" ]; then
    kept=$policy.install_servers.$$
    mv "$policy" "$kept"
fi
trap restore EXIT
trap 'exit 130' INT TERM HUP
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "install_servers: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
for package in $missing; do
    # Not every release of Debian and Ubuntu has all of them as packages.
    apt-get -q install -y --no-install-recommends "$package" || echo "install_servers: no $package: $skipped" >&2
done
