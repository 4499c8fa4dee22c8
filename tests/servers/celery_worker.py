"""A Celery worker in its own process. It knows only the name of the publisher's task and prints each ticket id.

Run as `python -m tests.servers.celery_worker BROKER_URL QUEUE TASK`.
"""

import sys

from celery import Celery

if __name__ == "__main__":
    broker, queue, task = sys.argv[1:]
    app = Celery("test", broker=broker)
    app.conf.update(
        task_default_queue=queue, accept_content=["json"], worker_prefetch_multiplier=1, worker_redirect_stdouts=False
    )

    @app.task(name=task, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery has no types
    def publish(ticket_id: int) -> None:
        sys.stdout.write(f"{ticket_id}\n")
        sys.stdout.flush()

    app.worker_main(["worker", "--pool=solo", "--without-mingle", "--without-gossip", "--loglevel=WARNING"])
