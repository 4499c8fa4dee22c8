"""The service's worker on a Redis that redelivers messages after 5 s without an acknowledgement; Celery's default is
an hour. Run `python -m workers --app tests.servers.impatient_worker`.

Over Redis the service uses no acknowledgements (docs/decisions/0002). With ACKNOWLEDGING=late it uses Celery's own,
and messages are redelivered.
"""

import os

from kombu.transport.redis import Channel

from workers.app import app

VISIBILITY_SECONDS = 5

app.conf.broker_transport_options |= {
    "visibility_timeout": VISIBILITY_SECONDS,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
if os.environ.get("ACKNOWLEDGING") == "late":
    app.conf.broker_transport_options["ack_emulation"] = True
    Channel.do_restore = True
