"""What a worker of Celery loads: ``celery --app aind_etl.orchestration.celery_worker worker``.

The tasks are dagster-celery's. Nothing of them, or of the assets, belongs here.
"""

from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task

from aind_etl.orchestration.celery_runs import celery_arguments

app = make_app(celery_arguments())  # type: ignore[no-untyped-call]
execute_job = create_execute_job_task(app)
