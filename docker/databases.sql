-- Run once by the database's image, on an empty volume: a role and a database for each server.
\getenv prefect_password PREFECT_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD

CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE DATABASE prefect OWNER prefect;

CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE mlflow OWNER mlflow;

-- Neither server reaches the other's data.
REVOKE CONNECT ON DATABASE prefect, mlflow FROM PUBLIC;
