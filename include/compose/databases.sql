-- Run once, when PostgreSQL's volume is new: MLflow's database beside Airflow's.
CREATE DATABASE mlflow;
