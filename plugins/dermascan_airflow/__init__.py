"""The parts of the plugin; Airflow itself loads `dermascan_plugin.py` alone."""
