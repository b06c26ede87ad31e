"""One file per endpoint, each with a `router`; a new one joins the list in `app.py`."""
