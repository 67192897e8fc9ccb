"""The dashboard: what the session sees, over HTTP."""
