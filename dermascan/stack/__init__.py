"""The embedded stack: object storage, Airflow and MLflow as processes of one machine."""
