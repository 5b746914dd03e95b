"""`python -m dermascan` is the command line."""

from dermascan.cli import app

if __name__ == "__main__":
    app()
