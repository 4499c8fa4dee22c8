"""The service's worker on a Redis whose messages are given back after 5 s without an acknowledgement, where Celery's
default is an hour. `celery -A tests.servers.impatient_worker worker`.

Over Redis the service does without acknowledgements (docs/decisions/0002). With ACKNOWLEDGING=late they are as Celery
has them: then messages are given back indeed.
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
