"""An Airflow DAG: the night of each day, once its logs are there. Copy it into the folder of DAGs.

A refusal (exit code 3) skips what follows and is no failure; a killed task is tried again and goes on where it was.
"""

from datetime import datetime, timedelta

from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator

CONFIG = "/shared/my_shop.yaml"

with DAG(
    dag_id="equipoise_nightly",
    schedule="15 1 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
) as dag:
    # `ds` is the day whose interval has ended.
    BashOperator(
        task_id="night",
        bash_command=f"equipoise nightly {CONFIG} --day {{{{ ds }}}}",
        skip_on_exit_code=3,
    )
