"""What a server is pointed at: `uvicorn demo_app.main:app`."""

from demo_app.application import create_app

app = create_app()
